//! Who this node is to others: a key pair, whose public half is the libp2p PeerId.

use dft_protocol::id::PeerId;
use libp2p::identity::{Keypair, PublicKey};

/// The key pair of one node, and the identity that follows from it. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    peer: PeerId,
}

impl Identity {
    /// A new identity, for one run.
    pub fn generate() -> Self {
        Self::from_keypair(Keypair::generate_ed25519())
    }

    /// The identity of an Ed25519 key pair.
    pub fn from_keypair(keypair: Keypair) -> Self {
        let peer = peer_of(&keypair.public());
        Self { keypair, peer }
    }

    /// What others call this node.
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// The key pair.
    pub const fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

/// The identity that belongs to a public key.
pub(crate) fn peer_of(key: &PublicKey) -> PeerId {
    PeerId::from_bytes(&key.to_peer_id().to_bytes())
        .expect("a PeerId of a known key type has at most 42 bytes")
}

/// The identity in libp2p's usual notation (base58); the protocol's own where it is none.
pub fn display_peer(peer: &PeerId) -> String {
    libp2p::PeerId::from_bytes(peer.as_bytes()).map_or_else(|_| peer.to_string(), |peer| peer.to_base58())
}
