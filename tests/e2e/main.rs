//! End-to-end tests: the built `dft`, as a user starts it, on loopback and in network
//! laboratories. A test's name is the behaviour it shows.
//!
//! Where to start reading: [`loopback`] for the daily use, [`lan`] for discovery among hosts,
//! [`crash`] for what must survive `kill -9`, [`disk`] for what disks do, [`clones`] for copies that share blocks, [`cli`] for the contract
//! with whoever types, [`wrong_uses`] for what is typed wrongly, [`names`] for a catalogue without room,
//! [`hostile`] for peers that misbehave, [`namespace`] for daemons and their verbs, [`sharing`] for what
//! they tell and spare those who wait, [`safety`] for what they must never lose, [`endings`] for what ends in
//! the middle, [`same_content`] for what is put again, [`continuity`] for what goes on without a tracker or a node, [`catalogues`] for which
//! catalogue is used, [`puts`] for what a put asks and leaves, [`shell`] for prompts, batches and the socket, [`laboratory`] for proof that the laboratory itself does what it says.

#![allow(unreachable_pub, reason = "a test binary has no one to export to")]

#[allow(dead_code, reason = "shared with the benches, which use other parts of it")]
#[path = "../lab/mod.rs"]
mod lab;

mod catalogues;
mod cli;
mod clones;
mod compression;
mod config;
mod continuity;
mod crash;
mod disk;
mod endings;
mod hostile;
mod laboratory;
mod lan;
mod limits;
mod loopback;
mod many;
mod names;
mod namespace;
mod node;
mod puts;
mod reading;
mod removal;
mod safety;
mod same_content;
mod secret;
mod selection;
mod sharing;
mod shell;
mod steps;
mod trace;
mod wrong_uses;
