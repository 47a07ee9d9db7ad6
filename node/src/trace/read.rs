//! Traces that were written, read back: the lines of a file, and what they say of a swarm.
//!
//! [`Run::read`] takes the traces of several nodes of one machine, and puts them on one axis of
//! time. A line that makes no sense is an error that names it; a last line that was cut off is
//! none, since a killed process leaves one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::event::{Event, Means, Opening, Phase, Record, VERSION};

/// The longest line, in bytes: a reason of a failure is the longest text in one.
const LINE_LEN_MAX: u64 = 64 * 1024;

/// Why a file is no trace.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the trace {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is not what a trace holds.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// Of which file.
        path: PathBuf,
        /// Which, from 1 on.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// It says of no node what it did.
    #[error("{path} ends before its node began to send or fetch")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The traces are not of one dataset.
    #[error("{path} is a trace of another dataset than {first}")]
    OtherDataset {
        /// Which.
        path: PathBuf,
        /// The one that was read first.
        first: PathBuf,
    },
}

/// The lines of a trace.
pub fn records(path: &Path) -> Result<Vec<Record>, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    parse(BufReader::new(File::open(path).map_err(io)?), path)
}

fn parse(mut input: impl BufRead, path: &Path) -> Result<Vec<Record>, ReadError> {
    let mut records = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        let problem = |problem: String| ReadError::Line { path: path.to_owned(), line, problem };
        text.clear();
        let read = input.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut text);
        read.map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
        if text.is_empty() {
            break;
        }
        let record = match serde_json::from_slice::<Record>(&text) {
            Ok(record) => record,
            // Its process was killed while it wrote this.
            Err(_)
                if line > 1
                    && text.last() != Some(&b'\n')
                    && input.fill_buf().is_ok_and(<[u8]>::is_empty) =>
            {
                break;
            }
            Err(error) => return Err(problem(format!("this is no event of a trace ({error})"))),
        };
        match &record.event {
            Event::Trace { version, .. } if line == 1 && *version == VERSION => {}
            Event::Trace { version, .. } if line == 1 => {
                return Err(problem(format!("a trace of version {version}, but only {VERSION} can be read")));
            }
            _ if line == 1 => return Err(problem("a trace begins with the event «trace»".into())),
            _ => {}
        }
        records.push(record);
    }
    if records.is_empty() {
        return Err(ReadError::Line { path: path.to_owned(), line: 1, problem: "the file is empty".into() });
    }
    Ok(records)
}

/// The traces of one swarm, on one axis: microseconds since the first fetch began.
#[derive(Debug)]
pub struct Run {
    /// One for each file.
    pub nodes: Vec<Node>,
    /// How many pieces the dataset has.
    pub pieces: u32,
    /// Its bytes.
    pub bytes: u64,
}

/// What one node did.
#[derive(Debug, Default)]
pub struct Node {
    /// The file's name without its ending.
    pub label: String,
    /// `seed` or `fetch`.
    pub verb: String,
    /// Its identity.
    pub peer: String,
    /// How many pieces were here from the start.
    pub have: u32,
    /// When each phase began.
    pub phases: BTreeMap<Phase, i64>,
    /// Which peers were found, when and how.
    pub found: Vec<(i64, Means, u32)>,
    /// Its links by their numbers.
    pub links: BTreeMap<u64, Link>,
    /// How often it dialled, and how often that came to nothing.
    pub dials: (usize, usize),
    /// Pieces that it asked for, and what came of it.
    pub downloads: Vec<Download>,
    /// Pieces that it sent.
    pub uploads: Vec<Upload>,
    /// Announcements: messages, and pieces that they named, sent and received.
    pub announced: [(u64, u64); 2],
    /// When peers asked for pieces, and when they took that back.
    pub asked: Vec<(i64, u64, u32, bool)>,
    /// Events that were not recorded.
    pub dropped_events: u64,
    manifest: String,
    pieces: u32,
    bytes: u64,
}

/// One end of a link.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who is at the other end.
    pub peer: String,
    /// Whether this end dialled.
    pub dialled: bool,
    /// Whether the other end had everything.
    pub complete: bool,
    /// When it was open.
    pub up: i64,
    /// How long that took.
    pub opening: Opening,
    /// When it ended, and why where this end closed it.
    pub down: Option<(i64, Option<String>)>,
}

/// One request and its answer.
#[derive(Debug, Clone, Default)]
pub struct Download {
    /// Of whom.
    pub link: u64,
    /// Which piece.
    pub piece: u32,
    /// When it was asked for.
    pub requested: i64,
    /// When its first byte came.
    pub first: Option<i64>,
    /// When its last byte came.
    pub last: Option<i64>,
    /// Its length.
    pub bytes: u32,
    /// It was dropped: its request had been cancelled.
    pub dropped: bool,
    /// When the request was taken back.
    pub cancelled: Option<i64>,
    /// When the peer refused.
    pub rejected: Option<i64>,
    /// When it was hashed, and whether it was right.
    pub checked: Option<(i64, bool)>,
}

impl Download {
    /// When it is no longer waited for.
    pub fn answered(&self) -> Option<i64> {
        self.last.or(self.rejected)
    }
}

/// One piece that was sent.
#[derive(Debug, Clone, Default)]
pub struct Upload {
    /// To whom.
    pub link: u64,
    /// Which piece.
    pub piece: u32,
    /// When its turn came.
    pub granted: i64,
    /// When its link began to send.
    pub first: Option<i64>,
    /// When all was handed to the network.
    pub last: Option<i64>,
    /// Its length.
    pub bytes: u32,
}

impl Run {
    /// Reads the traces of one swarm.
    pub fn read(paths: &[PathBuf]) -> Result<Self, ReadError> {
        let mut nodes = Vec::new();
        for path in paths {
            nodes.push(Node::read(path, &records(path)?)?);
        }
        Self::of(nodes, paths)
    }

    fn of(mut nodes: Vec<Node>, paths: &[PathBuf]) -> Result<Self, ReadError> {
        let other = nodes.iter().position(|node| node.manifest != nodes[0].manifest);
        if let Some(other) = other {
            return Err(ReadError::OtherDataset { path: paths[other].clone(), first: paths[0].clone() });
        }
        let start = |node: &Node| node.phases.get(&Phase::Start).copied();
        let fetch = nodes.iter().filter(|node| node.verb == "fetch").filter_map(start).min();
        let origin = fetch.or_else(|| nodes.iter().filter_map(start).min()).unwrap_or(0);
        for node in &mut nodes {
            node.shift(-origin);
        }
        let (pieces, bytes) = nodes.first().map_or((0, 0), |node| (node.pieces, node.bytes));
        Ok(Self { nodes, pieces, bytes })
    }

    /// The label of a peer: its trace's, or the end of its identity where there is none.
    pub fn label<'run>(&'run self, peer: &'run str) -> &'run str {
        let known = self.nodes.iter().find(|node| node.peer == peer);
        known.map_or_else(|| peer.get(peer.len().saturating_sub(8)..).unwrap_or(peer), |node| &node.label)
    }

    /// Those that fetch.
    pub fn fetchers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.verb == "fetch")
    }

    /// When the last fetch was complete, or where none was, when something happened last.
    pub fn end(&self) -> i64 {
        let complete = self.fetchers().filter_map(Node::complete).max();
        let last = |node: &Node| {
            let down = node.downloads.iter().filter_map(|download| download.last);
            down.chain(node.uploads.iter().filter_map(|upload| upload.last)).max()
        };
        complete.or_else(|| self.nodes.iter().filter_map(last).max()).unwrap_or(0)
    }
}

impl Node {
    fn read(path: &Path, records: &[Record]) -> Result<Self, ReadError> {
        let label = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut reader = Reader { node: Node { label, ..Node::default() }, ..Reader::default() };
        for record in records {
            reader.take(record);
        }
        if reader.node.peer.is_empty() {
            return Err(ReadError::Empty { path: path.to_owned() });
        }
        Ok(reader.node)
    }

    /// When every piece was durable and under its final name.
    pub fn complete(&self) -> Option<i64> {
        self.phases.get(&Phase::Complete).copied()
    }

    /// When the first byte of a piece came.
    pub fn first_byte(&self) -> Option<i64> {
        self.downloads.iter().filter_map(|download| download.first).min()
    }

    /// Downloads that were checked and right.
    pub fn verified(&self) -> impl Iterator<Item = (&Download, i64)> {
        self.downloads.iter().filter_map(|download| match download.checked {
            Some((at, true)) => Some((download, at)),
            _ => None,
        })
    }

    fn shift(&mut self, by: i64) {
        self.phases.values_mut().for_each(|at| *at += by);
        self.found.iter_mut().for_each(|found| found.0 += by);
        self.asked.iter_mut().for_each(|asked| asked.0 += by);
        for link in self.links.values_mut() {
            link.up += by;
            link.down.iter_mut().for_each(|down| down.0 += by);
        }
        for download in &mut self.downloads {
            download.requested += by;
            for at in
                [&mut download.first, &mut download.last, &mut download.cancelled, &mut download.rejected]
            {
                at.iter_mut().for_each(|at| *at += by);
            }
            download.checked.iter_mut().for_each(|checked| checked.0 += by);
        }
        for upload in &mut self.uploads {
            upload.granted += by;
            [&mut upload.first, &mut upload.last].into_iter().flatten().for_each(|at| *at += by);
        }
    }
}

/// A node's trace while it is being read.
#[derive(Default)]
struct Reader {
    node: Node,
    wall_us: i64,
    /// Where the latest request of a piece on a link is, and the latest upload.
    downloads: BTreeMap<(u64, u32), usize>,
    uploads: BTreeMap<(u64, u32), usize>,
}

impl Reader {
    fn take(&mut self, record: &Record) {
        let at = self.wall_us.saturating_add(i64::try_from(record.us).unwrap_or(i64::MAX));
        match &record.event {
            Event::Trace { wall_us, verb, .. } => {
                self.wall_us = i64::try_from(*wall_us).unwrap_or(0);
                verb.clone_into(&mut self.node.verb);
            }
            Event::Node { peer, manifest, pieces, have, bytes, .. } => {
                let node = &mut self.node;
                (node.peer, node.manifest) = (peer.clone(), manifest.clone());
                (node.pieces, node.have, node.bytes) = (*pieces, *have, *bytes);
            }
            Event::Phase { phase } => {
                self.node.phases.entry(*phase).or_insert(at);
            }
            Event::PeersFound { means, count } => self.node.found.push((at, *means, *count)),
            Event::Dial { .. } => self.node.dials.0 += 1,
            Event::DialFailed { .. } => self.node.dials.1 += 1,
            Event::LinkDown { link, reason } => self.link_down(*link, at, reason.as_deref()),
            Event::LinkUp { link, peer, dialled, complete, opening, .. } => {
                let (peer, opening) = (peer.clone(), *opening);
                let link_end =
                    Link { peer, dialled: *dialled, complete: *complete, up: at, opening, down: None };
                self.node.links.insert(*link, link_end);
            }
            Event::HaveSent { count, .. } => self.announced(0, *count),
            Event::HaveReceived { count, .. } => self.announced(1, *count),
            Event::RequestReceived { link, piece } => self.node.asked.push((at, *link, *piece, true)),
            Event::CancelReceived { link, piece } => self.node.asked.push((at, *link, *piece, false)),
            Event::End { dropped } => self.node.dropped_events = *dropped,
            event => self.take_piece(event, at),
        }
    }

    /// The first reason counts: what this end closes, ends again when its tasks do.
    fn link_down(&mut self, id: u64, at: i64, reason: Option<&str>) {
        if let Some(link) = self.node.links.get_mut(&id) {
            link.down.get_or_insert_with(|| (at, reason.map(str::to_owned)));
        }
    }

    fn announced(&mut self, direction: usize, pieces: u32) {
        let (messages, named) = &mut self.node.announced[direction];
        *messages += 1;
        *named += u64::from(pieces);
    }

    /// What happens to a piece on a link.
    fn take_piece(&mut self, event: &Event, at: i64) {
        match *event {
            Event::RequestSent { link, piece } => {
                self.downloads.insert((link, piece), self.node.downloads.len());
                self.node.downloads.push(Download { link, piece, requested: at, ..Download::default() });
            }
            Event::CancelSent { link, piece } => self.download(link, piece, |it| it.cancelled = Some(at)),
            Event::RejectReceived { link, piece } => self.download(link, piece, |it| it.rejected = Some(at)),
            Event::Arriving { link, piece } => self.download(link, piece, |it| it.first = Some(at)),
            Event::Arrived { link, piece, bytes, dropped } => self.download(link, piece, |it| {
                (it.last, it.bytes, it.dropped) = (Some(at), bytes, dropped);
            }),
            Event::Checked { link, piece, valid } => {
                self.download(link, piece, |it| it.checked = Some((at, valid)));
            }
            Event::UploadGranted { link, piece } => {
                self.uploads.insert((link, piece), self.node.uploads.len());
                self.node.uploads.push(Upload { link, piece, granted: at, ..Upload::default() });
            }
            Event::Sending { link, piece } => self.upload(link, piece, |it| it.first = Some(at)),
            Event::Sent { link, piece, bytes } => {
                self.upload(link, piece, |it| (it.last, it.bytes) = (Some(at), bytes));
            }
            _ => {}
        }
    }

    /// An event without its request concerns nothing that could be told: the request was dropped.
    fn download(&mut self, link: u64, piece: u32, change: impl FnOnce(&mut Download)) {
        if let Some(&index) = self.downloads.get(&(link, piece)) {
            change(&mut self.node.downloads[index]);
        }
    }

    fn upload(&mut self, link: u64, piece: u32, change: impl FnOnce(&mut Upload)) {
        if let Some(&index) = self.uploads.get(&(link, piece)) {
            change(&mut self.node.uploads[index]);
        }
    }
}

#[cfg(test)]
pub(super) fn run_of(texts: &[(&str, &str)]) -> Result<Run, ReadError> {
    let paths: Vec<PathBuf> = texts.iter().map(|(name, _)| PathBuf::from(name)).collect();
    let nodes = texts.iter().map(|(name, text)| {
        let path = Path::new(name);
        Node::read(path, &parse(text.as_bytes(), path)?)
    });
    Run::of(nodes.collect::<Result<_, _>>()?, &paths)
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn problem(text: &str) -> String {
        run_of(&[("run.trace", text)]).unwrap_err().to_string()
    }

    #[test]
    fn garbage_is_an_error_that_names_its_line() {
        let first = example::FETCHER.lines().next().unwrap();
        let cases = [
            ("", "run.trace, line 1: the file is empty"),
            ("hello\n", "run.trace, line 1: this is no event"),
            (
                "{\"us\":1,\"event\":\"phase\",\"phase\":\"start\"}\n",
                "run.trace, line 1: a trace begins with",
            ),
            (&first.replace("\"version\":1", "\"version\":9"), "line 1: a trace of version 9"),
            (&format!("{first}\n{{\"us\":-1}}\n"), "run.trace, line 2: this is no event"),
            (&format!("{first}\n\u{0}\n{first}\n"), "run.trace, line 2: this is no event"),
            (&format!("{first}\n{}\n", "x".repeat(200_000)), "run.trace, line 2: this is no event"),
            (first, "run.trace ends before"),
        ];
        for (text, expected) in cases {
            assert!(problem(text).contains(expected), "{expected}: {}", problem(text));
        }
    }

    #[test]
    fn what_later_versions_add_is_skipped_and_so_is_a_line_cut_off() {
        let more =
            format!("{}{{\"us\":99,\"event\":\"comet\",\"tail\":3}}\n{{\"us\":100,\"ev", example::FETCHER);
        let plain = run_of(&[("run.trace", example::FETCHER)]).unwrap();
        let run = run_of(&[("run.trace", &more)]).unwrap();
        assert_eq!(run.nodes[0].downloads.len(), plain.nodes[0].downloads.len());
    }

    #[test]
    fn traces_of_several_nodes_share_one_axis() {
        let run = run_of(&[("seeder.trace", example::SEEDER), ("one.trace", example::FETCHER)]).unwrap();
        let starts: Vec<i64> = run.nodes.iter().map(|node| node.phases[&Phase::Start]).collect();
        assert_eq!(starts, [-1_000_000, 0]);
        assert_eq!(run.label(&run.nodes[1].links[&0].peer), "seeder");
        assert_eq!(run.end(), 400_000);
    }

    #[test]
    fn traces_of_two_datasets_are_told_apart() {
        let other = example::FETCHER.replace("\"manifest\":\"m\"", "\"manifest\":\"n\"");
        let error = run_of(&[("seeder.trace", example::SEEDER), ("one.trace", &other)]).unwrap_err();
        assert_eq!(error.to_string(), "one.trace is a trace of another dataset than seeder.trace");
    }
}
