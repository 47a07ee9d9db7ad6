//! A trace: what one run of a node did and when, as JSON lines, for whoever looks for the cause of
//! a slow one.
//!
//! [`Trace`] is what the hot path holds: nothing where tracing is off, and a bounded queue where it
//! is on. An event is recorded by a closure, which does not run where tracing is off. A thread of
//! its own takes the queue over now and then and writes it; nobody wakes it, and nobody waits for
//! it. What does not fit is dropped, and the last line says how much that was.
//!
//! [`event`] is what can happen, and the format (docs/TRACE.md describes it); `hooks` makes events
//! out of what goes in and out of the swarm; [`read`] takes a file in; [`summary`] and [`plot`]
//! make sense of several.

pub mod event;
#[cfg(test)]
pub(crate) mod example;
mod hooks;
pub mod plot;
pub mod read;
pub mod summary;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use event::{Event, Phase, Record};

use crate::failure::{Failure, Kind, shown};

/// Events that wait to be written, about 100 bytes each. A busy node makes some 10,000 a second,
/// so this is seconds of a disk that does not answer.
const QUEUE_LEN_MAX: usize = 1 << 16;
/// How often the queue is written: what a kill may cost, and rarely enough to cost nothing.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// How long a node that ends waits for its last lines to be written.
const END_MAX: Duration = Duration::from_secs(1);

/// Where events go. Cheap to clone; off unless a [`Recording`] made it.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Shared>>);

struct Shared {
    origin: Instant,
    queue: Mutex<Queue>,
    /// Wakes the writing thread at the end, and only then.
    ended: Condvar,
}

#[derive(Default)]
struct Queue {
    records: Vec<Record>,
    dropped: u64,
    ended: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn microseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Trace {
    /// Whether anything is recorded.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records what `event` returns, which is called only where tracing is on.
    pub fn record(&self, event: impl FnOnce() -> Event) {
        let Some(shared) = &self.0 else {
            return;
        };
        let us = shared.microseconds(Instant::now());
        let event = event();
        let mut queue = shared.queue();
        if queue.records.len() < QUEUE_LEN_MAX {
            queue.records.push(Record { us, event });
        } else {
            queue.dropped += 1;
        }
    }

    /// Records that a phase of the process begins.
    pub fn phase(&self, phase: Phase) {
        self.record(|| Event::Phase { phase });
    }
}

/// A trace file that is being written. Dropped, it ends with its last line.
pub struct Recording {
    trace: Trace,
    finished: Option<mpsc::Receiver<()>>,
}

impl Recording {
    /// Starts to write to `path`, or records nothing where there is none. `verb` is what the
    /// process does, and `started` the moment that all times count from.
    pub fn start(path: Option<&Path>, verb: &str, started: Instant) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self { trace: Trace::default(), finished: None });
        };
        let failure = |error: std::io::Error| {
            Failure::given("write the trace", path, &error)
                .hint("--trace takes the name of a file in a directory that you may write to")
        };
        check_replaceable(path, b"{\"us\":", "a trace")?;
        let mut file = BufWriter::new(File::create(path).map_err(failure)?);
        write_line(&mut file, &first_line(verb, started)).and_then(|()| file.flush()).map_err(failure)?;
        let shared = Arc::new(Shared { origin: started, queue: Mutex::default(), ended: Condvar::default() });
        let (finish, finished) = mpsc::channel();
        let (writing, path) = (shared.clone(), path.to_owned());
        let write = move || {
            if let Err(error) = write_until_ended(&writing, &mut file) {
                report_failed(&path, &error);
            }
            let _ = finish.send(());
        };
        std::thread::Builder::new().name("trace".into()).spawn(write).map_err(failure)?;
        let trace = Trace(Some(shared));
        trace.phase(Phase::Start);
        Ok(Self { trace, finished: Some(finished) })
    }

    /// Where events go.
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let (Some(shared), Some(finished)) = (&self.trace.0, &self.finished) else {
            return;
        };
        self.trace.phase(Phase::Exit);
        shared.queue().ended = true;
        shared.ended.notify_one();
        // A disk that does not answer must not keep the process.
        let _ = finished.recv_timeout(END_MAX);
    }
}

/// Refuses to write over a file that does not begin like what is to be written: `what`.
pub fn check_replaceable(path: &Path, beginning: &[u8], what: &str) -> Result<(), Failure> {
    let look = || -> std::io::Result<Vec<u8>> {
        if !path.metadata()?.is_file() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        File::open(path)?.take(beginning.len() as u64).read_to_end(&mut found)?;
        Ok(found)
    };
    // Whatever else is wrong with it, writing says it better.
    let found = look().unwrap_or_default();
    if found.is_empty() || found == beginning {
        return Ok(());
    }
    let message = format!("{} exists and is not {what}; it is left alone", shown(path));
    Err(Failure::new(Kind::Usage, message).hint("name another file"))
}

fn first_line(verb: &str, started: Instant) -> Record {
    let wall = SystemTime::now().checked_sub(started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let event = Event::Trace {
        version: event::VERSION,
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        verb: verb.to_owned(),
        program: concat!("dft ", env!("CARGO_PKG_VERSION")).to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
    };
    Record { us: 0, event }
}

fn write_line(file: &mut impl Write, record: &Record) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, record)?;
    file.write_all(b"\n")
}

fn write_until_ended(shared: &Shared, file: &mut BufWriter<File>) -> std::io::Result<()> {
    let mut records = Vec::new();
    loop {
        let (ended, dropped) = {
            let queue = shared.queue();
            let waited = shared.ended.wait_timeout_while(queue, WRITE_EVERY, |queue| !queue.ended);
            let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut records, &mut queue.records);
            (queue.ended, queue.dropped)
        };
        for record in records.drain(..) {
            write_line(file, &record)?;
        }
        if ended {
            let us = shared.microseconds(Instant::now());
            write_line(file, &Record { us, event: Event::End { dropped } })?;
            return file.flush();
        }
        file.flush()?;
    }
}

/// The run goes on without its trace.
fn report_failed(path: &Path, error: &std::io::Error) {
    crate::report::to_stderr(&format!("warning: cannot write the trace {} any more: {error}", shown(path)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_back_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.trace");
        let recording = Recording::start(Some(&path), "fetch", Instant::now()).unwrap();
        for piece in 0..1000 {
            recording.trace().record(|| Event::RequestSent { link: 1, piece });
        }
        drop(recording);
        let records = read::records(&path).unwrap();
        let pieces = records.iter().filter_map(|record| match record.event {
            Event::RequestSent { link: 1, piece } => Some(piece),
            _ => None,
        });
        assert!(pieces.eq(0..1000));
        assert!(records.is_sorted_by_key(|record| record.us));
        assert_eq!(records.last().map(|record| &record.event), Some(&Event::End { dropped: 0 }));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let shared = Shared { origin: Instant::now(), queue: Mutex::default(), ended: Condvar::default() };
        let trace = Trace(Some(Arc::new(shared)));
        for piece in 0..u32::try_from(QUEUE_LEN_MAX + 7).unwrap() {
            trace.record(|| Event::RequestSent { link: 1, piece });
        }
        let queue = trace.0.as_ref().unwrap().queue();
        assert_eq!((queue.records.len(), queue.dropped), (QUEUE_LEN_MAX, 7));
    }

    #[test]
    fn off_makes_no_events() {
        Trace::default().record(|| unreachable!("no one wants it"));
    }

    #[test]
    fn file_that_cannot_be_written_is_named() {
        let failure = Recording::start(Some(Path::new("/nowhere/run.trace")), "seed", Instant::now());
        let failure = failure.err().unwrap();
        assert_eq!(failure.kind, Kind::Usage, "its directory is not there");
        assert!(failure.message.contains("/nowhere/run.trace"), "{failure}");
    }
}
