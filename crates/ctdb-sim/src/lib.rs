//! A CTDB cluster in one thread, with virtual time and one seed.
//!
//! The nodes are the `ctdb_core::Node` of the daemon; what surrounds them is simulated: links that
//! delay and can be cut ([`World`]), databases in memory ([`disk`]), event scripts that succeed, a
//! cluster lock. A run depends on its seed alone, so a failure replays exactly.
#![forbid(unsafe_code)]

pub mod disk;
pub mod world;

pub use disk::Disk;
pub use world::{Options, World};
