//! The dft node: the command line, storage, links and discovery around the state machine of
//! `dft-protocol`.

pub mod storage;
