//! The simulator of dft: the very [`Swarm`](dft_protocol::swarm::Swarm) that `dft` runs, by the
//! thousands, in virtual time.
//!
//! - [`world`]: clock, queue, network, disks, drivers, and the rules that must never be broken.
//! - [`scenarios`]: what is run by name, one small file each.
//! - [`random`]: what a seed alone chooses: hosts, network and faults.
//! - [`outcome`]: what a run gave, beside its bound; [`plot`] draws it.
//!
//! Everything follows from the seed: the same seed gives the same events, on any machine.

pub mod compare;
pub mod outcome;
pub mod plot;
pub mod random;
pub mod scenarios;
pub mod world;
