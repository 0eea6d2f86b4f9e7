//! A CTDB cluster in one thread, with virtual time and one seed.
//!
//! The nodes are the `ctdb_core::Node` of the daemon; all that surrounds them is simulated. A
//! [`Run`] is a cluster with clients ([`workload`]) to which one thing after the other happens
//! ([`chaos`]). After every step all rules are checked ([`invariants`]); when the faults have
//! ended the cluster must become whole again ([`liveness`]). A run depends on its [`Plan`] alone,
//! so a failure replays exactly; the wall clock decides nothing.
//!
//! For a story of one fault, tell it to the [`World`] itself: it is the time, the hosts, the
//! links, the disks, the event scripts and the cluster lock.
#![forbid(unsafe_code)]

pub mod admin;
pub mod chaos;
mod cluster;
mod cluster_lock;
pub mod disk;
pub mod invariants;
pub mod liveness;
mod net;
pub mod observed;
mod run;
mod scripts;
mod trace;
pub mod workload;
pub mod world;

pub use cluster::Cluster;
pub use cluster_lock::LockService;
pub use disk::Disk;
pub use observed::Observed;
pub use run::{Failure, Plan, Run, Summary};
pub use scripts::Script;
pub use trace::{Line, Trace};
pub use world::{Cost, Options, World};
