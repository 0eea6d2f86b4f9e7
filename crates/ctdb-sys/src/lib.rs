//! What CTDB asks of Linux: scheduling, addresses, raw packets.

pub mod local_time;

pub use local_time::LocalTime;
