//! What people and programs see: progress and messages on stderr, JSON lines on stdout.
//!
//! Data and JSON go to stdout, everything else to stderr. Progress is drawn only on a terminal.
//! With `--json`, a person's messages are not printed at all, but for errors.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// How often programs get a progress event.
pub const PROGRESS_EVENT_EVERY: Duration = Duration::from_millis(500);

/// Tells of one command's work.
pub struct Reporter {
    json: bool,
    bar: ProgressBar,
    last_event: Option<Instant>,
}

impl Reporter {
    /// A reporter; with `json` for programs.
    pub fn new(json: bool) -> Self {
        let draws = !json && std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if draws {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        Self { json, bar, last_event: None }
    }

    /// One JSON line, where JSON is wanted.
    pub fn event(&self, event: &Value) {
        if self.json {
            let mut stdout = std::io::stdout().lock();
            // Whoever does not read our output any more does not want it.
            let _ = writeln!(stdout, "{event}").and_then(|()| stdout.flush());
        }
    }

    /// A line for a person.
    pub fn say(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| to_stderr(text));
        }
    }

    /// A line for a person that also those should see who read JSON.
    pub fn warn(&self, text: &str) {
        self.bar.suspend(|| to_stderr(&format!("warning: {text}")));
    }

    /// Begins to draw the progress of some bytes.
    pub fn begin(&self, verb: &'static str, total: u64) {
        let style = "{prefix:>9} [{bar:28}] {percent:>3}% {bytes}/{total_bytes} {msg}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("━━ "));
        self.bar.set_prefix(verb);
        self.bar.set_length(total);
        self.bar.set_position(0);
        self.bar.reset_elapsed();
    }

    /// Draws how far it is.
    pub fn progress(&self, bytes: u64, message: impl Into<String>) {
        self.bar.set_position(bytes);
        self.bar.set_message(message.into());
        self.bar.tick();
    }

    /// Draws a line about work that has no end of its own.
    pub fn status(&self, message: String) {
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_message(message);
        self.bar.tick();
    }

    /// The part of a progress bar that may be moved to another thread.
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// Whether it is time for a progress event.
    pub fn progress_event_due(&mut self) -> bool {
        let due = self.json && self.last_event.is_none_or(|at| at.elapsed() >= PROGRESS_EVENT_EVERY);
        if due {
            self.last_event = Some(Instant::now());
        }
        due
    }

    /// Takes the progress bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Whether whoever typed these words wants JSON, also where they make no sense otherwise.
pub fn asks_for_json(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> bool {
    words.into_iter().take_while(|word| word.as_ref() != "--").any(|word| word.as_ref() == "--json")
}

/// Prints why a command failed: to stderr for people, and as an event for programs.
pub fn print_failure(failure: &Failure, json: bool) {
    if json {
        tell_failure(failure);
    }
    to_stderr(&format!("error: {}", failure.message));
    if let Some(hint) = &failure.hint {
        to_stderr(&format!("hint: {hint}"));
    }
}

/// Prints why a command failed as an event, for programs.
pub fn tell_failure(failure: &Failure) {
    let event = serde_json::json!({
        "event": "error",
        "code": failure.kind.exit_code(),
        "message": failure.message,
        "hint": failure.hint,
    });
    Reporter::new(true).event(&event);
}

/// A line to stderr. Whoever does not read it any more does not want it: that is no failure.
pub fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A number of things: «1 piece», «2 pieces».
pub fn counted(count: impl Into<u64>, thing: &str) -> String {
    let count = count.into();
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Bytes as people read them: «1.5 GiB».
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A duration as people read it: «850 ms», «12.3 s», «1 h 2 m».
pub fn human_time(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..=99 => format!("{:.1} s", time.as_secs_f64()),
        100..=5999 => format!("{} m {} s", time.as_secs() / 60, time.as_secs() % 60),
        seconds => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A rate over the latest seconds, and what follows from it.
#[derive(Default)]
pub struct Rate {
    samples: std::collections::VecDeque<(Instant, u64)>,
}

impl Rate {
    /// The stretch of time that a rate looks back on.
    const WINDOW: Duration = Duration::from_secs(5);

    /// Takes in how many bytes there are now; returns bytes per second.
    pub fn update(&mut self, bytes: u64) -> f64 {
        let now = Instant::now();
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| now - *at > Self::WINDOW) {
            self.samples.pop_front();
        }
        let Some((first_at, first_bytes)) = self.samples.front() else {
            return 0.0;
        };
        let elapsed = (now - *first_at).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate is for people")]
        if elapsed > 0.0 { bytes.saturating_sub(*first_bytes) as f64 / elapsed } else { 0.0 }
    }
}

/// Seconds that `rest` bytes take at `rate` bytes per second; `None` where nothing moves.
pub fn eta(rest: u64, rate: f64) -> Option<Duration> {
    #[allow(clippy::cast_precision_loss, reason = "an estimate is for people")]
    let seconds = rest as f64 / rate;
    (rate >= 1.0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}
