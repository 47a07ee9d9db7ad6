//! Links without encryption, for trusted networks: both ends still prove who they are when the
//! link opens, by signing fresh nonces of both. What follows is neither secret nor protected
//! against an attacker in the middle; pieces are, by their hashes.
//!
//! ```text
//! dialler  → MAGIC nonce key                     (key: length byte, protobuf public key)
//! listener → MAGIC nonce key signature           (signature: length byte, bytes)
//! dialler  → signature
//! ```
//! Each signs «role ‖ dialler's nonce ‖ listener's nonce ‖ dialler's key ‖ listener's key».

use dft_protocol::id::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{LinkError, Role};
use crate::net::identity::peer_of;

/// Opens a plaintext link in both directions. Its first byte differs from that of TLS (0x16).
pub(super) const MAGIC: [u8; 5] = *b"dftp\x01";
/// Sent by a listener that wants TLS, in place of [`MAGIC`]; the link ends with it.
pub(super) const REFUSAL: [u8; 5] = *b"dftr\x01";
/// A TLS alert (fatal, insufficient_security), which a listener without encryption sends to a
/// dialler that opens with TLS.
pub(super) const TLS_ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 0x47];

const NONCE_LEN: usize = 32;

/// Proves who this end is, and learns who the other one is; and what stands for this connection.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    role: Role,
    keypair: &Keypair,
) -> Result<(PeerId, [u8; 32]), LinkError> {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let key = keypair.public().encode_protobuf();
    let mut opening = [&MAGIC[..], &nonce].concat();
    push_field(&mut opening, &key);
    match role {
        Role::Dialler => {
            stream.write_all(&opening).await?;
            let (their_nonce, their_key) = read_opening(stream).await?;
            let transcript = [&nonce[..], &their_nonce, &key, &their_key].concat();
            let peer = check(stream, "listener", &transcript, &their_key).await?;
            stream.write_all(&sign(keypair, "dialler", &transcript)?).await?;
            Ok((peer, Sha256::digest(transcript).into()))
        }
        Role::Listener => {
            let (their_nonce, their_key) = read_opening(stream).await?;
            let transcript = [&their_nonce[..], &nonce, &their_key, &key].concat();
            opening.extend(sign(keypair, "listener", &transcript)?);
            stream.write_all(&opening).await?;
            let peer = check(stream, "dialler", &transcript, &their_key).await?;
            Ok((peer, Sha256::digest(transcript).into()))
        }
    }
}

async fn read_opening<S: AsyncRead + Unpin>(stream: &mut S) -> Result<([u8; NONCE_LEN], Vec<u8>), LinkError> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic == REFUSAL {
        return Err(LinkError::Refused(dft_protocol::wire::Refusal::EncryptionRequired));
    }
    if magic != MAGIC {
        return Err(LinkError::NotDft);
    }
    let mut nonce = [0; NONCE_LEN];
    stream.read_exact(&mut nonce).await?;
    Ok((nonce, read_field(stream).await?))
}

async fn check<S: AsyncRead + Unpin>(
    stream: &mut S,
    role: &str,
    transcript: &[u8],
    key: &[u8],
) -> Result<PeerId, LinkError> {
    let signature = read_field(stream).await?;
    let key = PublicKey::try_decode_protobuf(key).map_err(|_| LinkError::Unauthenticated)?;
    if !key.verify(&signed_text(role, transcript), &signature) {
        return Err(LinkError::Unauthenticated);
    }
    Ok(peer_of(&key))
}

fn sign(keypair: &Keypair, role: &str, transcript: &[u8]) -> Result<Vec<u8>, LinkError> {
    let signature = keypair.sign(&signed_text(role, transcript)).map_err(|_| LinkError::Unauthenticated)?;
    let mut field = Vec::new();
    push_field(&mut field, &signature);
    Ok(field)
}

fn signed_text(role: &str, transcript: &[u8]) -> Vec<u8> {
    [b"dft plaintext link 1 ", role.as_bytes(), b" ", transcript].concat()
}

/// A field is its length in one byte, then its bytes: nobody can make us allocate more than 255.
fn push_field(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.push(u8::try_from(field.len()).expect("Ed25519 keys and signatures are below 256 bytes"));
    bytes.extend_from_slice(field);
}

async fn read_field<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, LinkError> {
    let len = stream.read_u8().await?;
    let mut field = vec![0; usize::from(len)];
    stream.read_exact(&mut field).await?;
    Ok(field)
}
