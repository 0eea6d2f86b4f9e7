//! All decisions of a CTDB node, without I/O.
//!
//! Start with [`Node`]: it owns every machine and routes what happens to the one concerned. What
//! may happen is an [`Input`]; what it wants done is an [`Effect`]. There is no clock, socket,
//! file or await in this crate: the same code runs in the daemon, in tests and in the simulator.
#![forbid(unsafe_code)]

mod banning;
mod clients;
mod cluster;
mod cluster_check;
mod cluster_lock;
mod config;
mod database;
pub mod effect;
mod election;
pub mod explain;
mod flow;
mod freeze;
pub mod input;
mod latency;
mod leader;
pub mod migrate;
mod monitor;
pub mod mutation;
mod node;
mod nodes_list;
mod outstanding;
mod peers;
pub mod persistent;
pub mod recoverd;
pub mod recovery;
mod reqid;
mod serve;
mod stat_history;
mod takeover;
mod traverse;
mod vacuum;
mod waiting;

pub use cluster_lock::ClusterLockEvent;
pub use config::{ConfiguredNode, NodeConfig};
pub use effect::{
    DbAnswer, DbOp, Effect, Event, EventOutcome, Notification, RECOVERY_WINDOW, TRAVERSE_WINDOW,
    Ticket,
};
pub use input::{DbFailure, Input, LinkEnd, LockTest, Record};
pub use migrate::{RecordJob, Verdict, Write};
pub use node::Node;
pub use peers::Refusal;
pub use recoverd::LockAttempt;
pub use recovery::collate;
