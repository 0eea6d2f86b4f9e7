//! The `ctdb` command.
#![forbid(unsafe_code)]

fn main() {}
