//! Stories: one for each fault of the specification (`cluster.md` 13 and 14), told with clients at
//! work and all rules checked after every step.
//!
//! Of the table in `cluster.md` 13 these are not told, since they cannot happen here: a recovery
//! daemon or an event daemon that dies alone (both are part of the daemon), and a volatile
//! directory that is full (to the other nodes it looks like a daemon that was killed).

mod bugs;
mod clocks;
mod cuts;
mod disks;
mod kills;
mod locks;
mod partitions;
mod pauses;
mod scripts;
mod story;
