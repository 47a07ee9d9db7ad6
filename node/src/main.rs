//! The `dft` command.

fn main() {}
