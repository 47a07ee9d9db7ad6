//! Settings that stay: a flag wins over the environment, that over the file, that over the default.

use std::fs;

use serde_json::Value;

use crate::lab::scene::Scene;
use crate::steps::{Place, Seeder, assert_fetched, fetch, random_dataset};

/// Writes the configuration of the `dft` called `name`.
pub(crate) fn configure(scene: &Scene, name: &str, text: &str) {
    let directory = scene.new_directory(&format!("{name}.state/.config/dft"));
    fs::write(directory.join("config.toml"), text).expect("it is writable");
}

#[test]
fn values_come_from_environment_file_and_default_in_this_order() {
    let scene = Scene::new();
    configure(&scene, "here", "max-upload = '5M'\nmax-download = '6M'\nno-mdns = true\n");
    let show = |more: &[&str]| {
        let dft = scene.dft("here").args(["config", "show"]).args(more).env("DFT_MAX_UPLOAD", "7M");
        dft.run().expect_code(0)
    };
    let outcome = show(&["--json"]);
    let printed: Value = outcome.events.first().map(|event| event.value.clone()).expect("one object");
    let setting = |name: &str| {
        let settings = printed["settings"].as_array().expect("a list");
        let found = settings.iter().find(|setting| setting["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no setting {name} in {printed}"));
        (found["values"].to_string(), found["source"].as_str().expect("a text").to_owned())
    };
    let expect = |name: &str, values: &str, source: &str| {
        assert_eq!(setting(name), (values.to_owned(), source.to_owned()), "{name}");
    };
    expect("max-upload", "[\"7M\"]", "environment");
    expect("max-download", "[\"6M\"]", "file");
    expect("no-mdns", "[\"true\"]", "file");
    expect("compress", "[\"auto\"]", "default");
    expect("secret", "[]", "default");
    let text = show(&[]).stdout;
    assert!(text.contains("environment, DFT_MAX_UPLOAD") && text.contains("config.toml"), "{text}");
}

#[test]
fn file_and_environment_hold_for_a_fetch_and_a_flag_wins() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    configure(&scene, "seeder", "encryption = 'off'\n");
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    // With encryption on, which is the default, it would be refused.
    let configured = Place::Here.dft(&scene, "configured", "fetch").arg(&seeder.manifest);
    configured.env("DFT_ENCRYPTION", "off").env("DFT_LINGER", "0").run().expect_code(0);
    assert_fetched(&scene, "configured", &dataset);
    configure(&scene, "flag", "encryption = 'on'\n");
    let options = ["--encryption", "off", "--linger", "0"];
    fetch(&scene, Place::Here, "flag", &seeder.manifest, &options).wait().expect_code(0);
}

#[test]
fn wrong_settings_are_named_and_nothing_is_done() {
    let scene = Scene::new();
    configure(&scene, "here", "max-uplod = '5M'\n");
    for arguments in [&["seed", "x"][..], &["config", "show"], &["fetch", "x.dft"]] {
        let outcome = scene.dft("here").args(arguments).run().expect_code(2);
        assert!(outcome.stderr.contains("«max-uplod»"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("config.toml"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: did you mean max-upload?"), "{}", outcome.stderr);
    }
    // What needs no setting works, and says that there is one that is wrong.
    for (arguments, code) in [(&["show", "x.dft"][..], 3), (&["completions", "bash"], 0), (&["man"], 0)] {
        let outcome = scene.dft("here").args(arguments).run().expect_code(code);
        assert!(outcome.stderr.starts_with("warning: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("«max-uplod»"), "{}", outcome.stderr);
    }
    scene.dft("here").args(["--help"]).run().expect_code(0);
    scene.dft("here").args(["config", "show"]).env("DFT_CONFIG", "").run().expect_code(0);
    let missing = scene.dft("here").args(["config", "show"]).env("DFT_CONFIG", "nothing-here").run();
    assert!(missing.expect_code(2).stderr.contains("nothing-here"));
    let shown = scene.dft("other").args(["config", "show"]).env("DFT_NO_MDNS", "1").run().expect_code(0);
    assert!(shown.stdout.contains("environment, DFT_NO_MDNS"), "{}", shown.stdout);
    let fetched = scene.dft("other").args(["fetch", "nothing-here.dft"]).env("DFT_NO_MDNS", "1").run();
    fetched.expect_code(3);
    let wrong = scene.dft("other").args(["config", "show"]).env("DFT_MAX_UPLOAD", "fast").run();
    assert!(wrong.expect_code(2).stderr.contains("DFT_MAX_UPLOAD"));
}
