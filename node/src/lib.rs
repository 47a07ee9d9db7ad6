//! The dft node: the command line, storage, links and discovery around the state machine of
//! `dft-protocol`.
//!
//! From the outside in: [`cli`] is what may be typed, [`commands`] has a file for each verb,
//! [`session`] puts a node together, [`driver`] is its loop, [`daemon`] holds
//! many datasets and serves the verbs of the namespace, [`net`] and [`storage`] do the work.

pub mod buffers;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod driver;
pub mod failure;
pub mod net;
pub mod rate;
pub mod report;
pub mod secret;
pub mod session;
pub mod settings;
pub mod sha256;
pub mod storage;
pub mod token;
pub mod trace;
