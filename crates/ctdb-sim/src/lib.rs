//! A CTDB cluster in one thread, with virtual time and one seed.
#![forbid(unsafe_code)]
