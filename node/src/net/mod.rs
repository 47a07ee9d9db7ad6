//! The network: who this node is ([`identity`]), the links that carry pieces ([`link`]), and how
//! peers are found ([`discovery`]). libp2p's types do not leave this module.

pub mod congestion;
pub mod discovery;
pub mod identity;
pub mod link;
pub mod neighbours;
