//! The catalogue: the names that all nodes share, and the directory of these nodes.
//!
//! A name stands for one dataset for all time: it is written once, and what is removed leaves
//! the name its own (docs/decisions/0023). A pure core ([`index`]: which name stands for what;
//! [`node`]: which nodes there are) behind one thread ([`service`]) that owns it and its durable
//! [`store`]; [`protocol`] is how it is asked, [`token`] who may write, [`follow`] how a second
//! tracker copies it.
//!
//! Invariants: a write is answered only after it is durable; a manifest is kept under the id
//! that its own bytes have; what a remote can make grow has a named limit.
//!
//! Where to start reading: [`protocol::Request`], then [`service`].

pub mod follow;
pub mod index;
pub mod name;
pub mod node;
pub mod protocol;
pub mod service;
pub mod session;
pub mod staging;
pub mod store;
pub mod token;
