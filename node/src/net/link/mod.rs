//! Links: authenticated, ordered byte streams between two peers for one manifest.
//!
//! [`Endpoint`] opens them: it listens, dials, does the handshake (TLS, or the plaintext one where
//! encryption is off), and exchanges the hellos. An [`Open`] link is handed to whoever serves its
//! manifest. [`io`] then moves messages and pieces.

pub mod endpoint;
pub mod intake;
pub mod io;
mod low_water;
pub mod pack;
mod plain;
mod sender;
mod stream;
pub mod tls;

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use dft_protocol::id::PeerId;
use dft_protocol::wire::{Hello, Refusal, WireError};
use tokio::io::AsyncWrite;

pub use endpoint::{Endpoint, EndpointError, Route};
pub use low_water::Incoming;
use sender::Sender;

/// Who opened a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The end that connected.
    Dialler,
    /// The end that accepted.
    Listener,
}

/// The receiving half of a link's byte stream.
pub type ReadHalf = Box<dyn Incoming>;
/// The sending half.
pub type WriteHalf = Box<dyn Outgoing>;

/// What sends on a link.
pub trait Outgoing: AsyncWrite + Send + Sync + Unpin {
    /// From here on, payload is handed to the kernel in steps of about so many bytes, where there is one, and
    /// the next step only while less than `mark` waits there to be sent, until the link is fast.
    fn set_step(&mut self, bytes: usize, mark: usize);

    /// Ready when less than that mark waits.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>>;
}

impl Outgoing for tls::Writer<Sender> {
    fn set_step(&mut self, bytes: usize, mark: usize) {
        self.carrier_mut().set_step(bytes, mark);
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.carrier_mut().poll_left(cx)
    }
}

/// How long the steps of opening a link took at this end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Until the TCP connection stood; zero where it was accepted.
    pub connect: Duration,
    /// From then until the other end was authenticated.
    pub handshake: Duration,
    /// From then until both hellos were said.
    pub hello: Duration,
}

/// A link whose ends know each other and agree on the manifest.
pub struct Open {
    /// Who is at the other end.
    pub peer: PeerId,
    /// The other end's address.
    pub remote: SocketAddr,
    /// Which end opened it.
    pub role: Role,
    /// Whether both ends are on one network.
    pub neighbour: bool,
    /// What the other end said.
    pub hello: Hello,
    /// How long that took.
    pub timing: Timing,
    /// From the other end.
    pub read: ReadHalf,
    /// To the other end.
    pub write: WriteHalf,
}

/// Why a link did not open, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Nothing came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The other end refused the link and said why.
    #[error("{}", .0.describe())]
    Refused(Refusal),
    /// The other end closed the link where its hello was due.
    #[error("it closed the link at once")]
    HungUp,
    /// Whoever listens there does not speak dft.
    #[error("what listens there is not dft")]
    NotDft,
    /// The other end could not prove its identity.
    #[error("its identity is not authentic")]
    Unauthenticated,
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// A message breaks the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The other end speaks of another manifest than asked for.
    #[error("it answered for another dataset")]
    OtherManifest,
}

impl LinkError {
    /// Whether dialling again soon is pointless.
    pub fn is_hopeless(&self) -> bool {
        match self {
            LinkError::Refused(refusal) => *refusal != Refusal::UnknownManifest,
            LinkError::NotDft | LinkError::Unauthenticated | LinkError::OtherManifest => true,
            LinkError::Wire(_) => true,
            LinkError::Io(_) | LinkError::HungUp | LinkError::TimedOut | LinkError::Tls(_) => false,
        }
    }

    /// A TLS handshake's error, with what is behind it.
    fn from_tls(error: rustls::Error) -> Self {
        use rustls::AlertDescription;
        match error {
            rustls::Error::AlertReceived(AlertDescription::InsufficientSecurity) => {
                LinkError::Refused(Refusal::EncryptionOff)
            }
            rustls::Error::InvalidCertificate(_) => LinkError::Unauthenticated,
            rustls::Error::InvalidMessage(_) => LinkError::NotDft,
            error => LinkError::Tls(error),
        }
    }
}
