//! A LAN of several hosts: discovery without any setting, and what the network does to a swarm.

use std::time::Duration;

use crate::lab::scene::Scene;
use crate::lab::{Lab, data, hints};
use crate::steps::{MIB, Place, Seeder, assert_fetched, fetch, fetch_to_end, has_percent, random_dataset};

/// A fetch starts within 2 s on a quiet machine; a loaded one gets more before it fails.
const START_MAX: Duration = Duration::from_secs(10);

#[test]
fn six_hosts_find_each_other_by_multicast_alone() {
    let Some(lab) = Lab::hosts(6).rate_mbit(200).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 24);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let manifest = hints::without_hints(&seeder.manifest, &scene.path("no hints"));
    let names: Vec<String> = (1..6).map(|number| format!("fetcher {number}")).collect();
    let start =
        |(name, host): (&String, usize)| fetch(&scene, Place::On(lab.host(host)), name, &manifest, &[]);
    let fetchers: Vec<_> = names.iter().zip(1..).map(start).collect();
    for fetcher in fetchers {
        let first = fetcher.wait_until("first bytes", |event| {
            event.name() == "complete" || event.value["have_bytes"].as_u64().is_some_and(|bytes| bytes > 0)
        });
        let after = first.at - fetcher.started();
        println!("first bytes after {after:?}");
        assert!(after < START_MAX, "the fetch started after {after:?}");
        fetcher.wait().expect_code(0);
    }
    let copies = lab.host(0).sent_bytes() as f64 / seeder.bytes() as f64;
    println!("the seeder's host sent {copies:.2} copies");
    assert!(copies < 3.0, "the seeder's host sent {copies:.2} copies for 5 fetchers");
    for name in names {
        assert_fetched(&scene, &name, &dataset);
    }
}

#[test]
fn loopback_address_keeps_dft_off_the_lan() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let quiet = lab.host(0).sent_bytes();
    let place = Place::On(lab.host(0));
    let seeder = Seeder::start(&scene, place, &dataset, &["--listen", "127.0.0.1"]);
    let options = ["--listen", "127.0.0.1", "--linger", "0"];
    fetch(&scene, place, "fetcher", &seeder.manifest, &options).wait().expect_code(0);
    let sent = lab.host(0).sent_bytes() - quiet;
    // The kernel itself solicits IPv6 routers and neighbours now and then.
    assert!(sent < 2000, "{sent} bytes left the host");
}

#[test]
fn manifest_with_hints_needs_no_multicast() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &["--no-mdns"]);
    let options = ["--no-mdns", "--linger", "0"];
    fetch(&scene, Place::On(lab.host(1)), "fetcher", &seeder.manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn other_site_fetches_by_the_hints_of_the_manifest() {
    let Some(lab) = Lab::hosts(1).second_site(2, 200).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 8);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let fetchers = [1, 2]
        .map(|host| fetch(&scene, Place::On(lab.host(host)), &format!("{host}"), &seeder.manifest, &[]));
    for fetcher in fetchers {
        fetcher.wait().expect_code(0);
    }
    for name in ["1", "2"] {
        assert_fetched(&scene, name, &dataset);
    }
    println!("{:.2} copies crossed the trunk", lab.trunk_bytes_into(1) as f64 / (8 * MIB) as f64);
}

#[test]
fn fetch_goes_on_after_a_partition_heals() {
    let Some(lab) = Lab::hosts(2).rate_mbit(100).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 24);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let fetcher = fetch(&scene, Place::On(lab.host(1)), "fetcher", &seeder.manifest, &["--linger", "0"]);
    fetcher.wait_until("a quarter", has_percent(25));
    lab.host(0).partition();
    std::thread::sleep(Duration::from_secs(3));
    lab.host(0).heal();
    fetcher.wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn fetch_completes_though_packets_are_lost() {
    let Some(lab) = Lab::hosts(3).rate_mbit(200).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 4, 500, None);
    lab.host(0).lose_percent(5);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    for host in [1, 2] {
        let name = host.to_string();
        fetch_to_end(&scene, Place::On(lab.host(host)), &name, &seeder.manifest).expect_code(0);
        assert_fetched(&scene, &name, &dataset);
    }
}
