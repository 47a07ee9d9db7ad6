//! How messages travel on a libp2p stream: a length of 4 bytes, big-endian, then that many bytes
//! of canonical CBOR.
//!
//! The length is checked before anything is allocated, and memory grows with what has arrived. A
//! [`Message`] decodes only through its validating constructor, and only from the bytes that it
//! would be written with ([`decode_canonical`]).

use std::io;
use std::marker::PhantomData;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Longer than its kind may be.
    #[error("a message of {len} bytes exceeds the limit of {max}")]
    TooLong {
        /// The length that was announced.
        len: usize,
        /// The longest of its kind.
        max: usize,
    },
    /// Not CBOR, or not of the schema.
    #[error("a message does not follow the schema: {0}")]
    Malformed(String),
    /// It reads well, but would be written with other bytes.
    #[error("a message is not in canonical form")]
    NotCanonical,
    /// A field has a value that is not allowed.
    #[error("a message is not valid: {0}")]
    Invalid(&'static str),
}

/// A request or a response.
pub trait Message: Sized + Send + 'static {
    /// The longest encoding that is accepted, in bytes.
    const LEN_MAX: usize;

    /// The canonical bytes.
    fn encode(&self) -> Vec<u8>;

    /// The message that these bytes hold. Only the canonical form is accepted.
    fn decode(bytes: &[u8]) -> Result<Self, MessageError>;
}

/// Decodes `bytes` by way of `Wire`, the shape that is written, into the valid `T`.
pub fn decode_canonical<T, Wire>(bytes: &[u8]) -> Result<T, MessageError>
where
    T: Message + TryFrom<Wire, Error = MessageError>,
    Wire: DeserializeOwned,
{
    if bytes.len() > T::LEN_MAX {
        return Err(MessageError::TooLong { len: bytes.len(), max: T::LEN_MAX });
    }
    let wire: Wire =
        serde_cbor::from_slice(bytes).map_err(|error| MessageError::Malformed(error.to_string()))?;
    let message = T::try_from(wire)?;
    if message.encode() != bytes {
        return Err(MessageError::NotCanonical);
    }
    Ok(message)
}

/// Encodes a value of our own types: nothing in them can fail to encode.
pub fn to_cbor(value: &impl Serialize) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("a value of our own types always encodes to CBOR")
}

/// The codec of one libp2p request-response protocol.
pub struct MessageCodec<Request, Response>(PhantomData<fn() -> (Request, Response)>);

impl<Request, Response> Default for MessageCodec<Request, Response> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request, Response> Clone for MessageCodec<Request, Response> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<Request: Message, Response: Message> request_response::Codec for MessageCodec<Request, Response> {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, stream: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(stream).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, stream: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(stream).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        stream: &mut T,
        message: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(stream, message.encode()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        stream: &mut T,
        message: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(stream, message.encode()).await
    }
}

async fn read<M: Message>(stream: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<M> {
    let invalid = |error: MessageError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > M::LEN_MAX {
        return Err(invalid(MessageError::TooLong { len, max: M::LEN_MAX }));
    }
    let mut bytes = Vec::new();
    // Lossless: `len` came from 32 bits.
    let arrived = stream.take(len as u64).read_to_end(&mut bytes).await?;
    if arrived < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    M::decode(&bytes).map_err(invalid)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin + Send), bytes: Vec<u8>) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Number(u64);

    impl TryFrom<u64> for Number {
        type Error = MessageError;

        fn try_from(number: u64) -> Result<Self, MessageError> {
            Ok(Self(number))
        }
    }

    impl Message for Number {
        const LEN_MAX: usize = 16;

        fn encode(&self) -> Vec<u8> {
            to_cbor(&self.0)
        }

        fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
            decode_canonical::<Self, u64>(bytes)
        }
    }

    fn read_from(bytes: &[u8]) -> Result<Number, io::ErrorKind> {
        block_on(read::<Number>(&mut Cursor::new(bytes))).map_err(|error| error.kind())
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut stream = Cursor::new(Vec::new());
        block_on(write(&mut stream, Number(24).encode())).expect("memory takes it");
        assert_eq!(stream.get_ref(), &[0, 0, 0, 2, 0x18, 24]);
        assert_eq!(read_from(stream.get_ref()), Ok(Number(24)));
    }

    #[test]
    fn lengths_are_checked_before_they_are_believed() {
        // bytes of the stream, error
        let cases: &[(&[u8], io::ErrorKind)] = &[
            (&[], io::ErrorKind::UnexpectedEof),
            (&[0, 0, 0], io::ErrorKind::UnexpectedEof),
            (&[0, 0, 0, 2, 0x18], io::ErrorKind::UnexpectedEof),
            (&[0, 0, 0, 0], io::ErrorKind::InvalidData),
            (&[0, 0, 0, 17, 1], io::ErrorKind::InvalidData),
            (&[0xff, 0xff, 0xff, 0xff, 1], io::ErrorKind::InvalidData),
            (&[0, 0, 0, 2, 0x18, 23], io::ErrorKind::InvalidData),
            (&[0, 0, 0, 2, 1, 1], io::ErrorKind::InvalidData),
        ];
        for (bytes, error) in cases {
            assert_eq!(read_from(bytes), Err(*error), "{bytes:?}");
        }
    }
}
