//! `cat`: the bytes of one file of a dataset, in order, each sent when its piece is here, and held
//! against its hash as it was read: no wrong byte goes out, whatever the disk did meanwhile. Who reads a part
//! of a dataset fetches that part alone, and keeps nothing of it.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::picker::PREFERRED_MAX;

use super::wait;
use crate::commands::blocking;
use crate::daemon::Daemon;
use crate::daemon::catalogue::parse_name;
use crate::daemon::holding::Holding;
use crate::daemon::reading::Readable;
use crate::daemon::serve::Reply;
use crate::daemon::wire::{DATA_LEN_MAX, Event};
use crate::failure::{Failure, Kind};
use crate::storage::StorageError;

/// Bytes a second that a piece comes at least, once it comes.
const RATE_MIN: u64 = 64 * 1024;
/// How often what is read may be taken over by other requests, which keep it.
const BEGINNINGS_MAX: usize = 16;
/// So many pieces are fetched again that were wrong on disk; a disk that damages more is no place for data.
const DOUBTS_MAX: usize = 16;

/// Which bytes.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) path: Option<String>,
    pub(super) from: u64,
    pub(super) to: Option<u64>,
}

/// A run of bytes of the file in one piece.
#[derive(PartialEq, Eq, Debug)]
struct Run {
    piece: PieceIndex,
    /// Where in the piece.
    offset: u32,
    len: u32,
}

pub(super) async fn run(daemon: &Arc<Daemon>, part: &Part, reply: &Reply) -> Result<(), Failure> {
    let (_, manifest) = daemon.catalogue().await?.get(&parse_name(&part.name)?).await?;
    let (entry, size) = file_of(&manifest, part)?;
    let to = part.to.unwrap_or(size).min(size);
    if part.from > to {
        let message = format!("there is no byte {} in the {size} bytes of the file", part.from);
        return Err(
            Failure::new(Kind::Usage, message).hint("bytes count from 0: --range 0-1K is the first KiB")
        );
    }
    let runs = runs_of(&manifest, entry, part.from..to);
    let (mut sent, mut has_changed, mut beginnings) = (Sent::default(), false, 0);
    loop {
        let readable = tokio::select! {
            readable = open(daemon, &part.name, &manifest, &runs, reply) => readable?,
            never = tell_of_waiting(&part.name, reply) => match never {},
        };
        let holding = &readable.holding;
        beginnings += 1;
        match send(daemon, holding, &runs, &mut sent, reply).await {
            // The copy here is not what it was: the rest comes from others, where they have it.
            Err(failure) if failure.kind == Kind::Integrity && !has_changed => {
                has_changed = true;
                holding.look().await;
            }
            // Another request keeps the dataset: the rest comes from there.
            Err(_) if holding.is_read() && holding.is_ending() && beginnings < BEGINNINGS_MAX => {}
            outcome => return outcome,
        }
    }
}

/// The dataset, to be read: who reads all of it keeps it, where there is room.
async fn open(
    daemon: &Arc<Daemon>,
    name: &str,
    manifest: &Arc<Manifest>,
    runs: &[Run],
    reply: &Reply,
) -> Result<Readable, Failure> {
    // Runs are in order, one for each piece.
    let is_all = runs.len() == manifest.geometry().piece_count();
    if !is_all {
        return daemon.readable(name, manifest).await;
    }
    let full = match daemon.keep_in_store(name, manifest.clone()).await {
        Err(failure) if failure.kind == Kind::Disk => failure,
        kept => return Ok(Readable::kept(daemon, kept?)),
    };
    let readable = daemon.readable(name, manifest).await?;
    if readable.holding.is_read() {
        let message = format!("{name} is read and not kept: {}", full.message);
        reply.send(Event::Warning(message)).await;
    }
    Ok(readable)
}

/// Says so where the dataset cannot be opened for a while, for another request has it for itself.
async fn tell_of_waiting(name: &str, reply: &Reply) -> Infallible {
    tokio::time::sleep(wait::WHY_AFTER).await;
    reply.send(Event::Warning(format!("waiting for another request that is at work on {name}"))).await;
    std::future::pending().await
}

/// How much of the runs is on its way: so many runs, and so many blocks of the next one.
#[derive(Default)]
struct Sent {
    runs: usize,
    blocks: usize,
}

/// Sends the runs from where `sent` says.
async fn send(
    daemon: &Arc<Daemon>,
    holding: &Holding,
    runs: &[Run],
    sent: &mut Sent,
    reply: &Reply,
) -> Result<(), Failure> {
    let (running, manifest) = (wait::running(holding).await?, &holding.manifest);
    let reader = running.remote.reader();
    let (mut doubts, mut buffer) = (0, Vec::new());
    while let Some(run) = runs.get(sent.runs) {
        let ahead = runs[sent.runs..].iter().take(PREFERRED_MAX);
        reader.go_on(ahead.map(|run| run.piece).collect()).await;
        let is_here = tokio::select! {
            is_here = running.remote.has(run.piece) => is_here,
            failure = wait::stalled(daemon, holding, reply) => return Err(failure),
            // Others who read it may get on.
            () = tokio::time::sleep(patience_with(manifest.geometry().piece_len(run.piece))) => {
                return Err(Failure::new(Kind::NoSource, format!("piece {} does not come", run.piece))
                    .hint("dft ls --chunks NAME shows who has which pieces"));
            }
        };
        if !is_here {
            return Err(
                Failure::new(Kind::Other, "it was given up meanwhile").hint("run the same command again")
            );
        }
        let (store, piece, mut bytes) = (running.store.clone(), run.piece, std::mem::take(&mut buffer));
        let read = blocking(move || (store.read_checked(piece, &mut bytes), bytes));
        let read = read.await?;
        buffer = read.1;
        match read.0 {
            Err(StorageError::Corrupt { .. }) => {
                holding.doubt(piece).await;
                doubts += 1;
                if running.store.is_finished() || doubts > DOUBTS_MAX {
                    return Err(StorageError::Corrupt { piece }.into());
                }
                // It is fetched once more.
                continue;
            }
            read => read?,
        }
        for block in blocks(run).skip(sent.blocks) {
            reply.data(buffer[block].to_vec()).await?;
            sent.blocks += 1;
        }
        (sent.runs, sent.blocks) = (sent.runs + 1, 0);
    }
    Ok(())
}

/// How long a piece may take that is waited for.
fn patience_with(len: u32) -> Duration {
    wait::NO_PROGRESS_MAX + Duration::from_secs(u64::from(len) / RATE_MIN)
}

/// The file's index among the entries, and its size.
fn file_of(manifest: &Manifest, part: &Part) -> Result<(usize, u64), Failure> {
    let wanted = part.path.as_deref().unwrap_or("").trim_matches('/').as_bytes();
    let entries = &manifest.info().entries;
    match entries.iter().enumerate().find(|(_, entry)| entry.path().as_bytes() == wanted) {
        Some((index, Entry::File { size, .. })) => Ok((index, *size)),
        Some((_, Entry::Directory { .. })) => {
            let message = format!("{} is a directory", part.path.as_deref().unwrap_or(&part.name));
            Err(Failure::new(Kind::Usage, message)
                .hint("name a file in it: dft cat NAME PATH, dft append NAME LOCAL --path PATH"))
        }
        Some((_, Entry::Symlink { target, .. })) => {
            let target = target.as_bytes().escape_ascii().to_string();
            Err(Failure::new(Kind::Usage, format!("it is a symbolic link to {target}"))
                .hint("name what it leads to, from the top of the dataset: dft cat NAME PATH"))
        }
        None => {
            let message = format!("{} holds no {}", part.name, wanted.escape_ascii());
            Err(Failure::new(Kind::Name, message).hint("dft ls --files NAME shows what it holds"))
        }
    }
}

/// Where the bytes `wanted` of the file number `entry` lie, in order.
fn runs_of(manifest: &Manifest, entry: usize, wanted: Range<u64>) -> Vec<Run> {
    let mut runs = Vec::new();
    for piece in manifest.geometry().pieces() {
        let mut offset = 0;
        for span in manifest.layout().spans(piece) {
            let file = span.offset..span.offset + u64::from(span.len);
            let (first, last) = (file.start.max(wanted.start), file.end.min(wanted.end));
            if span.entry == entry
                && first < last
                && let (Ok(skip), Ok(len)) = (u32::try_from(first - file.start), u32::try_from(last - first))
            {
                runs.push(Run { piece, offset: offset + skip, len });
            }
            offset += span.len;
        }
    }
    runs
}

/// A run, in blocks that fit into an event: where each is in the piece.
fn blocks(run: &Run) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = (run.offset as usize, (run.offset + run.len) as usize);
    (start..end).step_by(DATA_LEN_MAX).map(move |offset| offset..end.min(offset + DATA_LEN_MAX))
}
