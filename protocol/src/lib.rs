//! The sans-IO core of dft: what a dataset is, what peers say to each other, and who sends
//! which piece to whom.
//!
//! Nothing here reads a clock, a file, a socket or the system's randomness: time comes in as
//! [`time::Instant`], randomness as a seed, payloads as tickets. So the node (`dft`) and the
//! simulator drive the same state machine, and a run is replayed exactly from its seed. A lint
//! (`clippy.toml` of this crate) and a CI step hold this.
//!
//! Where to start reading: [`manifest`] for the data, [`wire`] for the messages, [`swarm`] for
//! the behaviour, [`picker`] for «which piece next».

#![forbid(unsafe_code)]

pub mod geometry;
pub mod id;
pub mod layout;
pub mod manifest;
pub mod path;
pub mod picker;
pub mod piece_map;
pub mod piece_set;
pub mod swarm;
pub mod time;
pub mod wire;
