//! Traces: what a run recorded, and what `dft trace` makes of it.

use std::fs;

use crate::lab::scene::Scene;
use crate::steps::{Place, Seeder, assert_fetched, random_dataset};

const HERE: Place<'static> = Place::Here;

#[test]
fn traced_fetch_is_read_back_with_numbers_that_agree() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 12);
    let (seeds, fetches) = (scene.path("seeder.trace"), scene.path("fetcher.trace"));
    let traced = ["--exit-after-copies", "1", "--trace", seeds.to_str().expect("UTF-8")];
    let seeder = Seeder::start(&scene, HERE, &dataset, &traced);
    let fetch = scene.dft("fetcher").args(["fetch", "--json", "--listen", "127.0.0.1", "--linger", "0"]);
    fetch.arg(&seeder.manifest).arg("--trace").arg(&fetches).run().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
    let (bytes, pieces) = (seeder.bytes(), seeder.seeding.number("pieces"));
    seeder.process.wait().expect_code(0);

    let plot = scene.path("run.svg");
    let outcome = scene.dft("reader").args(["trace", "--json", "--rate", "1000", "--plot"]).arg(&plot);
    let outcome = outcome.args([&seeds, &fetches]).run().expect_code(0);
    let summary = &outcome.events[0].value;
    assert_eq!(summary["bytes"], bytes);
    assert_eq!(summary["pieces"], pieces);
    assert_eq!(summary["dropped_events"], 0);
    assert_eq!(summary["duplicates"], 0);
    let (sender, receiver) = (&summary["nodes"][0], &summary["nodes"][1]);
    assert_eq!((&sender["name"], &receiver["name"]), (&"seeder".into(), &"fetcher".into()));
    assert_eq!(receiver["verified"], pieces);
    assert_eq!(receiver["received_bytes"], bytes);
    assert_eq!(sender["sent_bytes"], bytes);
    assert_eq!(summary["served"], serde_json::json!([["fetcher", "seeder", bytes]]));
    for phase in
        ["start", "manifest", "store", "listening", "discovering", "driving", "verified", "complete", "exit"]
    {
        assert!(receiver["phases"][phase].is_number(), "{phase}: {receiver}");
    }
    assert!(fs::read_to_string(&plot).expect("it was written").starts_with("<svg "));

    let text = scene.dft("reader").arg("trace").args([&seeds, &fetches]).run().expect_code(0).stdout;
    assert!(text.contains(&format!("{pieces} pieces")), "{text}");
    assert!(text.split_whitespace().all(|word| !["-0.0", "-0.0%"].contains(&word)), "{text}");
}

#[test]
fn trace_that_cannot_be_written_stops_a_run_before_it_begins() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let path = scene.path("nowhere").join("run.trace");
    let outcome =
        scene.dft("here").args(["seed", "--listen", "127.0.0.1", "--trace"]).args([&path, &dataset]);
    let outcome = outcome.run().expect_code(2);
    assert!(outcome.stderr.starts_with("error: cannot write the trace "), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("nowhere/run.trace") && outcome.stderr.contains("hint: "),
        "{}",
        outcome.stderr
    );
    assert!(!scene.path("here/dataset.dft").exists(), "nothing was done");
}

#[test]
fn garbage_is_no_trace_and_its_line_is_named() {
    let scene = Scene::new();
    let path = scene.path("run.trace");
    let first = r#"{"us":0,"event":"trace","version":1,"wall_us":1,"verb":"fetch","program":"dft","host":"h","pid":1}"#;
    for (text, line) in [("hello\n".to_owned(), "line 1"), (format!("{first}\n\u{1}\u{2}\n"), "line 2")] {
        fs::write(&path, text).expect("it is writable");
        let outcome = scene.dft("here").arg("trace").arg(&path).run().expect_code(2);
        assert!(
            outcome.stderr.starts_with("error: ") && outcome.stderr.contains("run.trace"),
            "{}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    let missing = scene.dft("here").args(["trace", "not-here.trace"]).run().expect_code(2);
    assert!(missing.stderr.contains("not-here.trace"), "{}", missing.stderr);
}
