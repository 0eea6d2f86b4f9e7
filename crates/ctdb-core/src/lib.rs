//! All decisions of a CTDB node, without I/O.
#![forbid(unsafe_code)]
