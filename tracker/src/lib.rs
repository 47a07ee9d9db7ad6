//! The dft tracker.
