//! A running `dft`: its events as they arrive, its signals, its end and what it cost.
//!
//! Invariants: every wait has a bound, and a process never outlives its [`Process`]. Standard
//! output is read as JSON lines where it is JSON; both streams also go to files, which the scene
//! shows when its test fails.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use super::scene::tail;

/// How long a test waits for anything before it fails: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often a process that is being waited for is looked at: after each hundredth of the time
/// that it runs, within these bounds, so that short runs are timed well and long ones disturbed
/// little.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(1);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(20);
/// The kernel counts CPU time in these, everywhere that Linux shows it (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// One JSON line of a process.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it arrived.
    pub at: Instant,
    /// The object.
    pub value: Value,
}

impl Event {
    /// What happened: the field `event`.
    pub fn name(&self) -> &str {
        self.value["event"].as_str().unwrap_or("")
    }

    /// A number that the event must have.
    pub fn number(&self, field: &str) -> u64 {
        self.value[field].as_u64().unwrap_or_else(|| panic!("no number «{field}» in {}", self.value))
    }

    /// A text that the event must have.
    pub fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or_else(|| panic!("no text «{field}» in {}", self.value))
    }

    /// A list of texts that the event must have.
    pub fn texts(&self, field: &str) -> Vec<String> {
        let texts = self.value[field].as_array();
        let texts = texts.unwrap_or_else(|| panic!("no list «{field}» in {}", self.value));
        texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// What the reading thread has seen of a process's standard output.
#[derive(Default)]
struct Output {
    events: Vec<Event>,
    other_lines: Vec<String>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    output: Mutex<Output>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a process has used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    /// CPU time in user mode and in the kernel, in seconds, of it and of children it waited for.
    pub cpu_seconds: f64,
    /// Most memory that it held at one time, in KiB, as far as it was looked at.
    pub peak_memory_kib: u64,
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its JSON lines.
    pub events: Vec<Event>,
    /// Its standard output where that was not JSON.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed: Duration,
    /// What it used.
    pub cost: Cost,
}

impl Outcome {
    /// The last event with this name.
    pub fn event(&self, name: &str) -> &Event {
        let event = self.events.iter().rfind(|event| event.name() == name);
        event.unwrap_or_else(|| panic!("no event «{name}» in {:#?}\n{}", self.events, self.stderr))
    }

    /// Fails the test unless it ended with this exit code.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code; stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// A process that was started by a test, and that ends with it.
pub struct Process {
    child: Child,
    name: String,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
    stderr_log: PathBuf,
    started: Instant,
    peak_memory_kib: u64,
}

impl Process {
    pub(super) fn start(mut command: Command, name: String, log: &Path) -> Self {
        let create = |extension: &str| {
            let path = PathBuf::from(format!("{}.{extension}", log.display()));
            let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (file, path)
        };
        let (stdout_log, _) = create("stdout");
        let (stderr_file, stderr_log) = create("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr_file);
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let shared = Arc::new(Shared::default());
        let stdout = child.stdout.take().expect("it was asked for");
        let reader = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || read_output(stdout, stdout_log, &shared)
        });
        Self { child, name, shared, reader: Some(reader), stderr_log, started, peak_memory_kib: 0 }
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the first event with this name.
    pub fn wait_for(&self, name: &str) -> Event {
        self.wait_until(name, |event| event.name() == name)
    }

    /// Waits for the first event that `wanted` accepts; `what` describes it.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.wait_within(PATIENCE, what, wanted)
    }

    /// Waits so long for the first event that `wanted` accepts; `what` describes it.
    pub fn wait_within(&self, patience: Duration, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + patience;
        let mut output = self.shared.lock();
        let mut seen = 0;
        loop {
            if let Some(event) = output.events[seen..].iter().find(|event| wanted(event)) {
                return event.clone();
            }
            seen = output.events.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if output.ended || left.is_zero() {
                let why = if output.ended { "ended without" } else { "has not come to" };
                let last = output.events.last().map(|event| event.value.to_string());
                drop(output);
                panic!("{} {why} «{what}»; last event: {last:?}\n{}", self.name, tail(&self.stderr_log));
            }
            output = self.shared.changed.wait_timeout(output, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.lock().events.clone()
    }

    /// The last value of a number in the events so far; 0 where none had it.
    pub fn last_number(&self, field: &str) -> u64 {
        let output = self.shared.lock();
        output.events.iter().rev().find_map(|event| event.value[field].as_u64()).unwrap_or(0)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr_log).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
    }

    /// SIGKILL: what a crash looks like to everyone else.
    pub fn kill9(mut self) -> Outcome {
        self.signal(Signal::KILL);
        self.finish(PATIENCE)
    }

    /// SIGSTOP: it hangs until [`Process::cont`].
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGINT, then waits for its end.
    pub fn interrupt(mut self) -> Outcome {
        self.signal(Signal::INT);
        self.finish(PATIENCE)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Outcome {
        self.finish(PATIENCE)
    }

    /// Waits so long for its end.
    pub fn wait_exit_within(mut self, patience: Duration) -> Outcome {
        self.finish(patience)
    }

    /// Its memory so far: the peak only grows, so looking late loses little.
    pub fn sample_memory(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok());
        self.peak_memory_kib = self.peak_memory_kib.max(kib.unwrap_or(0));
        self.peak_memory_kib
    }

    fn finish(&mut self, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        while !self.is_zombie() {
            if Instant::now() >= deadline {
                let stderr = tail(&self.stderr_log);
                panic!("{} has not ended within {} s\n{stderr}", self.name, patience.as_secs());
            }
            self.sample_memory();
            let interval = self.started.elapsed() / 100;
            std::thread::sleep(interval.clamp(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX));
        }
        let elapsed = self.started.elapsed();
        // A process that ended and was not waited for yet still has its CPU times.
        let cost = Cost { cpu_seconds: self.cpu_seconds(), peak_memory_kib: self.peak_memory_kib };
        let status = self.child.wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.name));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reading thread does not panic");
        }
        let output = self.shared.lock();
        Outcome {
            code: status.code(),
            events: output.events.clone(),
            stdout: output.other_lines.join("\n"),
            stderr: self.stderr(),
            elapsed,
            cost,
        }
    }

    fn is_zombie(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.pid()), options), Ok(None))
    }

    /// User and system time of it and of the children that it waited for: fields 14 to 17 of
    /// proc(5)'s `stat`.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // The second field is a name in parentheses that may hold blanks.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_ascii_whitespace().skip(11).take(4);
        ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read_output(stdout: ChildStdout, mut log: File, shared: &Shared) {
    for line in BufReader::new(stdout).split(b'\n') {
        let Ok(line) = line else { break };
        let _ = log.write_all(&line).and_then(|()| log.write_all(b"\n"));
        let at = Instant::now();
        let mut output = shared.lock();
        match serde_json::from_slice::<Value>(&line) {
            Ok(value) if value.is_object() => output.events.push(Event { at, value }),
            _ => output.other_lines.push(String::from_utf8_lossy(&line).into_owned()),
        }
        shared.changed.notify_all();
    }
    shared.lock().ended = true;
    shared.changed.notify_all();
}
