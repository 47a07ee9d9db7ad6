//! A tracker that is killed loses nothing that it acknowledged: neither peers nor names.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use dft_protocol::id::{ManifestId, PeerId};
use dft_tracker::catalogue::index::State;
use dft_tracker::catalogue::protocol::{Request as NameRequest, Response as NameResponse};
use dft_tracker::catalogue::service::{Caller, Catalogue, CatalogueConfig, StartAs};
use dft_tracker::catalogue::store::Store as Names;
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
            _ => return,
        }
    }
}

/// Starts `test` as the victim on `state`, kills it after `count` acknowledgements, and returns
/// the number of the last one.
fn kill_after(test: &str, state: &Path, first: usize, count: usize) -> usize {
    let mut victim = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "--nocapture", test])
        .env(VICTIM, state)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let lines = BufReader::new(victim.stdout.take().expect("its output")).lines();
    let mut numbers = lines
        .map_while(Result::ok)
        .filter_map(|line| line.rsplit_once("acknowledged ")?.1.parse::<usize>().ok());
    let acknowledged = numbers.nth(count - 1).expect("acknowledgements");
    victim.kill().expect("kill");
    victim.wait().expect("it ends");
    // What it wrote before it died counts as well.
    numbers.last().unwrap_or(acknowledged)
}

#[test]
fn a_killed_tracker_loses_nothing_that_it_acknowledged() {
    if let Some(state) = std::env::var_os(VICTIM) {
        return be_killed(Path::new(&state));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = 0;
    for acknowledgements in [1, 2, 30, 100] {
        let test = "a_killed_tracker_loses_nothing_that_it_acknowledged";
        first = kill_after(test, directory.path(), first, acknowledgements) + 1;
        let (_, records, damaged) =
            Store::open(&directory.path().join("tracker.redb")).expect("the store opens");
        assert_eq!(damaged, None);
        // One more may have been written that was not acknowledged any more.
        assert!((first..=first + 1).contains(&records.len()), "{} of {first} are left", records.len());
        first = records.len();
    }
}

/// Puts name after name, forgets every seventh again, and writes the number of each that was
/// acknowledged.
fn be_killed_while_putting(state: &Path) {
    let config =
        CatalogueConfig { path: state.join("catalogue.redb"), start_as: StartAs::AsBefore, open: true };
    let catalogue = Catalogue::start(config, |notice| panic!("{notice}")).expect("it starts");
    let peer = PeerId::from_bytes(&[7; 38]).expect("38 bytes");
    let ask =
        |request| block_on(catalogue.handle().ask(Caller { peer, observed: HERE, proven: false }, request));
    let mut out = std::io::stdout();
    let first: usize = std::env::var(FIRST).expect("a number").parse().expect("a number");
    for number in first.. {
        let manifest = common::manifest(&format!("m{number}"), 1 + number % 5);
        let (name, id) = (common::name(&format!("n{number}")), manifest.id());
        let bytes = Some(manifest.encode());
        let put = ask(NameRequest::Put { name: name.clone(), id, manifest: bytes });
        assert_eq!(put, NameResponse::Stored { created: true });
        if number % 7 == 6 {
            let removed = ask(NameRequest::Remove { name, id, forget: false });
            assert_eq!(removed, NameResponse::Removed { removed: true });
        }
        writeln!(out, "acknowledged {number}").expect("a reader");
    }
}

#[test]
fn a_killed_catalogue_loses_no_name_that_it_acknowledged() {
    if let Some(state) = std::env::var_os(VICTIM) {
        return be_killed_while_putting(Path::new(&state));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = 0;
    let mut half_done = Vec::new();
    for acknowledgements in [1, 2, 30, 100] {
        let test = "a_killed_catalogue_loses_no_name_that_it_acknowledged";
        first = kill_after(test, directory.path(), first, acknowledgements) + 1;
        let (names, content) = Names::open(&directory.path().join("catalogue.redb")).expect("it opens");
        // One more may have been put that was not acknowledged any more.
        assert!((first..=first + 1).contains(&content.rows.len()), "{} of {first}", content.rows.len());
        for row in &content.rows {
            let number: usize = row.record.name.as_str()[1..].parse().expect("a number");
            let manifest = common::manifest(&format!("m{number}"), 1 + number % 5);
            assert_eq!(row.record.id, manifest.id());
            let block = names.block(manifest.id(), 0).expect("it can be read");
            let removed = number % 7 == 6;
            // A kill may have come between the two.
            if number >= first {
                half_done.push(number);
            }
            if !half_done.contains(&number) {
                assert_eq!(row.state, if removed { State::Removed } else { State::Live }, "{number}");
            }
            let expected = if row.state == State::Live { manifest.encode() } else { Vec::new() };
            assert_eq!(block, expected, "{number}");
        }
        first = content.rows.len();
    }
}
