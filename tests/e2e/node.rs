//! A node of a test: its daemon, its user's directory, and the verbs that are typed there.

use std::path::{Path, PathBuf};

use crate::lab::process::{Outcome, Process};
use crate::lab::scene::{Dft, Scene};
use crate::lab::{Host, Lab};

/// One node: its daemon, and the directory in which its user types.
pub(crate) struct Node<'lab> {
    scene: &'lab Scene,
    host: Host<'lab>,
    name: String,
    options: Vec<String>,
    daemon: Option<Process>,
}

impl<'lab> Node<'lab> {
    /// Starts the daemon of a host, with everything as a user has it.
    pub(crate) fn start(scene: &'lab Scene, host: Host<'lab>, options: &[&str]) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        let mut node = Self { scene, host, name: host.name(), options, daemon: None };
        node.start_again();
        node
    }

    pub(crate) fn dft(&self) -> Dft {
        self.scene.dft_on(self.host, &self.name)
    }

    pub(crate) fn start_again(&mut self) {
        loop {
            let daemon =
                self.dft().args(["daemon", "--json", "--name", &self.name]).args(&self.options).start();
            let first = daemon.wait_until("ready", |event| matches!(event.name(), "ready" | "error"));
            if first.name() == "ready" {
                self.daemon = Some(daemon);
                return;
            }
            // A verb that found none running may have started one: it has to make room.
            self.dft().args(["status", "--stop"]).run();
        }
    }

    pub(crate) fn kill9(&mut self) {
        self.daemon.take().expect("it runs").kill9();
    }

    /// The running daemon.
    pub(crate) fn daemon(&self) -> &Process {
        self.daemon.as_ref().expect("it runs")
    }

    /// What others call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts a verb with JSON.
    pub(crate) fn begin(&self, verb: &[&str]) -> Process {
        self.dft().args(verb).arg("--json").start()
    }

    /// Runs a verb, which must work.
    pub(crate) fn run(&self, verb: &[&str]) -> Outcome {
        self.begin(verb).wait().expect_code(0)
    }

    /// Runs a verb, which must fail with this code; returns what it says.
    pub(crate) fn fails(&self, code: i32, verb: &[&str]) -> String {
        self.begin(verb).wait().expect_code(code).stderr
    }

    pub(crate) fn put(&self, path: &Path, name: &str) -> String {
        let path = path.to_str().expect("a path of a test");
        self.run(&["put", path, "--name", name]).event("put").text("id").to_owned()
    }

    /// Gets into the node's own directory.
    pub(crate) fn get(&self, name: &str) -> PathBuf {
        PathBuf::from(self.run(&["get", name]).event("got").text("path"))
    }

    /// What `ls -l` says of a name: complete copies and the rest, or nothing.
    pub(crate) fn copies(&self, name: &str) -> Option<(u64, u64)> {
        let listed = self.run(&["ls", "-l", name]);
        let of = |event: &crate::lab::process::Event| (event.number("replicas"), event.number("partial"));
        listed.events.iter().find(|event| event.name() == "listed" && event.text("name") == name).map(of)
    }

    /// What it holds, for whoever reads why a test failed.
    pub(crate) fn status(&self) -> String {
        let events = self.run(&["status"]).events;
        events.iter().map(|event| format!("{}: {}\n", self.name, event.value)).collect()
    }

    pub(crate) fn until_copies(&self, name: &str, wanted: u64) {
        until(&format!("{wanted} copies of {name}"), || {
            self.copies(name).is_some_and(|(all, _)| all == wanted)
        });
    }
}

/// Looks again and again, as long as any test waits for anything.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + crate::lab::process::PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it did not come to {what}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Daemons on all hosts of a lab; the first keeps the catalogue, into which all may write, as on a trusted
/// LAN; the others find it.
pub(crate) fn nodes<'lab>(lab: &'lab Lab, scene: &'lab Scene, options: &[&str]) -> Vec<Node<'lab>> {
    let start = |number| {
        let catalogue: &[&str] = if number == 0 { &["--embed-tracker", "--open"] } else { &[] };
        Node::start(scene, lab.host(number), &[options, catalogue].concat())
    };
    (0..lab.host_count()).map(start).collect()
}

pub(crate) fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
