//! On what it was measured.

use std::fs;
use std::process::Command;

/// A line that names the machine and the day.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown CPU", |(_, model)| model);
    let kernel = line_of("/proc/sys/kernel/osrelease");
    let congestion_control = congestion_control();
    format!("{}: {} x {model}, Linux {kernel}, TCP {congestion_control}", date("+%F"), cores())
}

/// The day and the time in UTC, with the load of the last minute.
pub fn now() -> String {
    let load = line_of("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{}, load {load}", date("+%F %H:%M"))
}

/// Whether we are the machine's root, not that of a user namespace.
pub fn is_root() -> bool {
    let users: Vec<String> =
        line_of("/proc/self/uid_map").split_ascii_whitespace().map(str::to_owned).collect();
    users == ["0", "0", "4294967295"] && rustix::process::geteuid().is_root()
}

/// What TCP uses where no one says otherwise.
pub fn congestion_control() -> String {
    line_of("/proc/sys/net/ipv4/tcp_congestion_control")
}

fn date(format: &str) -> String {
    let output = Command::new("date").args(["-u", format]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// How many threads run at once.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |line| line.trim().to_owned())
}
