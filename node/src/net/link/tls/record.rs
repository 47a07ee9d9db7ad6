//! The records of TLS 1.3 after the handshake: sealing and opening them (RFC 8446, section 5).
//!
//! rustls does the handshake and derives every key; here keys are applied to bytes. Nothing waits
//! and nothing is read or written: [`Sealer`] and [`Opener`] work on buffers of their caller. The
//! two directions share nothing but [`Secrets`], which is asked for keys when they change.
//! Why not rustls, and why ring's ciphers: docs/decisions/0015-records-of-tls.md.
//!
//! Invariants: a nonce is used once per key (the sequence number only grows, and a key is given
//! up long before it wraps), and no byte of a record that is not authentic is handed on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets};
use sha2::{Digest, Sha256};

/// Content of one record, at most.
pub(super) const CONTENT_MAX: usize = 1 << 14;
/// What announces a record: a type, a version, and the length of the body.
pub(super) const HEADER_LEN: usize = 5;
/// What the ciphers add for authentication; all of TLS 1.3's add the same.
const TAG_LEN: usize = 16;
/// What a record adds to its content: the type of the content is encrypted with it.
pub(super) const OVERHEAD: usize = HEADER_LEN + 1 + TAG_LEN;
/// The longest body that a peer may send: what exceeds content and tag is padding.
const BODY_MAX: usize = CONTENT_MAX + 256;
/// The longest record that a peer may send.
pub(super) const RECORD_MAX: usize = HEADER_LEN + BODY_MAX;
/// Records sealed by one key. AES-GCM is safe for 2^24.5 full ones (RFC 8446, section 5.5);
/// this is 128 GiB of payload.
const RECORDS_PER_KEY: u64 = 1 << 23;
/// The version that every record names, whatever is spoken.
const VERSION: [u8; 2] = [3, 3];

/// Why a link's encryption ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// A record was changed on its way, or its sender has other keys.
    #[error("a record is not authentic")]
    NotAuthentic,
    /// A record is longer than allowed.
    #[error("a record is too long")]
    TooLong,
    /// A record, or what is in it, has no place there.
    #[error("a record of an unexpected kind")]
    Unexpected,
    /// The content of a record is malformed.
    #[error("a malformed record")]
    Malformed,
    /// The peer sends records without payload, again and again.
    #[error("too many records without payload")]
    Barren,
    /// The peer gave up.
    #[error("the peer reports a TLS error: {0:?}")]
    Alert(AlertDescription),
    /// The keys cannot be used or changed.
    #[error("no usable keys")]
    Keys,
}

impl RecordError {
    /// What to tell the peer, if anything.
    pub(super) const fn alert(self) -> Option<AlertDescription> {
        match self {
            RecordError::NotAuthentic => Some(AlertDescription::BadRecordMac),
            RecordError::TooLong => Some(AlertDescription::RecordOverflow),
            RecordError::Unexpected | RecordError::Barren => Some(AlertDescription::UnexpectedMessage),
            RecordError::Malformed => Some(AlertDescription::DecodeError),
            RecordError::Keys => Some(AlertDescription::InternalError),
            RecordError::Alert(_) => None,
        }
    }
}

impl From<RecordError> for std::io::Error {
    fn from(error: RecordError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// What a record carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Alert,
    Handshake,
    Data,
}

impl Content {
    const fn code(self) -> u8 {
        match self {
            Content::Alert => 21,
            Content::Handshake => 22,
            Content::Data => 23,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            21 => Some(Content::Alert),
            22 => Some(Content::Handshake),
            23 => Some(Content::Data),
            _ => None,
        }
    }
}

/// Derives the next key of a direction; rustls keeps what they are derived from.
pub(super) trait NextKeys: Send {
    fn next_for_sending(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
    fn next_for_receiving(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
}

macro_rules! next_keys_of {
    ($data:ty) => {
        impl NextKeys for KernelConnection<$data> {
            fn next_for_sending(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
                self.update_tx_secret().map(|(_, secrets)| secrets)
            }

            fn next_for_receiving(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
                self.update_rx_secret().map(|(_, secrets)| secrets)
            }
        }
    };
}
next_keys_of!(ClientConnectionData);
next_keys_of!(ServerConnectionData);

/// What the two directions of a link share. Locked for moments, by keys that change and by alerts.
#[derive(Clone)]
pub(super) struct Secrets(Arc<Mutex<Box<dyn NextKeys>>>);

impl Secrets {
    pub(super) fn new(next: Box<dyn NextKeys>) -> Self {
        Self(Arc::new(Mutex::new(next)))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn NextKeys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key, and how often it was used.
struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Cipher {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Keys),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Keys)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Keys)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The nonce of the next record.
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// The nonce that was given out is used up.
    fn advance(&mut self) -> Result<(), RecordError> {
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Keys)?;
        Ok(())
    }
}

/// What stands for a connection: a hash of the keys that its handshake has led to. Both ends know
/// it, nobody else can, and no other connection has the same. (rustls hands out no exporter with
/// the keys.)
pub(super) fn binding(
    dialler: &ConnectionTrafficSecrets,
    listener: &ConnectionTrafficSecrets,
) -> Result<[u8; 32], RecordError> {
    let mut hash = Sha256::new_with_prefix(b"dft link binding 1 ");
    for secrets in [dialler, listener] {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            return Err(RecordError::Keys);
        };
        hash.update(key.as_ref());
        hash.update(iv.as_ref());
    }
    Ok(hash.finalize().into())
}

/// Makes records for one direction.
pub(super) struct Sealer {
    cipher: Cipher,
    secrets: Secrets,
    records_per_key: u64,
}

impl Sealer {
    pub(super) fn new(
        (sequence, keys): &(u64, ConnectionTrafficSecrets),
        secrets: Secrets,
    ) -> Result<Self, RecordError> {
        Ok(Self { cipher: Cipher::new(*sequence, keys)?, secrets, records_per_key: RECORDS_PER_KEY })
    }

    /// Whether the key has done its share.
    pub(super) const fn is_worn(&self) -> bool {
        self.cipher.sequence >= self.records_per_key
    }

    /// Seals `content` into the front of `out`; the record's length.
    pub(super) fn seal(
        &mut self,
        kind: Content,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<usize, RecordError> {
        assert!(content.len() <= CONTENT_MAX, "a record's content is cut to size by the caller");
        let body_len = content.len() + 1 + TAG_LEN;
        let (record, _) = out.split_at_mut(HEADER_LEN + body_len);
        let (header, body) = record.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&header_of(body_len));
        let (sealed, tag) = body.split_at_mut(content.len() + 1);
        copy(content, &mut sealed[..content.len()]);
        sealed[content.len()] = kind.code();
        let nonce = self.cipher.nonce();
        let made = self.cipher.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), sealed);
        tag.copy_from_slice(made.map_err(|_| RecordError::Keys)?.as_ref());
        self.cipher.advance()?;
        Ok(HEADER_LEN + body_len)
    }

    /// Seals the message that changes the key into the front of `out`, and changes it.
    pub(super) fn change_key(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        let len = self.seal(Content::Handshake, &KEY_UPDATE, out)?;
        self.next_key()?;
        Ok(len)
    }

    /// Goes on with the next key.
    pub(super) fn next_key(&mut self) -> Result<(), RecordError> {
        let keys = self.secrets.lock().next_for_sending().map_err(|_| RecordError::Keys)?;
        self.cipher = Cipher::new(0, &keys)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) const fn wears_after(&mut self, records: u64) {
        self.records_per_key = records;
    }
}

/// A handshake message: the sender's key changes; the receiver's need not.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// How long [`Sealer::change_key`]'s record is.
pub(super) const KEY_UPDATE_LEN: usize = KEY_UPDATE.len() + OVERHEAD;

fn header_of(body_len: usize) -> [u8; HEADER_LEN] {
    let len = u16::try_from(body_len).expect("a record's body is far below 64 KiB").to_be_bytes();
    [Content::Data.code(), VERSION[0], VERSION[1], len[0], len[1]]
}

/// Opens the records of one direction.
pub(super) struct Opener {
    cipher: Cipher,
    secrets: Secrets,
}

impl Opener {
    pub(super) fn new(
        (sequence, keys): &(u64, ConnectionTrafficSecrets),
        secrets: Secrets,
    ) -> Result<Self, RecordError> {
        Ok(Self { cipher: Cipher::new(*sequence, keys)?, secrets })
    }

    /// Opens a whole record where it is. What it carries begins at [`HEADER_LEN`], and is so long.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (header, body) = record.split_at_mut(HEADER_LEN);
        let nonce = self.cipher.nonce();
        let opened = self.cipher.key.open_in_place(nonce, Aad::from(&*header), body);
        let content = content_of(opened.map_err(|_| RecordError::NotAuthentic)?)?;
        self.cipher.advance()?;
        Ok(content)
    }

    /// The sender has changed its key.
    pub(super) fn change_key(&mut self) -> Result<(), RecordError> {
        let keys = self.secrets.lock().next_for_receiving().map_err(|_| RecordError::Keys)?;
        self.cipher = Cipher::new(0, &keys)?;
        Ok(())
    }
}

/// The length of the record that `bytes` begin with; none while its header is not all there.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    // After the handshake every record says that it carries data; what it really carries is inside.
    if header[0] != Content::Data.code() {
        return Err(RecordError::Unexpected);
    }
    let body_len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if body_len > BODY_MAX {
        return Err(RecordError::TooLong);
    }
    Ok(Some(HEADER_LEN + body_len))
}

/// Copies in parts that the C library moves by vector instructions: for longer ones it takes
/// `rep movsb`, which needs twice the time on a Zen 3 where the two sides are not aligned alike,
/// as behind a header they never are. (2026-11: 0.2 CPU s/GiB of a link, both ends.)
pub(super) fn copy(from: &[u8], to: &mut [u8]) {
    const PART_LEN: usize = 2 * 1024;
    assert_eq!(from.len(), to.len(), "both sides of a copy are of one length");
    for (from, to) in from.chunks(PART_LEN).zip(to.chunks_mut(PART_LEN)) {
        to.copy_from_slice(from);
    }
}

/// What an opened record carries, and how many bytes of it: behind the content comes its type,
/// and behind that zeros.
fn content_of(opened: &[u8]) -> Result<(Content, usize), RecordError> {
    let len = opened.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Unexpected)?;
    if len > CONTENT_MAX {
        return Err(RecordError::TooLong);
    }
    Ok((Content::from_code(opened[len]).ok_or(RecordError::Unexpected)?, len))
}
