use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc;

use dft_protocol::geometry::PieceSize;
use dft_protocol::id::{ManifestId, PieceHash};
use dft_protocol::manifest::{Entry, Hints, Info, Manifest, Mtime};
use dft_protocol::path::{Name, SafePath};
use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::catalogue::name::Pattern;
use crate::catalogue::protocol::BLOCK_LEN_MAX;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The manifest of one piece whose hash is `content`.
fn manifest(content: u8) -> Manifest {
    let info = Info {
        name: Name::new("data").expect("a name"),
        piece_size: PieceSize::new(4096).expect("a piece size"),
        entries: vec![Entry::File { path: SafePath::root(), size: 5, mode: 0o644, mtime: Mtime::default() }],
        packs: vec![1],
        hashes: vec![PieceHash::from_bytes([content; 32])],
    };
    Manifest::new(info, Hints::default()).expect("a valid manifest")
}

fn name(number: u8) -> DatasetName {
    DatasetName::new(&format!("n{number}")).expect("a name")
}

fn config(directory: &Path) -> CatalogueConfig {
    CatalogueConfig { path: directory.join("catalogue.redb"), start_as: StartAs::AsBefore, open: true }
}

fn start(directory: &Path) -> Catalogue {
    Catalogue::start(config(directory), |notice| panic!("{notice}")).expect("it starts")
}

fn ask(catalogue: &Catalogue, request: Request) -> Response {
    let peer = PeerId::from_bytes(&[7; 38]).expect("38 bytes");
    block_on(catalogue.handle().ask(Caller { peer, observed: HERE, proven: false }, request))
}

fn put(catalogue: &Catalogue, number: u8, manifest: &Manifest) -> Response {
    let manifest_bytes = Some(manifest.encode());
    ask(catalogue, Request::Put { name: name(number), id: manifest.id(), manifest: manifest_bytes })
}

fn listed(catalogue: &Catalogue) -> BTreeMap<DatasetName, ManifestId> {
    match ask(catalogue, Request::List { pattern: Pattern::all(), after: None }) {
        Response::Records { records, next: None } => {
            records.into_iter().map(|record| (record.name, record.id)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn is_refused(response: &Response, with: &str) -> bool {
    matches!(response, Response::Refused(reason) if reason.as_str().contains(with))
}

#[test]
fn only_the_manifest_itself_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalogue = start(directory.path());
    let (one, two) = (manifest(1), manifest(2));
    let put_bytes = |bytes: Option<Vec<u8>>| {
        ask(&catalogue, Request::Put { name: name(1), id: one.id(), manifest: bytes })
    };
    assert_eq!(put_bytes(None), Response::Wanted);
    let bytes = one.encode();
    let cases: &[(Vec<u8>, &str)] = &[
        (two.encode(), "another id"),
        (Vec::new(), "not valid"),
        (bytes[..bytes.len() - 1].to_vec(), "not valid"),
        ([&bytes[..], &[0]].concat(), "not valid"),
        (vec![0x9f; BLOCK_LEN_MAX], "not valid"),
    ];
    for (bytes, reason) in cases {
        let response = put_bytes(Some(bytes.clone()));
        assert!(is_refused(&response, reason), "{reason}: {response:?}");
    }
    assert_eq!(listed(&catalogue), BTreeMap::new());
    let hints = Hints { trackers: vec!["/ip4/192.0.2.7/tcp/1".into()], ..Hints::default() };
    let hinted = one.clone().with_hints(hints).expect("hints").encode();
    assert_eq!(put_bytes(Some(hinted)), Response::Stored { created: true });
    match ask(&catalogue, Request::Get { name: name(1), manifest: true }) {
        Response::Found { block, .. } => assert_eq!(block, one.encode(), "hints are dropped"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_that_are_not_there_are_missing() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalogue = start(directory.path());
    let one = manifest(1);
    put(&catalogue, 1, &one);
    let block = |id, offset| ask(&catalogue, Request::Block { id, offset });
    assert_eq!(block(one.id(), 0), Response::Block(one.encode()));
    let block_len = u32::try_from(BLOCK_LEN_MAX).expect("a length");
    for offset in [1, block_len, block_len - 1, u32::MAX] {
        assert_eq!(block(one.id(), offset), Response::Missing, "{offset}");
    }
    assert_eq!(block(manifest(2).id(), 0), Response::Missing);
}

#[test]
fn a_damaged_catalogue_is_kept_and_refuses_everything_about_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalogue = start(directory.path());
    for number in 0..50 {
        put(&catalogue, number, &manifest(number));
    }
    drop(catalogue);
    let path = config(directory.path()).path;
    let whole = fs::read(&path).expect("the file");
    let damages: [(&str, Vec<u8>); 3] = [
        ("text", b"this is no database".repeat(1000)),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("pages", [&whole[..4096], &vec![0x5a; whole.len() - 4096][..]].concat()),
    ];
    for (damage, content) in damages {
        fs::write(&path, &content).expect("write");
        let (notify, notices) = mpsc::channel();
        let catalogue =
            Catalogue::start(config(directory.path()), move |notice| notify.send(notice).expect("a test"))
                .expect("it starts");
        let refusals = [
            put(&catalogue, 1, &manifest(2)),
            ask(&catalogue, Request::List { pattern: Pattern::all(), after: None }),
            ask(&catalogue, Request::Get { name: name(1), manifest: false }),
            ask(&catalogue, Request::Changes { since: 0 }),
        ];
        for response in refusals {
            assert!(is_refused(&response, "cannot be read"), "{damage}: {response:?}");
        }
        // Nodes are no part of the file.
        assert_eq!(ask(&catalogue, Request::LeaveNode), Response::Done);
        drop(catalogue);
        let notices: Vec<Notice> = notices.into_iter().collect();
        assert!(matches!(notices[..], [Notice::CatalogueFails(_)]), "{damage}: {notices:?}");
        assert!(fs::metadata(&path).is_ok(), "{damage}: the file stays");
    }
    fs::write(&path, &whole).expect("write");
    assert_eq!(listed(&start(directory.path())).len(), 50);
}

#[test]
fn a_file_that_could_not_be_used_is_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = config(directory.path()).path;
    fs::create_dir(&path).expect("a directory in the place of the file");
    let catalogue = Catalogue::start(config(directory.path()), |_| ()).expect("it starts");
    assert!(is_refused(&put(&catalogue, 1, &manifest(1)), "cannot be read"));
    fs::remove_dir(&path).expect("removed");
    // It is tried once a second; whoever asks until then is refused.
    while put(&catalogue, 1, &manifest(1)) != (Response::Stored { created: true }) {
        std::thread::yield_now();
    }
    drop(catalogue);
    assert_eq!(listed(&start(directory.path())).len(), 1);
}

#[test]
fn a_history_says_when_it_is_too_old() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalogue = start(directory.path());
    for number in 1..=3 {
        put(&catalogue, number, &manifest(number));
    }
    ask(&catalogue, Request::Remove { name: name(1), id: manifest(1).id(), forget: true });
    let changes = |since| match ask(&catalogue, Request::Changes { since }) {
        Response::Changes { too_old, changes, sequence } => {
            (too_old, changes.iter().map(|change| change.sequence).collect::<Vec<_>>(), sequence)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(changes(0), (false, vec![2, 3, 4], 4));
    assert_eq!(changes(3), (false, vec![4], 4));
    assert_eq!(changes(4), (false, vec![], 4));
    assert_eq!(changes(5), (true, vec![], 4), "a history that is ahead is another one");
}

#[derive(Clone, Debug)]
enum Act {
    Put(u8, u8),
    Remove(u8, u8, bool),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u8).prop_map(|(name, content)| Act::Put(name, content)),
        3 => (0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(name, content, forget)| Act::Remove(name, content, forget)),
        1 => Just(Act::Restart),
    ]
}

/// What a name must answer: the content that it belongs to, and whether that is there.
type Model = BTreeMap<u8, (u8, bool)>;

fn expected(model: &mut Model, act: &Act) -> Response {
    match *act {
        Act::Put(name, content) => match model.get(&name) {
            Some(&(owner, live)) if owner != content => {
                Response::Taken { id: manifest(owner).id(), removed: !live }
            }
            Some((_, true)) => Response::Stored { created: false },
            _ => {
                model.insert(name, (content, true));
                Response::Stored { created: true }
            }
        },
        Act::Remove(name, content, forget) => match model.get(&name).copied() {
            None => Response::Removed { removed: false },
            Some((owner, live)) if owner != content => {
                Response::Taken { id: manifest(owner).id(), removed: !live }
            }
            Some((_, live)) => {
                if forget {
                    model.remove(&name);
                } else {
                    model.insert(name, (content, false));
                }
                Response::Removed { removed: live || forget }
            }
        },
        Act::Restart => Response::Done,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Beside a model of three names and three contents: every answer, and every list.
    #[test]
    fn names_are_written_once(acts in proptest::collection::vec(act(), 1..25)) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut catalogue = Some(start(directory.path()));
        let mut model = Model::new();
        for act in acts {
            let expected = expected(&mut model, &act);
            let running = catalogue.as_ref().expect("it runs");
            let answered = match act {
                Act::Put(number, content) => put(running, number, &manifest(content)),
                Act::Remove(number, content, forget) => {
                    ask(running, Request::Remove { name: name(number), id: manifest(content).id(), forget })
                }
                Act::Restart => {
                    drop(catalogue.take());
                    catalogue = Some(start(directory.path()));
                    Response::Done
                }
            };
            prop_assert_eq!(answered, expected);
            let running = catalogue.as_ref().expect("it runs");
            let live: BTreeMap<DatasetName, ManifestId> = model
                .iter()
                .filter(|(_, (_, live))| *live)
                .map(|(number, (content, _))| (name(*number), manifest(*content).id()))
                .collect();
            for (name, id) in &live {
                let found = ask(running, Request::Get { name: name.clone(), manifest: true });
                let whole = matches!(&found, Response::Found { block, .. }
                    if Manifest::decode(block).is_ok_and(|manifest| manifest.id() == *id));
                prop_assert!(whole, "{:?}", found);
            }
            prop_assert_eq!(listed(running), live);
        }
    }
}
