//! The CTDB daemon.
#![forbid(unsafe_code)]

fn main() {}
