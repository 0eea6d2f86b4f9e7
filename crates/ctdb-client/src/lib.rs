//! Async client for the Unix socket of ctdbd.
#![forbid(unsafe_code)]
