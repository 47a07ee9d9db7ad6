//! How fast and how large a catalogue with 100,000 names is.

use std::time::Instant;

use dft_protocol::geometry::PieceSize;
use dft_protocol::id::PieceHash;
use dft_protocol::manifest::{Entry, Hints, Info, Manifest, Mtime};
use dft_protocol::path::{Name, SafePath};
use dft_tracker::catalogue::name::{DatasetName, Pattern};
use dft_tracker::client::{Client, ClientConfig};
use futures::{StreamExt, TryStreamExt, stream};
use libp2p::identity::Keypair;

use crate::lab::scene::Scene;
use crate::table::{Samples, Table};

const NAMES: u64 = 100_000;
/// Clients that put at once: the tracker commits what they send together.
const WRITERS: u64 = 16;

/// Puts, lists by several patterns, and what the tracker's process holds.
pub fn measure(runs: usize) -> Vec<Table> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure_with(runs))
}

async fn measure_with(runs: usize) -> Vec<Table> {
    let scene = Scene::new();
    let mut tracker = scene
        .dft("tracker")
        .args(["tracker", "--open", "--json", "--listen", "127.0.0.1:0", "--state"])
        .arg(scene.path("state"))
        .start();
    let addr = tracker.wait_for("listening").texts("addrs").remove(0);
    let client = || {
        let (keypair, trackers) = (Keypair::generate_ed25519(), vec![addr.parse().expect("an address")]);
        Client::start(ClientConfig { keypair, trackers, token: None, network_key: None }).expect("a client")
    };
    let empty = tracker.sample_memory();
    let started = Instant::now();
    let writers = (0..WRITERS).map(|writer| put_share(client(), writer));
    futures::future::join_all(writers).await;
    let put_rate = NAMES as f64 / started.elapsed().as_secs_f64();

    let reader = client();
    let mut lists = Table::new(["pattern", "names found", "ms for the whole list", "target"]);
    for pattern in ["results/group-7/*", "*/run-0777*", "results/*", "*no such*", "*"] {
        let mut samples = Samples::default();
        let mut found = 0;
        for _ in 0..runs {
            let started = Instant::now();
            found = reader.list(&Pattern::new(pattern).expect("a pattern")).await.expect("a list").len();
            samples.add(started.elapsed().as_secs_f64() * 1e3);
        }
        lists.row([format!("`{pattern}`"), found.to_string(), samples.show(1), "< 200".to_owned()]);
    }
    let full = tracker.sample_memory();
    let mut memory = Table::new(["names", "puts a second", "peak MiB of the tracker", "target"]);
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    memory.row(["0".to_owned(), "-".to_owned(), mib(empty), "-".to_owned()]);
    memory.row([NAMES.to_string(), format!("{put_rate:.0}"), mib(full), "< 128".to_owned()]);
    vec![lists, memory]
}

/// Puts every [`WRITERS`]th name.
async fn put_share(client: Client, writer: u64) {
    let puts = (writer..NAMES).step_by(usize::try_from(WRITERS).expect("few")).map(|number| {
        let client = client.clone();
        async move {
            let name = format!("results/group-{}/run-{number:06}", number % 100);
            let name = DatasetName::new(&name).expect("a name");
            client.put(&name, &manifest(number)).await
        }
    });
    stream::iter(puts)
        .buffer_unordered(8)
        .try_for_each(|_| async { Ok(()) })
        .await
        .expect("every name is taken");
}

/// A dataset of ten pieces.
fn manifest(number: u64) -> Manifest {
    let hash = |piece: u8| {
        let mut hash = [piece; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        PieceHash::from_bytes(hash)
    };
    let info = Info {
        name: Name::new("data").expect("a name"),
        piece_size: PieceSize::new(65_536).expect("a piece size"),
        entries: vec![Entry::File {
            path: SafePath::root(),
            size: 655_360,
            mode: 0o644,
            mtime: Mtime::default(),
        }],
        packs: Vec::new(),
        hashes: (1..=10).map(hash).collect(),
    };
    Manifest::new(info, Hints::default()).expect("a valid manifest")
}
