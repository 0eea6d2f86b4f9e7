//! Trivial database files, shared live with programs that use libtdb.

