//! The record path without a network: one node at a time in `calls` and `readonly`, three nodes
//! with packets between them in `traces` and `world`.

mod calls;
mod fixture;
mod net;
mod readonly;
mod traces;
mod vacuum;
mod world;
