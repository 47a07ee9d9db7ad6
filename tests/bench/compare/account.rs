//! What the processes of a trial cost, as proc(5) tells it.
//!
//! A trial is the first process of its namespace: the others are all below it, and what has lost
//! its parent is handed to it. So the sum over everything that /proc shows, with what each waited
//! for, leaves no process out, whoever started it and however it ended.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The kernel counts CPU time in these, everywhere that Linux shows it (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// The trial itself.
const TRIAL: u32 = 1;

/// All processes but the trial itself.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|&id| id != TRIAL).collect()
}

/// CPU time that all processes have used so far, in user mode and in the kernel, those that ended
/// among them; what the trial itself uses is not counted.
pub fn cpu_seconds() -> f64 {
    let running: f64 = processes().into_iter().map(|process| cpu_ticks(process, 0)).sum();
    // Of the trial only what it waited for: the last two of the four fields.
    (running + cpu_ticks(TRIAL, 2)) / TICKS_PER_SECOND
}

/// Fields 14 to 17 of `stat`, without the first `skip` of them: user and system time of a process,
/// and of the children that it waited for.
fn cpu_ticks(process: u32, skip: usize) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is a name in parentheses that may hold blanks.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_ascii_whitespace().skip(11 + skip).take(4 - skip);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}

/// Memory of the largest process in MiB, without what is mapped from files: those lie in memory
/// here, and would count twice.
pub fn largest_process_mib() -> f64 {
    let anonymous = |process: u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.trim().strip_suffix(" kB")?.parse::<f64>().ok()
    };
    processes().into_iter().filter_map(anonymous).fold(0.0, f64::max) / 1024.0
}

/// SIGKILL for one process, if it still runs.
pub fn kill(process: u32) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
}
