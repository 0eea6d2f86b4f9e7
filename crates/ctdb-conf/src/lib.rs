//! ctdb.conf, nodes, public addresses, tunables and install paths.
#![forbid(unsafe_code)]
