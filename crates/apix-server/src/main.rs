//! The `apix` server and command line.
fn main() {}
