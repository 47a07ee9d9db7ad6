//! A tracker that is killed loses nothing that it acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use dft_protocol::id::{ManifestId, PeerId};
use dft_tracker::protocol::{Announce, Request, Response};
use dft_tracker::registry::LinkAddrs;
use dft_tracker::service::Service;
use dft_tracker::store::Store;
use futures::executor::block_on;

/// Set for the process that is to be killed: its state directory.
const VICTIM: &str = "DFT_TEST_KILLED_TRACKER";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn announce(number: u32) -> (PeerId, Request) {
    let peer = PeerId::from_bytes(&number.to_be_bytes()).expect("4 bytes");
    let manifest = ManifestId::from_bytes([1; 32]);
    let addrs = LinkAddrs::default();
    (peer, Request::Announce(Announce { manifest, link_port: 7, addrs, complete: true, site: None, want: 0 }))
}

/// Set for it as well: the first peer that it announces.
const FIRST: &str = "DFT_TEST_KILLED_TRACKER_FIRST";

/// Announces peer after peer and writes the number of each that was acknowledged.
fn be_killed(state: &Path) {
    let service = Service::open(state, |notice| panic!("{notice:?}")).expect("the service starts");
    let mut out = std::io::stdout();
    let first = std::env::var(FIRST).expect("a number").parse().expect("a number");
    for number in first..u32::MAX {
        let (peer, request) = announce(number);
        match block_on(service.ask(peer, HERE, request)) {
            Response::Peers { .. } => writeln!(out, "acknowledged {number}").expect("a reader"),
            Response::Refused(_) | Response::Done => return,
        }
    }
}

#[test]
fn a_killed_tracker_loses_nothing_that_it_acknowledged() {
    if let Some(state) = std::env::var_os(VICTIM) {
        return be_killed(Path::new(&state));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = 0;
    for acknowledgements in [1, 2, 30, 100] {
        let mut victim = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "--nocapture", "a_killed_tracker_loses_nothing_that_it_acknowledged"])
            .env(VICTIM, directory.path())
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let lines = BufReader::new(victim.stdout.take().expect("its output")).lines();
        let mut numbers = lines
            .map_while(Result::ok)
            .filter_map(|line| line.rsplit_once("acknowledged ")?.1.parse::<usize>().ok());
        let mut acknowledged = numbers.nth(acknowledgements - 1).expect("acknowledgements");
        victim.kill().expect("kill");
        victim.wait().expect("it ends");
        // What it wrote before it died counts as well.
        acknowledged = numbers.last().unwrap_or(acknowledged);
        first = acknowledged + 1;
        let (_, records, damaged) =
            Store::open(&directory.path().join("tracker.redb")).expect("the store opens");
        assert_eq!(damaged, None);
        // One more may have been written that was not acknowledged any more.
        assert!((first..=first + 1).contains(&records.len()), "{} of {first} are left", records.len());
        first = records.len();
    }
}
