//! What the service answers, and what of it outlives it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::executor::block_on;

use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[number; 38]).expect("38 bytes")
}

fn manifest(number: u8) -> ManifestId {
    ManifestId::from_bytes([number; 32])
}

fn announce(link_port: u16) -> Request {
    Request::Announce(Announce {
        manifest: manifest(1),
        link_port,
        addrs: LinkAddrs::default(),
        complete: false,
        site: None,
        want: 10,
    })
}

/// How many peers `asker` hears of; `None` where it is refused.
fn heard(service: &Service, asker: u8, link_port: u16) -> Option<usize> {
    match block_on(service.ask(peer(asker), HERE, announce(link_port))) {
        Response::Peers { peers, .. } => Some(peers.len()),
        _ => None,
    }
}

fn open(path: &Path) -> Service {
    Service::open(path, |notice| panic!("{notice:?}")).expect("the service starts")
}

#[test]
fn peers_hear_of_each_other_over_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = open(directory.path());
    assert_eq!([1, 2, 3].map(|number| heard(&service, number, 7)), [Some(0), Some(1), Some(2)]);
    assert_eq!(
        block_on(service.ask(peer(2), HERE, Request::Leave { manifest: manifest(1) })),
        Response::Done
    );
    drop(service);
    let service = open(directory.path());
    assert_eq!(heard(&service, 4, 0), Some(2), "who takes no links only asks");
    assert_eq!(heard(&service, 5, 0), Some(2), "and leaves no record");
}

#[test]
fn many_announcements_share_one_batch() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = open(directory.path());
    let answers: Vec<_> = (0..200).map(|number| service.ask(peer(number), HERE, announce(7))).collect();
    let heard = |response| match response {
        Response::Peers { peers, .. } => peers.len(),
        other => panic!("{other:?}"),
    };
    let counts: Vec<usize> = answers.into_iter().map(|answer| heard(block_on(answer))).collect();
    assert_eq!(counts.iter().max(), Some(&10));
}

#[test]
fn restored_records_live_for_an_interval_whatever_the_clock_says() {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let year = Duration::from_secs(365 * 86_400);
    // what was stored, relative to the wall clock: long ago, soon, far in the future
    let stored = |number: u8, expires| StoredRecord {
        manifest: manifest(1),
        peer: peer(number),
        record: Record {
            observed: HERE,
            addrs: LinkAddrs::of_announcement(HERE, 7, &[]),
            complete: true,
            site: None,
        },
        expires,
    };
    let mut core = Core::new(std::time::Instant::now());
    let changes = core.restore(
        vec![
            stored(1, wall - year),
            stored(2, wall + Duration::from_secs(1)),
            stored(3, wall + RECORD_TTL),
            stored(4, wall + year),
        ],
        wall,
    );
    assert_eq!(changes, []);
    let mut lives = |after: Duration| {
        core.registry.expire(Instant::START + after);
        core.registry.record_count()
    };
    let moment = Duration::from_secs(5);
    assert_eq!(lives(ANNOUNCE_INTERVAL - moment), 4);
    assert_eq!(lives(ANNOUNCE_INTERVAL + moment), 2);
    assert_eq!(lives(RECORD_TTL + moment), 0);
}

#[test]
fn a_renewal_without_news_is_not_written() {
    let mut core = Core::new(std::time::Instant::now());
    let question = |request| Asked { peer: peer(1), observed: HERE, request, answer: oneshot::channel().0 };
    let mut written = |request| {
        let mut changes = Vec::new();
        core.answer(&question(request), SystemTime::UNIX_EPOCH, &mut changes);
        changes.len()
    };
    assert_eq!([written(announce(7)), written(announce(7)), written(announce(8))], [1, 0, 1]);
}

/// Root may write anywhere, so the state directory is taken away instead of its permissions.
#[test]
fn what_cannot_be_written_is_refused_until_it_can() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    let notices = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&notices);
    let state = StateDir::open(&path).expect("a state directory");
    let database = state.database();
    // A directory in the place of the database file: it can neither be opened nor moved.
    fs::create_dir(&database).expect("a directory");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o700)).expect("permissions");
    let service = Service::start(state, move |notice| {
        assert!(matches!(notice, Notice::NotWritten(_)), "{notice:?}");
        counted.fetch_add(1, Ordering::Relaxed);
    })
    .expect("the service starts");
    assert_eq!([heard(&service, 1, 7), heard(&service, 2, 7)], [None, None]);
    fs::remove_dir(&database).expect("remove");
    assert!(heard(&service, 3, 7).is_some());
    assert_eq!(notices.load(Ordering::Relaxed), 1, "said once");
    assert_eq!(heard(&service, 1, 7), heard(&service, 1, 7));
    drop(service);
    assert_eq!(heard(&open(&path), 9, 0), Some(2), "1 and 3 were acknowledged");
}

#[test]
fn a_shelf_stands_over_a_restart_and_counts_as_a_copy() {
    let directory = tempfile::tempdir().expect("a directory");
    let shelve = |service: &Service, change: ShelfChange| {
        let shelve = Shelve { link_port: 7, addrs: LinkAddrs::default(), site: None, change };
        match block_on(service.ask(peer(1), HERE, Request::Shelve(Box::new(shelve)))) {
            Response::Shelved { there, .. } => there,
            other => panic!("{other:?}"),
        }
    };
    let holders = |service: &Service| {
        let (found, more) = block_on(service.holders(manifest(1), HERE, None)).expect("an answer");
        assert!(!more);
        found.into_iter().map(|found| (found.peer, found.complete)).collect::<Vec<_>>()
    };
    let service = open(directory.path());
    assert_eq!(heard(&service, 1, 7), Some(0), "it has a record of its own, of a part");
    let all = ShelfChange { anew: true, added: (0..200).map(manifest).collect(), ..ShelfChange::default() };
    let there = shelve(&service, all);
    assert_eq!((there.count, holders(&service)), (200, vec![(peer(1), true)]));
    assert_eq!([heard(&service, 1, 7), heard(&service, 2, 7)], [Some(0), Some(1)]);
    assert_eq!(holders(&service), [(peer(1), true), (peer(2), false)], "what was on its way counts less");
    drop(service);
    let service = open(directory.path());
    assert_eq!(holders(&service), [(peer(1), true), (peer(2), false)]);
    let keep = ShelfChange { before: there, ..ShelfChange::default() };
    assert_eq!(shelve(&service, keep), there, "nothing has to be told anew");
    let less = ShelfChange { before: there, removed: vec![manifest(1)], ..ShelfChange::default() };
    assert_eq!(shelve(&service, less).count, 199);
    assert_eq!(shelve(&service, ShelfChange { anew: true, ..ShelfChange::default() }).count, 0);
    drop(service);
    assert_eq!(holders(&open(directory.path())), [(peer(1), false), (peer(2), false)]);
}
