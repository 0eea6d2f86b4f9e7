//! What CTDB asks of Linux, as thin and safe functions: nothing here decides anything.
//!
//! | module | asks for |
//! |---|---|
//! | [`addresses`] | the IP addresses of this host |
//! | [`file_lock`] | classic POSIX locks on one byte of a file |
//! | [`process`] | forking into the background, real-time scheduling, memory |
//! | [`local_time`] | the local time of day |
//!
//! `raw` is the only file of the daemon with `unsafe` code outside of the `tdb` crate.

pub mod addresses;
pub mod file_lock;
pub mod local_time;
pub mod process;

mod raw;

pub use local_time::LocalTime;
