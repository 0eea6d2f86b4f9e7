//! Deliberate mistakes, to see whether the simulator finds them.
//!
//! Without the feature `mutations`, which only the tests of `ctdb-sim` turn on, none can be made:
//! [`is_on`] is `false` at compile time. With it, a test turns one on for its own thread.

/// A mistake that somebody could have made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mutation {
    /// A recovery keeps the copy of a record with the lower rsn.
    CollateKeepsLowerRsn,
    /// Record packets of another generation are taken.
    NoGenerationCheck,
    /// Who finds the cluster lock taken leads all the same.
    TwoLeaders,
    /// A banned node forgets it at once.
    BanForgotten,
    /// A commit is acknowledged when the first node has stored it.
    LostCommit,
    /// A node that hears no leader lets records be used all the same.
    NoFence,
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Makes that mistake in all nodes of this thread from now on; `None`: makes none any more.
    pub fn set(mutation: Option<Mutation>) {
        ON.set(mutation);
    }

    pub(crate) fn is_on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }
}

#[cfg(not(feature = "mutations"))]
mod switch {
    pub(crate) const fn is_on(_: super::Mutation) -> bool {
        false
    }
}

pub(crate) use switch::is_on;
#[cfg(feature = "mutations")]
pub use switch::set;
