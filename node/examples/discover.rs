//! Finds the peers of one manifest and prints when each was found.
//!
//! `discover MANIFEST LINK_PORT LISTEN_IP SECONDS [TRACKER…]`: for trying discovery by hand, on
//! hosts of network namespaces for example.

use std::time::{Duration, Instant};

use dft::net::discovery::{Config, Dataset, parse_tracker, spawn};
use libp2p::identity::Keypair;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [manifest, link_port, listen, seconds, trackers @ ..] = arguments.as_slice() else {
        return Err("usage: discover MANIFEST LINK_PORT LISTEN_IP SECONDS [TRACKER…]".into());
    };
    let config = Config {
        keypair: Keypair::generate_ed25519(),
        listen: listen.parse()?,
        port: 0,
        mdns: true,
        trackers: trackers.iter().map(|text| parse_tracker(text)).collect::<Result<_, _>>()?,
        embedded_tracker: None,
        link_port: link_port.parse()?,
        site: None,
        network_key: None,
        neighbours: None,
    };
    let manifest = manifest.parse().map_err(|_| "MANIFEST is 64 hexadecimal digits")?;
    let (discovery, mut events) = spawn(config).await?;
    let (asks_lan_in, quiet_for) = (Some(Duration::ZERO), Duration::ZERO);
    discovery.add(Dataset { manifest, complete: false, trackers: Vec::new(), asks_lan_in, quiet_for });
    println!("{:?} spawned", start.elapsed());
    let end = tokio::time::sleep(Duration::from_secs(seconds.parse()?));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(event) = events.recv() => println!("{:?} {event:?}", start.elapsed()),
        }
    }
    discovery.shutdown().await;
    println!("{:?} left", start.elapsed());
    Ok(())
}
