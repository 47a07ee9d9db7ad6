//! The two halves of an encrypted link, for after the handshake.
//!
//! Each half belongs to a task of its own, and has its own keys; what they must tell each other
//! (an alert to send) goes through [`Shared`]. A received byte is copied once, out of the buffer
//! that the socket was read into and in which records are opened; a sent one is copied once, into
//! the buffer in which they are sealed. Many records go through one call of the system.
//!
//! A half borrows its buffer from [`Buffers`] while there is something in it, so that a link that
//! is idle costs nothing, and any number of links a bounded amount.
//!
//! Invariant of the reader's buffer: what `ready` spans is opened and waits for the reader, what
//! `sealed` spans is as the socket gave it, and `ready` lies before `sealed`.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::{
    CONTENT_MAX, Content, HEADER_LEN, KEY_UPDATE_LEN, OVERHEAD, Opener, RECORD_MAX, RecordError, Sealer,
    copy, record_len,
};

/// Sealed bytes that are read or written at once. One call of the system per record costs more
/// than sealing it; what exceeds the core's own cache is slower again. One GiB to one fetcher on
/// loopback took 2.7 CPU s with 128 KiB, 3.0 with 256 and with 512 (2026-11, 2 Zen 3 cores).
const BUFFER_LEN: usize = 128 * 1024;
/// Large buffers that all links of an endpoint share: 8 MiB. Links beyond get by with small ones.
const LARGE_BUFFERS_MAX: usize = 64;
/// A small buffer: a record, with room in front for a change of keys.
const SMALL_BUFFER_LEN: usize = RECORD_MAX + KEY_UPDATE_LEN;
/// Records without payload that a peer may send in a row: padding, changes of keys, tickets.
const BARREN_MAX: u32 = 32;
/// Handshake messages that arrive in parts are held up to this: tickets are the longest.
const MESSAGE_LEN_MAX: usize = 16 * 1024;

/// Room for what is on its way, shared by all links. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Stock>>);

#[derive(Default)]
struct Stock {
    free: Vec<Vec<u8>>,
    /// How many large ones there are, free or not.
    made: usize,
}

impl Buffers {
    /// A large buffer, or a small one where there are too many. What is in it is of no meaning.
    fn take(&self) -> Vec<u8> {
        let mut stock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = stock.free.pop() {
            return buffer;
        }
        if stock.made == LARGE_BUFFERS_MAX {
            return vec![0; SMALL_BUFFER_LEN];
        }
        stock.made += 1;
        vec![0; BUFFER_LEN]
    }

    fn give_back(&self, buffer: Vec<u8>) {
        if buffer.len() == BUFFER_LEN {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).free.push(buffer);
        }
    }
}

/// A buffer that is there while it is needed.
struct Borrowed {
    buffer: Vec<u8>,
    from: Buffers,
}

impl Borrowed {
    fn borrow(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = self.from.take();
        }
    }

    fn give_back(&mut self) {
        self.from.give_back(std::mem::take(&mut self.buffer));
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What the reading half asks of the writing one. Done when something is next written: the half
/// that reads cannot write, and whoever stops reading drops both.
#[derive(Default)]
struct Shared {
    /// The code of an alert to end with; [`NO_ALERT`] where there is none.
    alert: AtomicU8,
    /// The peer wants what it receives to be sealed by a new key.
    new_key_wanted: AtomicBool,
}

/// The code of close_notify, which is never a reason to end with.
const NO_ALERT: u8 = 0;

/// The halves of a link whose handshake is done. `early` came with the handshake, still sealed.
pub(super) fn halves<R, W>(
    read: (R, Opener),
    write: (W, Sealer),
    early: Vec<u8>,
    buffers: &Buffers,
) -> (Reader<R>, Writer<W>) {
    let shared = Arc::new(Shared::default());
    let (socket, opener) = read;
    let reader = Reader {
        socket,
        opener,
        shared: shared.clone(),
        ready: 0..0,
        sealed: 0..early.len(),
        incoming: Borrowed { buffer: early, from: buffers.clone() },
        message: Vec::new(),
        barren: 0,
        state: Reading::Open,
    };
    let (socket, sealer) = write;
    let outgoing = Borrowed { buffer: Vec::new(), from: buffers.clone() };
    let writer = Writer { socket, sealer, shared, outgoing, unsent: 0..0, closed: false };
    (reader, writer)
}

// ---- receiving ----

/// Whether more can be read.
#[derive(Clone, Copy)]
enum Reading {
    Open,
    /// The peer said that there is no more.
    Closed,
    Failed(RecordError),
}

/// The half of an encrypted link that reads.
pub(crate) struct Reader<R> {
    socket: R,
    opener: Opener,
    shared: Arc<Shared>,
    incoming: Borrowed,
    ready: Range<usize>,
    sealed: Range<usize>,
    /// The beginning of a handshake message that is spread over records.
    message: Vec<u8>,
    /// Records without payload since the last one with payload.
    barren: u32,
    state: Reading,
}

impl<R> Reader<R> {
    /// What carries the sealed bytes.
    pub(crate) const fn socket(&self) -> &R {
        &self.socket
    }

    /// Bytes that were taken from the socket and not yet handed on, sealed ones as they are.
    pub(crate) fn buffered(&self) -> usize {
        self.ready.len() + self.sealed.len()
    }

    /// Hands on what whole records carry, until `out` is full or there are no more.
    fn deliver(&mut self, out: &mut ReadBuf<'_>) -> Result<(), RecordError> {
        loop {
            let len = self.ready.len().min(out.remaining());
            copy(&self.incoming.buffer[self.ready.start..][..len], out.initialize_unfilled_to(len));
            out.advance(len);
            self.ready.start += len;
            if out.remaining() == 0 || matches!(self.state, Reading::Closed) || !self.open_next()? {
                return Ok(());
            }
        }
    }

    /// Opens the next record; false where no whole one is there.
    fn open_next(&mut self) -> Result<bool, RecordError> {
        let start = self.sealed.start;
        let sealed = &mut self.incoming.buffer[self.sealed.clone()];
        let Some(record_len) = record_len(sealed)?.filter(|len| *len <= sealed.len()) else {
            return Ok(false);
        };
        let (kind, len) = self.opener.open(&mut sealed[..record_len])?;
        let content = start + HEADER_LEN..start + HEADER_LEN + len;
        self.sealed.start += record_len;
        if kind != Content::Handshake && !self.message.is_empty() {
            // RFC 8446, section 5.1: nothing comes between the parts of a handshake message.
            return Err(RecordError::Unexpected);
        }
        let barren = kind != Content::Data || len == 0;
        self.barren = if barren { self.barren + 1 } else { 0 };
        if self.barren > BARREN_MAX {
            return Err(RecordError::Barren);
        }
        match kind {
            Content::Data => self.ready = content,
            Content::Alert => self.take_alert(content)?,
            Content::Handshake => self.take_handshake(content)?,
        }
        Ok(true)
    }

    fn take_alert(&mut self, content: Range<usize>) -> Result<(), RecordError> {
        let &[_, code] = &self.incoming.buffer[content] else {
            return Err(RecordError::Malformed);
        };
        match AlertDescription::from(code) {
            AlertDescription::CloseNotify => {
                self.state = Reading::Closed;
                Ok(())
            }
            AlertDescription::UserCanceled => Ok(()),
            // The level means nothing in TLS 1.3: every other alert ends the link.
            alert => Err(RecordError::Alert(alert)),
        }
    }

    fn take_handshake(&mut self, content: Range<usize>) -> Result<(), RecordError> {
        const NEW_SESSION_TICKET: u8 = 4;
        const KEY_UPDATE: u8 = 24;
        if content.is_empty() || self.message.len() + content.len() > MESSAGE_LEN_MAX {
            return Err(RecordError::Unexpected);
        }
        self.message.extend_from_slice(&self.incoming.buffer[content]);
        let mut rest = &self.message[..];
        while let &[kind, a, b, c, ref bytes @ ..] = rest {
            let Some((body, behind)) = bytes.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)
            else {
                break;
            };
            rest = behind;
            match (kind, body) {
                // Links do not resume sessions.
                (NEW_SESSION_TICKET, _) => {}
                // The rest was sealed by a key that is given up with this message.
                (KEY_UPDATE, [0 | 1]) if rest.is_empty() => {
                    self.opener.change_key()?;
                    if body == [1] {
                        self.shared.new_key_wanted.store(true, Ordering::Relaxed);
                    }
                }
                (KEY_UPDATE, [_]) if !rest.is_empty() => return Err(RecordError::Unexpected),
                (KEY_UPDATE, _) => return Err(RecordError::Malformed),
                _ => return Err(RecordError::Unexpected),
            }
        }
        let taken = self.message.len() - rest.len();
        self.message.drain(..taken);
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads sealed bytes; false at their end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.incoming.buffer[self.sealed.end..]);
        let polled = Pin::new(&mut self.socket).poll_read(cx, &mut room);
        let len = room.filled().len();
        self.sealed.end += len;
        if polled.is_pending() && self.sealed.is_empty() {
            // Nobody knows when more will come.
            self.incoming.give_back();
            self.sealed = 0..0;
        }
        ready!(polled)?;
        Poll::Ready(Ok(len > 0))
    }

    /// Called when everything that can be opened was handed on: less than a record is left.
    fn make_room(&mut self) {
        assert!(self.ready.is_empty() && self.sealed.len() < RECORD_MAX, "whole records are opened first");
        self.ready = 0..0;
        if self.incoming.buffer.len() < RECORD_MAX {
            // None, or that of the handshake.
            let mut held = std::mem::take(&mut self.incoming.buffer);
            held.truncate(self.sealed.end);
            self.incoming.borrow();
            let rest = &held[self.sealed.start..];
            self.incoming.buffer[..rest.len()].copy_from_slice(rest);
        } else {
            self.incoming.buffer.copy_within(self.sealed.clone(), 0);
        }
        self.sealed = 0..self.sealed.len();
    }

    fn fail(&mut self, error: RecordError) {
        self.state = Reading::Failed(error);
        if let Some(alert) = error.alert() {
            self.shared.alert.store(u8::from(alert), Ordering::Relaxed);
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Reader<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            if let Reading::Failed(error) = this.state {
                return Poll::Ready(Err(error.into()));
            }
            if let Err(error) = this.deliver(out) {
                this.fail(error);
            }
            // What is authentic is handed on before an error that comes behind it.
            let delivered = out.filled().len() > before || out.remaining() == 0;
            if delivered || matches!(this.state, Reading::Closed) {
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, Reading::Open) && !ready!(this.poll_fill(cx))? {
                // Whoever cuts a connection must not pass for a peer that has said everything.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

// ---- sending ----

/// The half of an encrypted link that writes.
pub(crate) struct Writer<W> {
    socket: W,
    sealer: Sealer,
    shared: Arc<Shared>,
    outgoing: Borrowed,
    /// What of `outgoing` the socket has not taken.
    unsent: Range<usize>,
    /// The last record was sealed.
    closed: bool,
}

impl<W> Writer<W> {
    /// Seals as much of `data` as there is room for; how much that is.
    fn seal(&mut self, data: &[u8]) -> Result<usize, RecordError> {
        self.outgoing.borrow();
        if self.sealer.is_worn() || self.shared.new_key_wanted.swap(false, Ordering::Relaxed) {
            self.unsent.end += self.sealer.change_key(&mut self.outgoing.buffer[self.unsent.end..])?;
        }
        let mut rest = data;
        while !rest.is_empty() && !self.sealer.is_worn() {
            let room = self.outgoing.buffer[self.unsent.end..].len();
            let Some(len) = room.checked_sub(OVERHEAD).map(|len| len.min(CONTENT_MAX).min(rest.len())) else {
                break;
            };
            if len < rest.len().min(CONTENT_MAX) {
                // A whole record goes into the next buffer.
                break;
            }
            let (content, behind) = rest.split_at(len);
            let out = &mut self.outgoing.buffer[self.unsent.end..];
            self.unsent.end += self.sealer.seal(Content::Data, content, out)?;
            rest = behind;
        }
        Ok(data.len() - rest.len())
    }

    /// Seals the last record: the alert that the reader asks for, or the one that all is well.
    fn seal_end(&mut self) -> Result<(), RecordError> {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        self.outgoing.borrow();
        let code = self.shared.alert.load(Ordering::Relaxed);
        let level = if code == NO_ALERT { WARNING } else { FATAL };
        let out = &mut self.outgoing.buffer[self.unsent.end..];
        self.unsent.end += self.sealer.seal(Content::Alert, &[level, code], out)?;
        Ok(())
    }
}

impl<W> Writer<W> {
    /// What carries the sealed bytes.
    pub(crate) const fn carrier_mut(&mut self) -> &mut W {
        &mut self.socket
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let unsent = &self.outgoing.buffer[self.unsent.clone()];
            let len = ready!(Pin::new(&mut self.socket).poll_write(cx, unsent))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.start += len;
        }
        self.unsent = 0..0;
        self.outgoing.give_back();
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Writer<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if this.shared.alert.load(Ordering::Relaxed) != NO_ALERT {
            this.seal_end()?;
            ready!(this.poll_send(cx))?;
        }
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = this.seal(data)?;
        // What the socket does not take at once goes before whatever is written next.
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        this.seal_end()?;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
