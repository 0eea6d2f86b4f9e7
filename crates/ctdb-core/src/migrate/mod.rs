//! The record path: who owns a record, and how it comes to the node that needs it
//! (data-plane.md 2 to 5).
//!
//! Everything here runs in two steps. A packet is looked at and becomes a [`RecordJob`]; the
//! shell locks the hash chain, reads the record and calls [`crate::Node::on_record`], which
//! returns a [`Verdict`]: what to write, and what to send once it is written. Between the lock
//! and the write nothing else happens on the node.

mod job;

pub use job::{RecordJob, Verdict, Write};
