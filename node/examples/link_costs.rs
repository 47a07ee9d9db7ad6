//! What links cost by themselves: no disk, no hash, both ends on one thread of this process.
//!
//! `link_costs on|off GIB HANDSHAKES`, with and without encryption.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dft::net::identity::Identity;
use dft::net::link::endpoint::EndpointConfig;
use dft::net::link::{Endpoint, Open, Route};
use dft_protocol::id::ManifestId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// A block as dft sends it, and a short frame in front.
const BLOCK_LEN: usize = 256 * 1024;
const FRAME_LEN: usize = 14;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [encryption, gib, handshakes] = arguments.as_slice() else {
        return Err("usage: link_costs on|off GIB HANDSHAKES".into());
    };
    let (gib, handshakes): (usize, u32) = (gib.parse()?, handshakes.parse()?);
    let manifest = ManifestId::from_bytes([1; 32]);
    let start = || {
        let config = EndpointConfig {
            identity: Identity::generate(),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            encryption: encryption == "on",
            site: None,
            secret: None,
        };
        let (endpoint, tasks) = Endpoint::start(config)?;
        let (opened, links) = mpsc::channel(8);
        endpoint.serve(manifest, Route { opened, complete: Arc::default(), piece_len_max: 1 << 20 });
        Ok::<_, Box<dyn std::error::Error>>((endpoint, tasks, links))
    };
    let (listener, _listening, mut links) = start()?;
    let (dialler, _dialling, _none) = start()?;
    let addr = listener.listen_addrs()[0];

    let before = cpu_seconds()?;
    for _ in 0..handshakes {
        dialler.dial(addr, manifest).await?;
        links.recv().await.ok_or("the listener is gone")?;
    }
    let each = (cpu_seconds()? - before) * 1e3 / f64::from(handshakes.max(1));
    println!("encryption {encryption}: {each:.3} CPU ms per handshake, both ends");

    let sending = dialler.dial(addr, manifest).await?;
    let receiving = links.recv().await.ok_or("the listener is gone")?;
    let before = cpu_seconds()?;
    let (sent, received) = tokio::join!(send(sending, gib), receive(receiving, gib));
    sent?;
    received?;
    let each = (cpu_seconds()? - before) / gib.max(1) as f64;
    println!("encryption {encryption}: {each:.3} CPU s/GiB, both ends");
    Ok(())
}

async fn send(mut link: Open, gib: usize) -> std::io::Result<()> {
    let block = vec![7; FRAME_LEN + BLOCK_LEN];
    for _ in 0..gib << 12 {
        link.write.write_all(&block).await?;
    }
    link.write.shutdown().await
}

async fn receive(mut link: Open, gib: usize) -> std::io::Result<()> {
    let (mut frame, mut block) = ([0; FRAME_LEN], vec![0; BLOCK_LEN]);
    for _ in 0..gib << 12 {
        link.read.read_exact(&mut frame).await?;
        link.read.read_exact(&mut block).await?;
    }
    Ok(())
}

/// What this thread has used so far.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = statistics.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}
