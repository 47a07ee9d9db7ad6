//! Proof that the laboratory does what the other tests take for granted.
//!
//! What runs on a host here is this very test binary: [`probe`] does nothing in an ordinary run,
//! and plays a part where `DFT_PROBE` says which.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::scene::Scene;
use crate::lab::tree::{assert_same, differences};
use crate::lab::{Host, Lab, data};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// What a probe waits for before it gives up.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);
const DATAGRAM_LEN: usize = 1000;
/// What [`say`] sends in all.
const SAID_BYTES: usize = 20_000;
/// How long a datagram that must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn hosts_know_each_other_from_the_start() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let known = lab.run("ip -n h0 neigh show nud permanent");
    for addr in [lab.host(1).v4().to_string(), lab.host(2).v6().to_string()] {
        assert!(known.lines().any(|line| line.starts_with(&format!("{addr} "))), "{addr} in {known}");
    }
    // By the right link addresses: they hear each other.
    let link = lab.run("ip -n h1 link show dev eth0");
    let mac = known.lines().find(|line| line.starts_with(&format!("{} ", lab.host(1).v4())));
    let mac = mac.and_then(|line| line.split(' ').find(|word| word.contains(':'))).expect("a link address");
    assert!(link.contains(mac), "{mac} in {link}");
}

#[test]
fn probe() {
    let Ok(part) = std::env::var("DFT_PROBE") else { return };
    match *part.split(' ').collect::<Vec<_>>() {
        ["sink"] => sink(),
        ["pour", to, bytes] => pour(to.parse().expect("an address"), bytes.parse().expect("a number")),
        ["hear", group] => hear(group.parse().expect("an address")),
        ["say", to] => say(to.parse().expect("an address")),
        _ => panic!("no probe plays «{part}»"),
    }
}

/// Takes one connection and says how many bytes came.
fn sink() {
    let listener = TcpListener::bind("[::]:0").expect("bind");
    println!("probe: {}", listener.local_addr().expect("a bound socket").port());
    let (mut stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(PROBE_PATIENCE)).expect("set a time limit");
    println!("probe: {}", std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or(0));
}

/// Sends so many bytes and says within how many milliseconds the other side had them.
fn pour(to: SocketAddr, bytes: usize) {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, PROBE_PATIENCE).expect("connect");
    stream.write_all(&vec![7; bytes]).expect("send");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    stream.set_read_timeout(Some(PROBE_PATIENCE)).expect("set a time limit");
    let _ = stream.read(&mut [0]);
    println!("probe: {}", started.elapsed().as_millis());
}

/// Listens for datagrams and prints each one's sender.
fn hear(group: Ipv4Addr) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    if group.is_multicast() {
        socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).expect("join");
    }
    socket.set_read_timeout(Some(PROBE_PATIENCE)).expect("set a time limit");
    println!("probe: {}", socket.local_addr().expect("a bound socket").port());
    loop {
        let (_, from) = socket.recv_from(&mut [0; 16]).expect("receive");
        println!("probe: {}", from.ip());
    }
}

/// Sends some datagrams, many more bytes than hosts exchange by themselves.
fn say(to: SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    for _ in 0..SAID_BYTES / DATAGRAM_LEN {
        socket.send_to(&[7; DATAGRAM_LEN], to).expect("send");
    }
}

/// A probe that runs on a host.
struct Probe {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Probe {
    fn start(host: Host<'_>, part: &str) -> Self {
        let mut command = probe_command(host, part);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start a probe");
        let stdout = child.stdout.take().expect("it was asked for");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    /// The next number or address that it says.
    fn says(&mut self) -> String {
        let said = self.lines.by_ref().map_while(Result::ok);
        // The test harness may print something of its own before it, on the same line.
        said.filter_map(|line| line.split_once("probe: ").map(|(_, said)| said.to_owned()))
            .next()
            .expect("the probe says something")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn probe_command(host: Host<'_>, part: &str) -> Command {
    let this = std::env::current_exe().expect("this program has a path");
    let mut command = host.command(&this.display().to_string(), "/".as_ref());
    command.args(["laboratory::probe", "--exact", "--nocapture"]).env("DFT_PROBE", part);
    command
}

fn play(host: Host<'_>, part: &str) {
    let output = probe_command(host, part).output().expect("start a probe");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Sends bytes from one host to another by TCP; returns the milliseconds it took.
fn transfer(from: Host<'_>, to: Host<'_>, v6: bool, bytes: u64) -> u64 {
    let mut sink = Probe::start(to, "sink");
    let port = sink.says();
    let address = if v6 { format!("[{}]:{port}", to.v6()) } else { format!("{}:{port}", to.v4()) };
    let mut pour = Probe::start(from, &format!("pour {address} {bytes}"));
    assert_eq!(sink.says(), bytes.to_string(), "bytes that arrived");
    pour.says().parse().expect("a probe says numbers")
}

#[test]
fn hosts_reach_each_other_by_both_ip_versions() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    transfer(lab.host(0), lab.host(1), false, 1000);
    transfer(lab.host(2), lab.host(1), true, 1000);
}

#[test]
fn multicast_reaches_every_host_of_a_site_and_no_other() {
    let Some(lab) = Lab::hosts(3).second_site(1, 1000).start_or_skip() else { return };
    let mut ears: Vec<Probe> =
        (1..4).map(|host| Probe::start(lab.host(host), &format!("hear {GROUP}"))).collect();
    let ports: Vec<String> = ears.iter_mut().map(Probe::says).collect();
    for port in &ports {
        play(lab.host(0), &format!("say {GROUP}:{port}"));
    }
    // The other site hears its own host alone: the first that it hears is not from the first site.
    play(lab.host(3), &format!("say 127.0.0.1:{}", ports[2]));
    let heard: Vec<String> = ears.iter_mut().map(Probe::says).collect();
    assert_eq!(heard, ["10.77.0.1", "10.77.0.1", "127.0.0.1"]);
}

#[test]
fn shaped_link_is_never_faster_than_its_rate() {
    let Some(lab) = Lab::hosts(2).rate_mbit(80).start_or_skip() else { return };
    let bytes = 4_000_000;
    let milliseconds = transfer(lab.host(0), lab.host(1), false, bytes);
    // 10 bytes per microsecond, but for what the shaper's bucket holds at first.
    let at_least = (bytes - 2 * 128 * 1024) / 10_000;
    assert!(milliseconds >= at_least, "{milliseconds} ms, the rate allows {at_least} ms");
}

#[test]
fn counters_tell_what_each_host_sent() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    transfer(lab.host(0), lab.host(1), false, 1_000_000);
    let sent = lab.host(0).sent_bytes();
    assert!((1_000_000..1_200_000).contains(&sent), "h0 sent {sent} bytes");
    assert!(lab.host(1).received_bytes() >= 1_000_000);
    assert!(lab.host(1).sent_bytes() < 200_000, "h1 sent acknowledgements alone");
    assert!(lab.host(2).sent_bytes() < 20_000, "h2 had no part in it");
}

#[test]
fn trunk_carries_and_counts_what_crosses_sites() {
    let Some(lab) = Lab::hosts(2).second_site(1, 80).start_or_skip() else { return };
    transfer(lab.host(0), lab.host(1), false, 1_000_000);
    assert!(lab.trunk_bytes_into(1) < 20_000, "nothing crossed yet");
    let milliseconds = transfer(lab.host(0), lab.host(2), true, 1_000_000);
    assert!(milliseconds >= (1_000_000 - 128 * 1024) / 10_000, "{milliseconds} ms");
    let crossed = lab.trunk_bytes_into(1);
    assert!((1_000_000..1_200_000).contains(&crossed), "{crossed} bytes crossed");
}

/// A fault, how it begins and how it ends.
type Fault = (&'static str, fn(&Lab), fn(&Lab));

#[test]
fn faults_cut_off_a_host_until_they_end() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let faults: [Fault; 4] = [
        ("partition", |lab| lab.host(0).partition(), |lab| lab.host(0).heal()),
        ("link down", |lab| lab.host(0).link_down(), |lab| lab.host(0).link_up()),
        (
            "silence",
            |lab| lab.host(0).silence_toward(lab.host(1)),
            |lab| lab.host(0).speak_toward(lab.host(1)),
        ),
        ("loss", |lab| lab.host(0).lose_percent(100), |lab| lab.host(0).lose_percent(0)),
    ];
    let mut ear = Probe::start(lab.host(1), "hear 0.0.0.0");
    let port = ear.says();
    for (fault, begin, end) in faults {
        let before = lab.host(1).received_bytes();
        begin(&lab);
        let saying = probe_command(lab.host(0), &format!("say {}:{port}", lab.host(1).v4())).spawn();
        let mut saying = saying.expect("start a probe");
        std::thread::sleep(SILENCE);
        let _ = saying.kill().and_then(|()| saying.wait().map(drop));
        let through = lab.host(1).received_bytes() - before;
        end(&lab);
        assert!(through < SAID_BYTES as u64 / 4, "{through} bytes passed in spite of: {fault}");
        transfer(lab.host(0), lab.host(1), false, 1000);
    }
}

#[test]
fn silence_is_one_way() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    lab.host(0).silence_toward(lab.host(1));
    let mut ear = Probe::start(lab.host(0), "hear 0.0.0.0");
    let port = ear.says();
    // Whoever speaks first must learn the other's link address, so both must speak: give it.
    let address =
        lab.run("ip -n h0 -br link show dev eth0").split_ascii_whitespace().nth(2).map(str::to_owned);
    let address = address.expect("a link has an address");
    lab.run(&format!("ip -n h1 neigh replace {} lladdr {address} dev eth0", lab.host(0).v4()));
    play(lab.host(1), &format!("say {}:{port}", lab.host(0).v4()));
    assert_eq!(ear.says(), "10.77.0.2");
    transfer(lab.host(0), lab.host(2), false, 1000);
}

#[test]
fn congestion_control_is_that_which_was_chosen() {
    let Some(lab) = Lab::hosts(1).congestion_control("reno").start_or_skip() else { return };
    assert_eq!(lab.congestion_control(), "reno");
    let routes = lab.run("ip -n h0 route; ip -n h0 -6 route show default");
    assert!(routes.lines().filter(|route| route.contains("congctl reno")).count() >= 3, "{routes}");
}

#[test]
fn small_disk_fills_up_and_grows() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let disk = scene.new_directory("disk");
    lab.mount_small_disk(&disk, 64);
    let fill = |kib: u32| {
        let script = format!("head -c {kib}k /dev/zero > {}/file", disk.display());
        lab.host(0).command("sh", "/".as_ref()).args(["-c", &script]).output().expect("start sh").status
    };
    assert!(!fill(100).success(), "the disk has no room");
    lab.resize_small_disk(&disk, 200);
    assert!(fill(100).success(), "the disk has room");
    let seen = std::fs::metadata(lab.outside_path(&disk.join("file"))).expect("the file is seen");
    assert_eq!(seen.len(), 100 * 1024);
}

#[test]
fn read_only_mount_stops_even_root() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let directory = scene.new_directory("directory");
    lab.mount_read_only(&directory);
    let path = directory.join("file").display().to_string();
    let touch = lab.host(0).command("touch", "/".as_ref()).arg(path).output().expect("start touch");
    assert!(String::from_utf8_lossy(&touch.stderr).contains("Read-only"), "{touch:?}");
}

#[test]
fn nothing_on_a_host_outlives_the_thread_that_started_it() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let start = || {
        let mut command = lab.host(0).command("sh", "/".as_ref());
        command.args(["-c", "echo started; exec sleep 20"]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start sh");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("it says that it runs");
        child
    };
    let mut sleep = std::thread::scope(|scope| scope.spawn(start).join().expect("it starts"));
    let status = sleep.wait().expect("it ends by itself");
    assert_eq!(status.signal(), Some(9), "it was killed");
}

#[test]
fn odd_tree_is_the_same_twice_and_differences_are_seen() {
    let scene = Scene::new();
    let (one, two) = (scene.path("one"), scene.path("two"));
    data::odd_tree(&one, 1);
    data::odd_tree(&two, 1);
    // Most times are those of the run; all else is the seed's.
    let untimed = differences(&one, &two);
    assert!(untimed.iter().all(|line| line.contains("mtime")), "{untimed:#?}");
    assert_same(&one, &one);
    data::change_byte(&two.join("sparse"), 0);
    assert!(differences(&one, &two).iter().any(|line| line.contains("\"sparse\"")));
}
