//! Names and nodes: clients and trackers over loopback.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use common::{Tracker, client_of, manifest, name};
use dft_protocol::manifest::{Hints, Manifest};
use dft_tracker::catalogue::name::Pattern;
use dft_tracker::catalogue::token::Token;
use dft_tracker::client::{Client, ClientConfig, ClientError, PutOutcome, RemoveOutcome};
use dft_tracker::server::CatalogueSettings;
use libp2p::identity::Keypair;

async fn put(client: &Client, text: &str, manifest: &Manifest) -> Result<PutOutcome, ClientError> {
    client.put(&name(text), manifest).await
}

async fn listed(client: &Client, pattern: &str) -> Vec<String> {
    let pattern = Pattern::new(pattern).expect("a pattern");
    let records = client.list(&pattern).await.expect("a list");
    records.iter().map(|record| record.name.to_string()).collect()
}

#[tokio::test]
async fn what_one_puts_another_gets() {
    let tracker = Tracker::start().await;
    let (writer, reader) = (tracker.writer(), tracker.reader());
    let hints = Hints { trackers: vec!["/ip4/192.0.2.7/tcp/1".into()], ..Hints::default() };
    let one = manifest("one", 3).with_hints(hints).expect("hints");
    assert!(reader.get(&name("a/one")).await.expect("an answer").is_none());
    assert_eq!(put(&writer, "a/one", &one).await, Ok(PutOutcome::Created));
    assert_eq!(put(&writer, "a/one", &one).await, Ok(PutOutcome::Already));
    assert_eq!(put(&writer, "b", &one).await, Ok(PutOutcome::Created));
    let (record, got) = reader.get(&name("a/one")).await.expect("an answer").expect("it is there");
    assert_eq!((got.id(), got.info(), got.hints()), (one.id(), one.info(), &Hints::default()));
    assert_eq!((record.size, record.pieces, record.entries), (3 * 4096, 3, 1));
    assert_eq!(reader.record(&name("a/one")).await.expect("an answer"), Some(record));
    assert_eq!(listed(&reader, "*").await, ["a/one", "b"]);
    assert_eq!(listed(&reader, "a/*").await, ["a/one"]);
    tracker.stop().await;
}

#[tokio::test]
async fn a_name_never_changes_its_content_unless_it_is_forgotten() {
    let tracker = Tracker::start().await;
    let (writer, other) = (tracker.writer(), tracker.writer());
    let (one, two) = (manifest("one", 3), manifest("two", 3));
    let taken = |removed| ClientError::NameTaken { name: name("n"), id: one.id(), removed };
    assert_eq!(put(&writer, "n", &one).await, Ok(PutOutcome::Created));
    assert_eq!(put(&other, "n", &two).await, Err(taken(false)));
    assert_eq!(other.remove(&name("n"), two.id()).await, Err(taken(false)));
    assert_eq!(other.remove(&name("n"), one.id()).await, Ok(RemoveOutcome::Removed));
    assert_eq!(other.remove(&name("n"), one.id()).await, Ok(RemoveOutcome::Already));
    assert_eq!(listed(&writer, "*").await, [""; 0]);
    assert!(writer.get(&name("n")).await.expect("an answer").is_none());
    assert_eq!(put(&writer, "n", &two).await, Err(taken(true)));
    assert_eq!(put(&writer, "n", &one).await, Ok(PutOutcome::Created), "its own content may come back");
    assert_eq!(writer.forget(&name("n"), one.id()).await, Ok(RemoveOutcome::Removed));
    assert_eq!(writer.forget(&name("n"), one.id()).await, Ok(RemoveOutcome::Already));
    assert_eq!(put(&writer, "n", &two).await, Ok(PutOutcome::Created), "now it is free");
    assert_eq!(writer.get(&name("n")).await.expect("an answer").expect("there").1.id(), two.id());
    tracker.stop().await;
}

#[tokio::test]
async fn two_writers_of_one_name_have_one_winner() {
    let tracker = Tracker::start().await;
    let manifests: Vec<Manifest> = (0..8).map(|number| manifest(&format!("m{number}"), 2)).collect();
    let clients: Vec<Client> = manifests.iter().map(|_| tracker.writer()).collect();
    let contested = name("n");
    let puts = clients.iter().zip(&manifests).map(|(client, manifest)| client.put(&contested, manifest));
    let outcomes = futures::future::join_all(puts).await;
    let winners: Vec<usize> =
        (0..manifests.len()).filter(|number| outcomes[*number] == Ok(PutOutcome::Created)).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let winner = manifests[winners[0]].id();
    let (_, got) = clients[0].get(&name("n")).await.expect("an answer").expect("it is there");
    assert_eq!(got.id(), winner);
    for outcome in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(outcome, ClientError::NameTaken { name: name("n"), id: winner, removed: false });
    }
    tracker.stop().await;
}

#[tokio::test]
async fn large_manifests_travel_in_blocks() {
    let tracker = Tracker::start().await;
    let large = manifest("large", 60_000);
    assert!(large.encode().len() > 7 * 256 * 1024);
    let writer = tracker.writer();
    assert_eq!(put(&writer, "large", &large).await, Ok(PutOutcome::Created));
    assert_eq!(put(&writer, "large again", &large).await, Ok(PutOutcome::Created));
    let (_, got) = tracker.reader().get(&name("large")).await.expect("an answer").expect("it is there");
    assert_eq!((got.id(), got.info()), (large.id(), large.info()));
    // The manifest stays as long as a name stands for it.
    assert_eq!(writer.remove(&name("large"), large.id()).await, Ok(RemoveOutcome::Removed));
    assert!(writer.get(&name("large again")).await.expect("an answer").is_some());
    assert_eq!(writer.forget(&name("large again"), large.id()).await, Ok(RemoveOutcome::Removed));
    assert_eq!(put(&writer, "large again", &large).await, Ok(PutOutcome::Created));
    tracker.stop().await;
}

#[tokio::test]
async fn who_lacks_the_token_only_reads() {
    let tracker = Tracker::start().await;
    let one = manifest("one", 1);
    let wrong = Token::random().expect("randomness");
    for token in [None, Some(wrong)] {
        let outsider = client_of(vec![tracker.addr.clone()], token);
        assert!(matches!(put(&outsider, "n", &one).await, Err(ClientError::NotAuthorised { .. })));
        assert!(matches!(
            put(&outsider, "l", &manifest("l", 60_000)).await,
            Err(ClientError::NotAuthorised { .. })
        ));
        assert!(matches!(
            outsider.remove(&name("n"), one.id()).await,
            Err(ClientError::NotAuthorised { .. })
        ));
        assert_eq!(listed(&outsider, "*").await, [""; 0]);
    }
    let directory = tracker.stop().await;
    let open = CatalogueSettings { open: true, ..CatalogueSettings::default() };
    let tracker = Tracker::start_in(directory, open).await;
    assert_eq!(put(&tracker.reader(), "n", &one).await, Ok(PutOutcome::Created));
    tracker.stop().await;
}

#[tokio::test]
async fn names_survive_a_restart() {
    let tracker = Tracker::start().await;
    let (one, two) = (manifest("one", 1), manifest("two", 1));
    let writer = tracker.writer();
    for (text, manifest) in [("a", &one), ("b", &two), ("c", &one)] {
        assert_eq!(put(&writer, text, manifest).await, Ok(PutOutcome::Created));
    }
    assert_eq!(writer.remove(&name("b"), two.id()).await, Ok(RemoveOutcome::Removed));
    let tracker = Tracker::start_in(tracker.stop().await, CatalogueSettings::default()).await;
    let writer = tracker.writer();
    assert_eq!(listed(&writer, "*").await, ["a", "c"]);
    assert!(matches!(put(&writer, "b", &one).await, Err(ClientError::NameTaken { removed: true, .. })));
    assert_eq!(put(&writer, "b", &two).await, Ok(PutOutcome::Created));
    assert_eq!(writer.get(&name("c")).await.expect("an answer").expect("there").1.id(), one.id());
    tracker.stop().await;
}

#[tokio::test]
async fn no_tracker_at_all_is_said_in_time() {
    let tracker = Tracker::start().await;
    let addr = tracker.addr.clone();
    let client = tracker.writer();
    tracker.stop().await;
    let error = put(&client, "n", &manifest("one", 1)).await.expect_err("nobody is there");
    assert!(
        matches!(&error, ClientError::Unreachable { addrs, .. } if *addrs == [addr.to_string()]),
        "{error}"
    );
    let error = client.list(&Pattern::all()).await.expect_err("nobody is there");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_client_goes_on_with_a_tracker_that_was_restarted() {
    let mut tracker = Tracker::start().await;
    let writer = tracker.writer();
    for number in 0..5 {
        let dataset = manifest(&format!("m{number}"), 1);
        assert_eq!(put(&writer, &format!("n{number}"), &dataset).await, Ok(PutOutcome::Created));
        let addr = tracker.addr.clone();
        tracker = Tracker::start_in(tracker.stop().await, CatalogueSettings::default()).await;
        assert_eq!(tracker.addr, addr);
    }
    assert_eq!(listed(&writer, "*").await, ["n0", "n1", "n2", "n3", "n4"]);
    tracker.stop().await;
}

#[tokio::test]
async fn a_tracker_without_a_catalogue_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start_with(directory, None).await;
    let error = put(&tracker.reader(), "n", &manifest("one", 1)).await.expect_err("no catalogue");
    assert!(
        matches!(&error, ClientError::Unreachable { reason, .. } if reason == "it has no catalogue"),
        "{error}"
    );
    let directory = tracker.stop().await;
    assert!(!directory.path().join("catalogue.redb").exists(), "nor does it make one");
}

#[tokio::test]
async fn an_outsider_of_a_private_cluster_learns_no_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = Some([7; 32]);
    let tracker = Tracker::start_private(directory, Some(CatalogueSettings::default()), key).await;
    let client = |network_key| {
        let (keypair, trackers) = (Keypair::generate_ed25519(), vec![tracker.addr.clone()]);
        let token = Some(tracker.token());
        Client::start(ClientConfig { keypair, trackers, token, network_key }).expect("a client")
    };
    assert_eq!(put(&client(key), "n", &manifest("one", 1)).await, Ok(PutOutcome::Created));
    for wrong in [None, Some([8; 32])] {
        let outsider = client(wrong);
        let learnt = outsider.list(&Pattern::all()).await;
        assert!(matches!(learnt, Err(ClientError::Unreachable { .. })), "{learnt:?}");
    }
    assert_eq!(listed(&client(key), "*").await, ["n"]);
    tracker.stop().await;
}
