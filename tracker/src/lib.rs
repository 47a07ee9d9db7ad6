//! The dft tracker: it tells peers of one dataset about each other.
//!
//! A pure core ([`registry`]: who announced what, until when) behind a thin shell: [`service`]
//! is one thread that owns the registry and its durable [`store`], [`server`] is the libp2p
//! swarm of `dft tracker`. A seeder embeds the same service in its own libp2p swarm. `dft tracker`
//! has a [`catalogue`] besides: names, and which nodes there are; a [`client`] asks it.
//!
//! Invariants: an announcement is answered only after it is durable; everything that a remote
//! can make grow has a named limit; bytes of a remote decode through validating constructors
//! only ([`protocol`]).
//!
//! Where to start reading: [`registry`] for what a tracker knows, [`protocol`] for what it is
//! asked, [`service`] for how the two meet.

#![forbid(unsafe_code)]

pub mod address;
pub mod catalogue;
pub mod client;
pub mod codec;
pub mod limits;
pub mod protocol;
pub mod registry;
pub mod server;
pub mod service;
pub mod state;
pub mod store;
