//! What the command line tools share, and what tests borrow from them.

#![forbid(unsafe_code)]

pub mod blocking;
pub mod local_cluster;
