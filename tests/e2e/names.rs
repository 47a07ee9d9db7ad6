//! The catalogue of a tracker on a disk that fills up.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::mpsc;

use dft_protocol::geometry::PieceSize;
use dft_protocol::id::{PeerId, PieceHash};
use dft_protocol::manifest::{Entry, Hints, Info, Manifest, Mtime};
use dft_protocol::path::{Name, SafePath};
use dft_tracker::catalogue::name::{DatasetName, Pattern};
use dft_tracker::catalogue::protocol::{Request, Response};
use dft_tracker::catalogue::service::{Caller, Catalogue, CatalogueConfig, StartAs};
use dft_tracker::service::Notice;
use futures::executor::block_on;

use crate::lab::Lab;
use crate::lab::scene::Scene;

/// Of each manifest: some 30 KB.
const PIECES: u32 = 900;

fn manifest(number: u32) -> Manifest {
    let hash = |piece: u32| {
        let mut hash = [0xff; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        hash[4..8].copy_from_slice(&piece.to_be_bytes());
        PieceHash::from_bytes(hash)
    };
    let size = 4096 * u64::from(PIECES);
    let info = Info {
        name: Name::new("data").expect("a name"),
        piece_size: PieceSize::new(4096).expect("a piece size"),
        entries: vec![Entry::File { path: SafePath::root(), size, mode: 0o644, mtime: Mtime::default() }],
        packs: Vec::new(),
        hashes: (0..PIECES).map(hash).collect(),
    };
    Manifest::new(info, Hints::default()).expect("a valid manifest")
}

fn start(directory: &Path, notify: impl Fn(Notice) + Send + 'static) -> Catalogue {
    let config =
        CatalogueConfig { path: directory.join("catalogue.redb"), start_as: StartAs::AsBefore, open: true };
    Catalogue::start(config, notify).expect("it starts")
}

fn ask(catalogue: &Catalogue, request: Request) -> Response {
    let caller = Caller {
        peer: PeerId::from_bytes(&[7; 38]).expect("38 bytes"),
        observed: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proven: false,
    };
    block_on(catalogue.handle().ask(caller, request))
}

fn put(catalogue: &Catalogue, number: u32) -> Response {
    let manifest = manifest(number);
    let name = DatasetName::new(&format!("n{number:04}")).expect("a name");
    ask(catalogue, Request::Put { name, id: manifest.id(), manifest: Some(manifest.encode()) })
}

fn listed(catalogue: &Catalogue) -> Vec<u32> {
    match ask(catalogue, Request::List { pattern: Pattern::all(), after: None }) {
        Response::Records { records, .. } => {
            records.iter().map(|record| record.name.as_str()[1..].parse().expect("a number")).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn full_disk_refuses_names_until_there_is_room_and_loses_none() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let disk = scene.new_directory("disk");
    lab.mount_small_disk(&disk, 4 * 1024);
    let outside = lab.outside_path(&disk);
    let (notify, notices) = mpsc::channel();
    let catalogue = start(&outside, move |notice| drop(notify.send(notice)));
    let stored = Response::Stored { created: true };
    let full = (0..).find(|number| put(&catalogue, *number) != stored).expect("the disk is small");
    assert!(full > 10, "some fit: {full}");
    assert!(matches!(notices.recv(), Ok(Notice::CatalogueFails(_))), "the operator hears of it");

    assert_eq!(listed(&catalogue), (0..full).collect::<Vec<_>>(), "what is there can be read");

    lab.resize_small_disk(&disk, 64 * 1024);
    // It is tried again once a second; until then it refuses.
    while put(&catalogue, full) != stored {
        std::thread::yield_now();
    }
    let all: Vec<u32> = (0..=full).collect();
    assert_eq!(listed(&catalogue), all);
    drop(catalogue);
    assert_eq!(listed(&start(&outside, |notice| panic!("{notice}"))), all);
}
