//! All decisions of a CTDB node, without I/O.
#![forbid(unsafe_code)]

pub mod banning;
pub mod cluster_check;
pub mod cluster_lock;
pub mod election;
pub mod explain;
pub mod leader;
pub mod recoverd;
pub mod recovery;
pub mod takeover;
