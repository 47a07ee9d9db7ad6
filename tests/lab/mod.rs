//! A network laboratory without root: hosts, a switch, shaped links and faults, made of Linux
//! namespaces by `unshare`, `ip`, `tc` and `nft`.
//!
//! A [`Lab`] is a user, a network and a mount namespace held open by one process. Inside,
//! each [`Host`] is a network namespace `hN` with one interface on the switch of its site:
//!
//! ```text
//!   h0 eth0 ── v0 ┐                        ┌ v2 ── eth0 h2
//!                 ├ br0 ══ the trunk ══ br1 ┤
//!   h1 eth0 ── v1 ┘                        └ v3 ── eth0 h3
//! ```
//!
//! Invariants: nothing that a lab made outlives it (its namespaces die with the holder, its
//! processes with the thread that started them), and nothing inside of it reaches the machine's
//! own network. Start reading at [`Lab::hosts`]; [`scene`] runs `dft` here or on a host, [`data`]
//! makes datasets, [`tree`] compares them, [`faults`] breaks the network.

pub mod data;
pub mod faults;
pub mod hints;
pub mod process;
pub mod scene;
pub mod tree;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use faults::Faults;

/// Most hosts of one site: their addresses end in 1 to 200, the site's gateway in 254.
const SITE_HOSTS_MAX: usize = 200;
/// A shell command inside a lab that takes longer than this, in seconds, is killed.
const SCRIPT_SECONDS_MAX: u32 = 30;
/// What a shaped link lets through at once, in KiB: two of the largest segments that the kernel
/// hands down whole (64 KiB).
const SHAPER_BURST_KIB: u32 = 128;
/// How long a shaped link queues before it drops, in milliseconds: about what a small switch does.
const SHAPER_QUEUE_MS: u32 = 50;
/// Size of a filesystem in an image: XFS takes no less than 300 MiB.
const IMAGE_MIB: u32 = 400;
/// Set to 1, a lab that cannot be made fails its test; otherwise the test is skipped by name.
const REQUIRE_LAB: &str = "DFT_REQUIRE_LAB";

/// Which lab to make.
#[derive(Clone)]
pub struct LabBuilder {
    hosts_per_site: Vec<usize>,
    /// What host N is shaped to is the N-th of these, from the start again where they end; nothing
    /// is shaped where there are none.
    rates_mbit: Vec<u32>,
    trunk_mbit: Option<u32>,
    congestion_control: Option<&'static str>,
    as_machine_root: bool,
}

impl LabBuilder {
    /// Makes the lab without a user namespace: what runs in it is root of the whole machine, for
    /// the few things that the kernel allows to no other. Only root can do this.
    pub fn with_machine_root(mut self) -> Self {
        self.as_machine_root = true;
        self
    }

    /// Shapes each host's link to this rate in both directions, in Mbit/s.
    pub fn rate_mbit(self, rate: u32) -> Self {
        self.rates_mbit([rate])
    }

    /// Shapes host N to the N-th of these rates, in both directions, in Mbit/s; hosts beyond the
    /// last rate begin with the first again.
    pub fn rates_mbit(mut self, rates: impl IntoIterator<Item = u32>) -> Self {
        self.rates_mbit = rates.into_iter().collect();
        self
    }

    /// Adds a second site with this many hosts, behind a trunk of this rate each way in Mbit/s.
    /// The sites are subnets of their own: multicast stays within one.
    pub fn second_site(mut self, hosts: usize, trunk_mbit: u32) -> Self {
        self.hosts_per_site.push(hosts);
        self.trunk_mbit = Some(trunk_mbit);
        self
    }

    /// Chooses TCP's congestion control for all hosts; the machine's own where this isn't called.
    pub fn congestion_control(mut self, name: &'static str) -> Self {
        self.congestion_control = Some(name);
        self
    }

    /// The lab, or nothing where the kernel forbids it: then the running test is reported as
    /// skipped, or fails where `DFT_REQUIRE_LAB=1`.
    pub fn start_or_skip(self) -> Option<Lab> {
        match Lab::available().and_then(|()| self.start()) {
            Ok(lab) => Some(lab),
            Err(reason) => {
                let test = std::thread::current().name().unwrap_or("a test").to_owned();
                let required = std::env::var_os(REQUIRE_LAB).is_some_and(|value| value == "1");
                assert!(!required, "{test} needs a network laboratory ({REQUIRE_LAB}=1): {reason}");
                // Not by eprintln!: what a passing test prints that way is never shown.
                let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
                None
            }
        }
    }

    /// The lab, or why there is none.
    pub fn start(self) -> Result<Lab, String> {
        assert!(self.hosts_per_site.iter().all(|&hosts| hosts <= SITE_HOSTS_MAX), "a site has room");
        let lab = Lab::empty(self.places(), self.congestion_control, self.as_machine_root)?;
        lab.try_run(&self.script(&lab.places))?;
        Ok(lab)
    }

    fn places(&self) -> Vec<Place> {
        let site = |(site, &hosts): (usize, &usize)| {
            let site = u8::try_from(site).expect("there are two sites at most");
            (1..=hosts).map(move |number| Place {
                site,
                number: u8::try_from(number).expect("SITE_HOSTS_MAX fits in a byte"),
            })
        };
        self.hosts_per_site.iter().enumerate().flat_map(site).collect()
    }

    /// The shell script that builds the network inside of the namespaces.
    fn script(&self, places: &[Place]) -> String {
        let mut script = String::from(
            "mount -t tmpfs lab /run\nmkdir /run/netns\nip link set lo up\n\
             echo 1 > /proc/sys/net/ipv4/ip_forward\n\
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n\
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad\n",
        );
        // A switch asks no firewall. The file is there where the kernel's module br_netfilter is loaded.
        for family in ["ip", "ip6", "arp"] {
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            let _ = writeln!(script, "[ ! -e {file} ] || echo 0 > {file}");
        }
        for site in 0..self.hosts_per_site.len() {
            let _ = write!(
                script,
                "ip link add br{site} type bridge mcast_snooping 0\nip link set br{site} up\n\
                 ip addr add 10.77.{site}.254/24 dev br{site}\n\
                 ip addr add fd77:0:0:{site}::fe/64 dev br{site} nodad\n",
            );
            // The switch itself sends only what was routed to it: what crossed the trunk.
            if let Some(rate) = self.trunk_mbit {
                let _ = writeln!(script, "tc qdisc add dev br{site} root {}", shaper(rate));
            }
        }
        for (index, place) in places.iter().enumerate() {
            self.script_host(&mut script, index, *place);
        }
        script_neighbours(&mut script, places);
        script
    }

    fn script_host(&self, script: &mut String, index: usize, place: Place) {
        let (host, port, site) = (format!("h{index}"), format!("v{index}"), place.site);
        let (v4, v6, mac) = (place.v4(), place.v6(), place.mac());
        // Without duplicate address detection, IPv6 addresses can be used at once.
        let _ = write!(
            script,
            "ip netns add {host}\n\
             ip netns exec {host} sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'\n\
             ip link add {port} type veth peer name eth0 address {mac} netns {host}\n\
             ip link set {port} master br{site} up\n\
             ip -n {host} link set lo up\nip -n {host} link set eth0 up\n\
             ip -n {host} addr add {v4}/24 brd + dev eth0\n\
             ip -n {host} addr add {v6}/64 dev eth0 nodad\n\
             ip -n {host} route add default via 10.77.{site}.254\n\
             ip -n {host} route add default via fd77:0:0:{site}::fe\n",
        );
        if !self.rates_mbit.is_empty() {
            let shaper = shaper(self.rates_mbit[index % self.rates_mbit.len()]);
            let _ = write!(
                script,
                "tc qdisc add dev {port} root {shaper}\ntc -n {host} qdisc add dev eth0 root {shaper}\n",
            );
        }
        if let Some(name) = self.congestion_control {
            let _ = write!(
                script,
                "ip -n {host} route change 10.77.{site}.0/24 dev eth0 proto kernel scope link src {v4} congctl {name}\n\
                 ip -n {host} route change default via 10.77.{site}.254 congctl {name}\n\
                 ip -n {host} route change fd77:0:0:{site}::/64 dev eth0 proto kernel metric 256 congctl {name}\n\
                 ip -n {host} route change default via fd77:0:0:{site}::fe congctl {name}\n",
            );
        }
    }
}

/// Hosts know the others of their site from the start. The kernel's table of neighbours has room for 1,024 that
/// were learnt, of all namespaces together: where 32 hosts learn of each other it overflows, and packets of
/// everybody on the machine are lost.
fn script_neighbours(script: &mut String, places: &[Place]) {
    for (index, place) in places.iter().enumerate() {
        let site = place.site;
        if place.number == 1 {
            let hosts = places.iter().filter(|other| other.site == site).count();
            let [v4, v6] = [format!("10.77.{site}.%d"), format!("fd77:0:0:{site}::%x")];
            let mac = format!("02:77:00:00:{site:02x}:%02x");
            let _ = write!(
                script,
                "for n in $(seq {hosts}); do\n\
                 printf 'neigh add {v4} lladdr {mac} dev eth0 nud permanent\\n' $n $n\n\
                 printf 'neigh add {v6} lladdr {mac} dev eth0 nud permanent\\n' $n $n\n\
                 done > /run/neighbours{site}\n",
            );
        }
        let _ = writeln!(script, "ip -n h{index} -batch /run/neighbours{site}");
    }
}

fn shaper(rate_mbit: u32) -> String {
    format!("tbf rate {rate_mbit}mbit burst {SHAPER_BURST_KIB}kb latency {SHAPER_QUEUE_MS}ms")
}

/// Where a host stands: its site and its number there.
#[derive(Clone, Copy)]
struct Place {
    site: u8,
    number: u8,
}

impl Place {
    fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.site, self.number)
    }

    fn mac(self) -> String {
        format!("02:77:00:00:{:02x}:{:02x}", self.site, self.number)
    }

    fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, self.site.into(), 0, 0, 0, self.number.into())
    }
}

/// A running laboratory. Dropping it removes all of it.
pub struct Lab {
    holder: Child,
    as_machine_root: bool,
    places: Vec<Place>,
    faults: Mutex<Faults>,
    congestion_control: String,
}

impl Lab {
    /// A lab with this many hosts on one switch.
    pub fn hosts(count: usize) -> LabBuilder {
        LabBuilder {
            hosts_per_site: vec![count],
            rates_mbit: Vec::new(),
            trunk_mbit: None,
            congestion_control: None,
            as_machine_root: false,
        }
    }

    /// Whether this kernel and user can make a lab, and why not. Tried once per process.
    pub fn available() -> Result<(), String> {
        static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();
        AVAILABLE.get_or_init(|| Lab::hosts(1).rate_mbit(100).start().map(drop)).clone()
    }

    /// The namespaces alone, with nothing in them.
    fn empty(
        places: Vec<Place>,
        congestion_control: Option<&str>,
        as_machine_root: bool,
    ) -> Result<Self, String> {
        // The holder reads a pipe that only this process holds: it ends when we do, however.
        let mut holder = tool("unshare");
        if !as_machine_root {
            holder.arg("--map-root-user");
        }
        let mut holder = holder
            .args(["--net", "--mount", "sh", "-c", "echo ready; exec cat > /dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run unshare: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("it was asked for");
        if BufReader::new(stdout).read_line(&mut line).is_err() || line != "ready\n" {
            let _ = holder.kill();
            let output = holder.wait_with_output().map_err(|error| error.to_string())?;
            return Err(format!("unshare: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let congestion_control = match congestion_control {
            Some(name) => name.to_owned(),
            None => machine_congestion_control(),
        };
        Ok(Self { holder, as_machine_root, places, faults: Mutex::default(), congestion_control })
    }

    /// The host with this number, from 0; those of the second site come last.
    pub fn host(&self, index: usize) -> Host<'_> {
        assert!(index < self.places.len(), "the lab has {} hosts, none is h{index}", self.places.len());
        Host { lab: self, index }
    }

    /// How many hosts there are.
    pub fn host_count(&self) -> usize {
        self.places.len()
    }

    /// TCP's congestion control on every host.
    pub fn congestion_control(&self) -> &str {
        &self.congestion_control
    }

    /// Runs a shell script inside the lab, beside its hosts.
    pub fn run(&self, script: &str) -> String {
        self.try_run(script).unwrap_or_else(|error| panic!("in the lab: {error}"))
    }

    fn try_run(&self, script: &str) -> Result<String, String> {
        let mut command = tool("timeout");
        command.args(["--signal=KILL", &SCRIPT_SECONDS_MAX.to_string()]);
        self.enter(&mut command);
        command.args(["sh", "-ec", script]).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("cannot run nsenter: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", output.status, stderr.trim()))
    }

    /// Bytes that the switch of a site sent out of the trunk into that site.
    pub fn trunk_bytes_into(&self, site: usize) -> u64 {
        link_bytes(&self.run(&format!("ip -s -j link show dev br{site}")), "tx")
    }

    /// Where a path of the lab's mounts is seen from outside.
    pub fn outside_path(&self, inside: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(inside.strip_prefix("/").expect("a path inside the lab is absolute"))
    }

    /// Mounts an empty file system of limited size, in KiB, on a directory: seen by what runs on
    /// the lab's hosts, and by us through [`Lab::outside_path`].
    pub fn mount_small_disk(&self, directory: &Path, kib: u32) {
        self.run(&format!("mount -t tmpfs -o size={kib}k disk '{}'", directory.display()));
    }

    /// Changes the size of what [`Lab::mount_small_disk`] mounted.
    pub fn resize_small_disk(&self, directory: &Path, kib: u32) {
        // With the device named, options of the running mount are not repeated: its owner, as the
        // kernel shows it, does not exist inside of the lab.
        self.run(&format!("mount -o remount,size={kib}k disk '{}'", directory.display()));
    }

    /// Makes a filesystem of this kind, as `mkfs.KIND` does, in a new file `image`, and mounts it as a small
    /// disk; why not, where there is no such program, or no root, loop device or driver.
    pub fn mount_image(&self, kind: &str, image: &Path, directory: &Path) -> Result<(), String> {
        let (image, directory) = (image.display(), directory.display());
        self.try_run(&format!(
            "truncate -s {IMAGE_MIB}M '{image}'; mkfs.{kind} -q '{image}'
             mount -t {kind} -o loop '{image}' '{directory}'"
        ))
        .map(drop)
    }

    /// Makes a directory read-only for what runs on the lab's hosts, even for root.
    pub fn mount_read_only(&self, directory: &Path) {
        let directory = directory.display();
        self.run(&format!(
            "mount --bind '{directory}' '{directory}'; mount -o remount,bind,ro '{directory}'"
        ));
    }

    /// A command that runs `program` beside the hosts, as the first process of a process namespace
    /// with a mount namespace of its own: it may run programs on the hosts by `ip netns exec hN`,
    /// and whatever it started or mounted ends with it. It is killed with the thread that starts it.
    pub fn isolated_command(&self, program: &Path) -> Command {
        let mut command = tool("env");
        self.enter(&mut command);
        command.args(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]);
        command.args(["--kill-child=KILL", "--mount-proc", "--"]).arg(program);
        command
    }

    fn enter(&self, command: &mut Command) {
        let holder = self.holder.id().to_string();
        command.arg("nsenter");
        if !self.as_machine_root {
            command.args(["--preserve-credentials", "-U"]);
        }
        command.args(["-m", "-n", "-t", &holder, "--"]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// One host of a lab.
#[derive(Clone, Copy)]
pub struct Host<'lab> {
    lab: &'lab Lab,
    index: usize,
}

impl<'lab> Host<'lab> {
    /// Its name, `hN`.
    pub fn name(&self) -> String {
        format!("h{}", self.index)
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.lab.places[self.index].v4()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.lab.places[self.index].v6()
    }

    /// A command that runs `program` on this host in `directory`. It is killed with the thread
    /// that starts it, so a thread must live as long as what it starts. Every step is an `exec`:
    /// the process id is that of `program`.
    pub fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = tool("env");
        self.lab.enter(&mut command);
        // Last of all, since entering a user namespace forgets the death signal.
        command.args(["ip", "netns", "exec", &self.name(), "setpriv", "--pdeathsig", "KILL", "env", "-C"]);
        command.arg(directory).arg(program);
        command
    }

    /// Bytes that left the host since the lab was made.
    pub fn sent_bytes(&self) -> u64 {
        link_bytes(&self.link_statistics(), "tx")
    }

    /// Bytes that reached the host since the lab was made.
    pub fn received_bytes(&self) -> u64 {
        link_bytes(&self.link_statistics(), "rx")
    }

    fn link_statistics(&self) -> String {
        self.lab.run(&format!("ip -n {} -s -j link show dev eth0", self.name()))
    }
}

/// A command that is found where Debian keeps the network tools, whoever runs it.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"));
    command
}

fn machine_congestion_control() -> String {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn link_bytes(json: &str, direction: &str) -> u64 {
    let links: serde_json::Value = serde_json::from_str(json).expect("ip -j prints JSON");
    links[0]["stats64"][direction]["bytes"].as_u64().expect("ip -s prints byte counters")
}
