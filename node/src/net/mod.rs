//! The network: finding peers, and the links to them.
//!
//! Start with [`discovery`]: it turns a manifest's id into addresses of peers.

pub mod discovery;
