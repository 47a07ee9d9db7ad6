//! Copies on one node that share their blocks, on filesystems that can: each is made in an image and mounted
//! in a laboratory, which takes root.

use std::io::Write as _;
use std::path::Path;

use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::nodes;
use crate::steps::MIB;

const BYTES: u64 = 64 * MIB;

/// Bytes that are free where `directory` lies, once all is written.
fn free_bytes(lab: &Lab, directory: &Path) -> u64 {
    let directory = directory.display();
    let answer = lab.run(&format!("sync -f '{directory}'; stat -f -c '%f %S' '{directory}'"));
    answer.split_whitespace().map(|number| number.parse::<u64>().expect("a number")).product()
}

fn copies_share_blocks(filesystem: &str) {
    let Some(lab) = Lab::hosts(1).with_machine_root().start_or_skip() else { return };
    let scene = Scene::new();
    let disk = scene.new_directory("disk");
    if let Err(reason) = lab.mount_image(filesystem, &scene.path("image"), &disk) {
        // Not by eprintln!: what a passing test prints that way is never shown.
        let _ = writeln!(std::io::stderr(), "SKIPPED copies that share blocks on {filesystem}: {reason}");
        return;
    }
    let path = |name: &str| disk.join(name).display().to_string();
    let outside = lab.outside_path(&disk);
    let original = outside.join("model");
    data::random_file(&original, 5, BYTES);
    let nodes = nodes(&lab, &scene, &["--store", &path("store")]);
    let get = |directory: &str| {
        std::fs::create_dir(outside.join(directory)).expect("there is room");
        nodes[0].run(&["get", "model", "-o", &path(directory)]);
        outside.join(directory).join("model")
    };

    let before = free_bytes(&lab, &disk);
    nodes[0].run(&["put", &path("model"), "--copy"]);
    let (one, two) = (get("one"), get("two"));
    let taken = before.saturating_sub(free_bytes(&lab, &disk));
    println!("{filesystem}: three copies of {BYTES} bytes took {taken}");
    assert!(taken < BYTES / 4, "three copies of {BYTES} bytes took {taken}");
    assert_same(&original, &one);

    // Whoever writes into one changes no other one, and not what the node gives away.
    data::change_byte(&one, BYTES / 2);
    data::change_byte(&original, BYTES / 3);
    let three = get("three");
    assert_same(&two, &three);
}

#[test]
fn copies_on_btrfs_share_blocks() {
    copies_share_blocks("btrfs");
}

#[test]
fn copies_on_xfs_share_blocks() {
    copies_share_blocks("xfs");
}
