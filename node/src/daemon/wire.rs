//! What the command line and the daemon say to each other on the unix socket.
//!
//! A frame is its length in 4 bytes, big-endian, then that many bytes of CBOR. The command line
//! sends one [`Envelope`]; the daemon answers with any number of [`Event`]s, the last of which is
//! [`Event::Done`] or [`Event::Failed`]. Both ends are of the same user and usually of the same
//! build; a [`VERSION`] that differs is refused, so that a daemon left over from an older build is
//! told of and not misunderstood.

mod items;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use dft_protocol::manifest::MANIFEST_LEN_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use self::items::*;
use crate::cli::Compress;
use crate::failure::{Failure, Kind};

/// What is spoken. Any change of the types below is another version.
pub const VERSION: u32 = 7;
/// Longest frame: a manifest, and what goes with it.
const FRAME_LEN_MAX: usize = MANIFEST_LEN_MAX + 1024 * 1024;
/// Bytes of a file that one event carries.
pub const DATA_LEN_MAX: usize = 1024 * 1024;

/// A path as the system has it: any bytes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct WirePath(ByteBuf);

impl WirePath {
    /// The path.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.to_vec()))
    }
}

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        Self(ByteBuf::from(path.as_os_str().as_bytes()))
    }
}

/// A request and the version that it is of.
#[derive(Serialize, Deserialize, Debug)]
pub struct Envelope {
    /// [`VERSION`] of whoever sent it.
    pub version: u32,
    /// The request, encoded on its own: an older daemon can then read the version at least.
    pub request: ByteBuf,
}

/// What the daemon is asked for. Paths are absolute.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Request {
    /// How is it?
    Status,
    /// Change how fast payload may leave and arrive, and tell.
    Limit {
        /// What is sent.
        upload: LimitChange,
        /// What is received.
        download: LimitChange,
    },
    /// Publish what lies at these paths.
    Put {
        /// Files and directories.
        paths: Vec<WirePath>,
        /// Under which name; that of the one path where it is not given.
        name: Option<String>,
        /// Take the data into the store, so that the paths may change or go.
        copy: bool,
        /// Whether it is sent in compressed form; as before, or as is usual, where it is not given.
        compress: Option<Compress>,
    },
    /// Serve what lies at these paths for as long as the connection lasts.
    Seed {
        /// What was hashed of it, as a manifest without hints.
        manifest: ByteBuf,
        /// Files and directories.
        paths: Vec<WirePath>,
        /// Where the manifest is written: it is no part of it.
        output: WirePath,
        /// The directory with the hashes.
        cache: WirePath,
        /// Whether it is sent in compressed form.
        compress: Compress,
    },
    /// Fetch datasets.
    Get {
        /// Their names; with `*`, `?` or `[`, patterns that stand for all that match.
        names: Vec<String>,
        /// The directory in which they are created.
        into: WirePath,
        /// In the directories that their names have.
        parents: bool,
        /// Don't share it afterwards.
        peek: bool,
        /// The manifest that it has to be, in hexadecimal digits.
        id: Option<String>,
        /// Replace what has its name there.
        force: bool,
        /// Only what these globs match; everything where there are none.
        include: Vec<String>,
        /// Nothing that these globs match.
        exclude: Vec<String>,
        /// How long it may get nowhere, in milliseconds; as is usual where it is not given.
        timeout_ms: Option<u64>,
    },
    /// Fetch what a manifest describes.
    Fetch {
        /// The manifest.
        manifest: ByteBuf,
        /// The directory in which it is created.
        into: WirePath,
        /// Addresses of peers that may have it.
        peers: Vec<SocketAddr>,
        /// Replace what has its name there.
        force: bool,
        /// Only what these globs match; everything where there are none.
        include: Vec<String>,
        /// Nothing that these globs match.
        exclude: Vec<String>,
        /// How long it may get nowhere, in milliseconds; as is usual where it is not given.
        timeout_ms: Option<u64>,
    },
    /// Send the bytes of a file of a dataset, in order, as they come.
    Cat {
        /// The dataset's name.
        name: String,
        /// The file in it; none where the dataset is a file.
        path: Option<String>,
        /// The first byte.
        from: u64,
        /// The byte behind the last one; the end of the file where it is not given.
        to: Option<u64>,
    },
    /// Which datasets are there?
    List {
        /// Names, with `*` and `?`.
        pattern: Option<String>,
        /// Ask how many nodes hold each.
        long: bool,
        /// Ask which node has which pieces.
        chunks: bool,
    },
    /// Which files does a dataset have?
    Files {
        /// Its name.
        name: String,
    },
    /// Which nodes are there?
    Nodes,
    /// Make nodes fetch a dataset.
    Push {
        /// Its name.
        name: String,
        /// Names of nodes.
        to: Vec<String>,
        /// Every node.
        all: bool,
        /// Answer when they have all of it.
        wait: bool,
    },
    /// Give a dataset up on this node.
    Drop {
        /// Its name.
        name: String,
        /// Even if nobody else has it.
        force: bool,
        /// Which, of several of that name: the first digits of its id.
        id: Option<String>,
    },
    /// Take a name out of the catalogue.
    Remove {
        /// The name.
        name: String,
        /// Whether other content may have it from then on.
        forget: bool,
        /// The manifest that it stands for, or stood for, in hexadecimal digits.
        id: Option<String>,
    },
    /// End the daemon.
    Stop,
}

impl Request {
    /// Whether it waits for data: as long as these take, or as whoever asks stays.
    pub fn waits_for_data(&self) -> bool {
        match self {
            Self::Put { .. }
            | Self::Seed { .. }
            | Self::Get { .. }
            | Self::Fetch { .. }
            | Self::Cat { .. } => true,
            Self::Push { wait, .. } => *wait,
            Self::Status
            | Self::Limit { .. }
            | Self::List { .. }
            | Self::Files { .. }
            | Self::Nodes
            | Self::Drop { .. }
            | Self::Remove { .. }
            | Self::Stop => false,
        }
    }
}

/// What becomes of a rate limit.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitChange {
    /// It stays as it is.
    Keep,
    /// There is none from here on.
    Off,
    /// So many bytes a second.
    To(u64),
}

/// What the daemon answers.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Event {
    /// How far it is.
    Progress(Progress),
    /// Something that a person should know.
    Warning(String),
    /// Bytes of a file, at most [`DATA_LEN_MAX`].
    Data(ByteBuf),
    /// A result; a request may have many.
    Item(Item),
    /// That was all.
    Done,
    /// It did not work out.
    Failed {
        /// The exit code that stands for the kind of failure.
        code: u8,
        /// What happened.
        message: String,
        /// What to try.
        hint: Option<String>,
    },
}

/// How far some work is.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Progress {
    /// What is done: «hashing», «fetching».
    pub verb: String,
    /// Bytes that are done.
    pub bytes: u64,
    /// Bytes in all.
    pub total: u64,
    /// Peers that it comes from.
    pub peers: u64,
    /// Bytes that came from peers that were complete.
    pub from_seeders: u64,
    /// Bytes that came from others.
    pub from_peers: u64,
}

impl From<&Failure> for Event {
    fn from(failure: &Failure) -> Self {
        Self::Failed {
            code: failure.kind.exit_code(),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
        }
    }
}

/// What [`Event::Failed`] stands for.
pub fn failure_of(code: u8, message: String, hint: Option<String>) -> Failure {
    let kind = Kind::from_exit_code(code);
    Failure { kind, message, hint }
}

/// Sends one frame.
pub async fn send<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let body = serde_cbor::to_vec(message).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_LEN_MAX);
    let len = len.ok_or_else(|| io::Error::other("the message is too long"))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Takes one frame; `None` at the end of the stream.
pub async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > FRAME_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    // Memory grows with what has arrived.
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let message = serde_cbor::from_slice(&body);
    message.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Wraps a request for the way.
pub fn envelope(request: &Request) -> io::Result<Envelope> {
    let request = serde_cbor::to_vec(request).map_err(io::Error::other)?;
    Ok(Envelope { version: VERSION, request: ByteBuf::from(request) })
}

/// Unwraps it, where the versions agree.
pub fn open(envelope: &Envelope) -> Result<Request, Failure> {
    if envelope.version != VERSION {
        let message = format!("the daemon speaks version {VERSION}, this dft version {}", envelope.version);
        let hint = format!("end it, and the next verb starts another: kill {}", std::process::id());
        return Err(Failure::new(Kind::Other, message).hint(hint));
    }
    serde_cbor::from_slice(&envelope.request)
        .map_err(|error| Failure::new(Kind::Other, format!("the daemon does not understand: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_arrives_as_it_was_sent_with_any_path() {
        let path = PathBuf::from(OsString::from_vec(vec![b'/', 0xff, b' ', b'\n']));
        let paths = vec![path.as_path().into()];
        let compress = Some(Compress::Zstd);
        let request = Request::Put { paths, name: None, copy: true, compress };
        let mut wire = Vec::new();
        send(&mut wire, &envelope(&request).expect("it encodes")).await.expect("memory takes it");
        let received: Envelope = receive(&mut &wire[..]).await.expect("a frame").expect("one");
        let Ok(Request::Put { paths, name: None, copy: true, compress: Some(Compress::Zstd) }) =
            open(&received)
        else {
            panic!("another")
        };
        assert_eq!(paths[0].to_path(), path);
    }

    #[tokio::test]
    async fn damaged_frames_are_errors_and_never_more() {
        let mut wire = Vec::new();
        send(&mut wire, &envelope(&Request::Status).expect("it encodes")).await.expect("memory takes it");
        for len in 4..wire.len() {
            assert!(receive::<Envelope>(&mut &wire[..len]).await.is_err(), "{len} bytes");
        }
        for bit in 0..8 * wire.len() {
            let mut flipped = wire.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(envelope)) = receive::<Envelope>(&mut &flipped[..]).await {
                drop(open(&envelope));
            }
        }
        assert!(receive::<Envelope>(&mut &[0xff; 64][..]).await.is_err(), "a length of 4 GiB");
    }

    #[tokio::test]
    async fn the_largest_manifest_fits_into_a_request() {
        let manifest = ByteBuf::from(vec![7; MANIFEST_LEN_MAX]);
        let into = Path::new("/").into();
        let (peers, include, exclude) = (Vec::new(), Vec::new(), Vec::new());
        let request =
            Request::Fetch { manifest, into, peers, force: false, include, exclude, timeout_ms: None };
        let mut wire = Vec::new();
        send(&mut wire, &envelope(&request).expect("it encodes")).await.expect("memory takes it");
        let received: Envelope = receive(&mut &wire[..]).await.expect("a frame").expect("one");
        let Ok(Request::Fetch { manifest, .. }) = open(&received) else { panic!("another") };
        assert_eq!(manifest.len(), MANIFEST_LEN_MAX);
    }

    #[test]
    fn another_version_is_told_apart_and_who_is_to_end() {
        let envelope = Envelope { version: VERSION + 1, request: ByteBuf::from(vec![0xff]) };
        let refused = open(&envelope).expect_err("another version");
        assert!(refused.message.contains("version"), "{}", refused.message);
        let hint = refused.hint.expect("a hint");
        assert!(hint.ends_with(&format!("kill {}", std::process::id())), "{hint}");
    }
}
