//! `kvnode-server`: command line to configuration to node; nothing else.
fn main() {}
