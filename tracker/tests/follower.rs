//! A second tracker copies the first, and takes over.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use common::{HANG, Tracker, client, manifest, name};
use dft_protocol::manifest::Manifest;
use dft_tracker::catalogue::name::Pattern;
use dft_tracker::catalogue::service::StartAs;
use dft_tracker::client::{Client, ClientError, PutOutcome, RemoveOutcome};
use dft_tracker::server::CatalogueSettings;
use tempfile::TempDir;

async fn put(client: &Client, text: &str, manifest: &Manifest) -> Result<PutOutcome, ClientError> {
    client.put(&name(text), manifest).await
}

async fn listed(client: &Client) -> Vec<String> {
    let records = client.list(&Pattern::all()).await.expect("a list");
    records.iter().map(|record| record.name.to_string()).collect()
}

/// Waits until the names that `client` sees are these.
async fn until_listed(client: &Client, expected: &[&str]) {
    let seen = async { while listed(client).await != expected {} };
    if tokio::time::timeout(HANG, seen).await.is_err() {
        panic!("{:?} are no {expected:?}", listed(client).await);
    }
}

/// Waits until the tracker tells its operator a line with `text` in it.
async fn until_noticed(tracker: &Tracker, text: &str) {
    let mut notices = tracker.notices.lock().await;
    let noticed = async {
        while let Some(notice) = notices.recv().await {
            if notice.contains(text) {
                return;
            }
        }
        panic!("it has stopped");
    };
    tokio::time::timeout(HANG, noticed).await.expect("it is noticed");
}

/// A follower of `leader` with the same token; `directory` is what it kept.
async fn follow(leader: &Tracker, directory: TempDir) -> Tracker {
    let token = |directory: &TempDir| directory.path().join("token");
    std::fs::copy(token(&leader.directory), token(&directory)).expect("a copy");
    let start_as = StartAs::Follow(leader.addr.to_string());
    Tracker::start_in(directory, CatalogueSettings { open: false, start_as }).await
}

fn empty() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

async fn promote(directory: TempDir) -> Tracker {
    let settings = CatalogueSettings { open: false, start_as: StartAs::Promoted };
    Tracker::start_in(directory, settings).await
}

#[tokio::test]
async fn a_follower_has_what_its_leader_has_and_takes_no_writes() {
    let leader = Tracker::start().await;
    let writer = leader.writer();
    let (one, large) = (manifest("one", 1), manifest("large", 20_000));
    for (text, manifest) in [("a", &one), ("b", &large), ("c", &one), ("d", &one)] {
        put(&writer, text, manifest).await.expect("put");
    }
    writer.remove(&name("c"), one.id()).await.expect("removed");
    let follower = follow(&leader, empty()).await;
    let reader = follower.reader();
    until_listed(&reader, &["a", "b", "d"]).await;
    let (record, got) = reader.get(&name("b")).await.expect("an answer").expect("it is there");
    assert_eq!(got.id(), large.id());
    assert_eq!(Some(record), writer.record(&name("b")).await.expect("an answer"));
    // What happens from here on comes too, and over a restart of the follower.
    put(&writer, "e", &one).await.expect("put");
    writer.forget(&name("a"), one.id()).await.expect("forgotten");
    until_listed(&reader, &["b", "d", "e"]).await;
    let error = put(&follower.writer(), "x", &one).await.expect_err("it takes no writes");
    assert_eq!(error, ClientError::NotLeader { leader: Some(leader.addr.to_string()) });
    let directory = follower.stop().await;
    put(&writer, "f", &one).await.expect("put");
    let follower = follow(&leader, directory).await;
    until_listed(&follower.reader(), &["b", "d", "e", "f"]).await;
    leader.stop().await;
    // Without its leader, it still answers; a client of both finds it.
    assert_eq!(listed(&follower.reader()).await, ["b", "d", "e", "f"]);
    follower.stop().await;
}

#[tokio::test]
async fn a_follower_stays_one_until_it_is_promoted() {
    let leader = Tracker::start().await;
    let one = manifest("one", 1);
    put(&leader.writer(), "a", &one).await.expect("put");
    put(&leader.writer(), "b", &one).await.expect("put");
    leader.writer().remove(&name("b"), one.id()).await.expect("removed");
    let follower = follow(&leader, empty()).await;
    until_listed(&follower.reader(), &["a"]).await;
    leader.stop().await;
    let again = Tracker::start_in(follower.stop().await, CatalogueSettings::default()).await;
    assert!(matches!(put(&again.writer(), "x", &one).await, Err(ClientError::NotLeader { .. })));
    let promoted = promote(again.stop().await).await;
    let writer = promoted.writer();
    assert_eq!(put(&writer, "x", &one).await, Ok(PutOutcome::Created));
    let two = manifest("two", 1);
    assert!(matches!(put(&writer, "b", &two).await, Err(ClientError::NameTaken { removed: true, .. })));
    // Promoted once, it leads from then on.
    let leads = Tracker::start_in(promoted.stop().await, CatalogueSettings::default()).await;
    assert_eq!(put(&leads.writer(), "y", &one).await, Ok(PutOutcome::Created));
    assert_eq!(listed(&leads.reader()).await, ["a", "x", "y"]);
    leads.stop().await;
}

#[tokio::test]
async fn an_old_leader_that_comes_back_steps_down() {
    let old = Tracker::start().await;
    let (one, two) = (manifest("one", 1), manifest("two", 1));
    put(&old.writer(), "a", &one).await.expect("put");
    let follower = follow(&old, empty()).await;
    until_listed(&follower.reader(), &["a"]).await;
    let (token, old_addr) = (old.token(), old.addr.clone());
    // This one was acknowledged and never copied: the price of a promotion.
    let follower = follower.stop().await;
    put(&old.writer(), "lost", &one).await.expect("put");
    let old_directory = old.stop().await;
    let new = promote(follower).await;
    let old = Tracker::start_in(old_directory, CatalogueSettings::default()).await;
    assert_eq!(old.addr, old_addr);
    // A client of both writes to the new one only.
    let both = client(&[&old, &new], Some(token));
    assert_eq!(put(&both, "b", &two).await, Ok(PutOutcome::Created));
    assert_eq!(listed(&new.reader()).await, ["a", "b"]);
    // The old one has heard of it, from the client or from the new one.
    let stepped_down =
        async { while !matches!(put(&old.writer(), "a", &one).await, Err(ClientError::NotLeader { .. })) {} };
    tokio::time::timeout(HANG, stepped_down).await.expect("it steps down");
    // It remembers, and becomes a copy of the new one where it is told to.
    let old = Tracker::start_in(old.stop().await, CatalogueSettings::default()).await;
    assert!(matches!(put(&old.writer(), "x", &one).await, Err(ClientError::NotLeader { .. })));
    assert_eq!(listed(&old.reader()).await, ["a", "lost"]);
    let old = follow(&new, old.stop().await).await;
    until_listed(&old.reader(), &["a", "b"]).await;
    assert_eq!(both.remove(&name("b"), two.id()).await, Ok(RemoveOutcome::Removed));
    until_listed(&old.reader(), &["a"]).await;
    old.stop().await;
    new.stop().await;
}

#[tokio::test]
async fn a_catalogue_with_names_never_becomes_another_ones_copy() {
    let [one, two] = [Tracker::start().await, Tracker::start().await];
    let dataset = manifest("one", 1);
    put(&one.writer(), "a", &dataset).await.expect("put");
    put(&two.writer(), "b", &dataset).await.expect("put");
    let addr = two.addr.clone();
    let two = follow(&one, two.stop().await).await;
    assert_eq!(two.addr, addr);
    until_noticed(&two, "cannot copy the catalogue").await;
    assert_eq!(listed(&two.reader()).await, ["b"]);
    two.stop().await;
    one.stop().await;
}
