//! Flag words and small enums of nodes, databases and records (`wire.md 4.6`).
//!
//! Bits that have no name here are kept as they came: a newer peer may know them.

use std::fmt;

use bitflags::bitflags;
use bytes::{Buf, BufMut};

use crate::{DecodeError, Wire};

/// Codec for flag words: all bits are kept.
macro_rules! wire_flags {
    ($($flags:ty: $raw:ty;)*) => {$(
        impl $crate::Wire for $flags {
            const MIN_LEN: usize = size_of::<$raw>();

            fn encode(&self, out: &mut impl bytes::BufMut) {
                self.bits().encode(out);
            }

            fn decode(src: &mut impl bytes::Buf) -> Result<Self, $crate::DecodeError> {
                <$raw>::decode(src).map(Self::from_bits_retain)
            }
        }
    )*};
}
pub(crate) use wire_flags;

bitflags! {
    /// State of a node.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct NodeFlags: u32 {
        /// No connection to it. Each node sets this bit for itself; it is never taken over.
        const DISCONNECTED = 0x01;
        /// Its event scripts say that something is wrong.
        const UNHEALTHY = 0x02;
        /// An administrator took its public addresses away.
        const PERMANENTLY_DISABLED = 0x04;
        /// Excluded from the cluster for some time.
        const BANNED = 0x08;
        /// Removed from the `nodes` file.
        const DELETED = 0x10;
        /// An administrator took it out of the cluster.
        const STOPPED = 0x20;

        /// Does not host public addresses.
        const DISABLED = 0x06;
        /// Takes no part in the cluster.
        const INACTIVE = 0x39;

        const _ = !0;
    }
}

impl NodeFlags {
    /// Whether the node is out of the cluster, for whatever reason.
    pub const fn is_inactive(self) -> bool {
        self.intersects(Self::INACTIVE)
    }

    /// Whether the node may not host public addresses, though it may be active.
    pub const fn is_disabled(self) -> bool {
        self.intersects(Self::DISABLED)
    }
}

bitflags! {
    /// Kind of a database. Volatile: neither persistent nor replicated.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct DbFlags: u8 {
        /// Kept over restarts; changed by transactions; a full copy on each node.
        const PERSISTENT = 0x01;
        /// Read-only copies of records may be handed out.
        const READONLY = 0x02;
        /// Hot records stay on a node for some time.
        const STICKY = 0x04;
        /// As persistent, but emptied when the cluster starts.
        const REPLICATED = 0x08;

        const _ = !0;
    }
}

impl DbFlags {
    /// Whether records migrate and are lost with the node that has them.
    pub const fn is_volatile(self) -> bool {
        !self.intersects(Self::PERSISTENT.union(Self::REPLICATED))
    }
}

bitflags! {
    /// Flags in the header of a record.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct RecordFlags: u32 {
        /// Has had data when it migrated, so that other copies may exist.
        const MIGRATED_WITH_DATA = 0x0001_0000;
        /// Came here by vacuuming. In memory only.
        const VACUUM_MIGRATED = 0x0002_0000;
        /// Made by the daemon, not by a client.
        const AUTOMATIC = 0x0004_0000;
        /// The dmaster has handed out read-only copies.
        const RO_HAVE_DELEGATIONS = 0x0100_0000;
        /// This is a read-only copy.
        const RO_HAVE_READONLY = 0x0200_0000;
        /// The dmaster takes the read-only copies back.
        const RO_REVOKING_READONLY = 0x0400_0000;
        /// All read-only copies have been taken back.
        const RO_REVOKE_COMPLETE = 0x0800_0000;

        /// Everything about read-only copies.
        const RO_FLAGS = 0x0F00_0000;

        const _ = !0;
    }
}

bitflags! {
    /// What a node can do in the cluster.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct Capabilities: u32 {
        /// May become leader; `RECMASTER` on the wire.
        const LEADER = 0x1;
        /// May be an lmaster.
        const LMASTER = 0x2;
        /// Obsolete.
        const LVS = 0x4;
        /// Obsolete.
        const NATGW = 0x8;
        /// Answers the controls of a parallel recovery.
        const PARALLEL_RECOVERY = 0x0001_0000;
        /// Knows `DB_PULL` and `DB_PUSH` with batches of records.
        const FRAGMENTED_CONTROLS = 0x0002_0000;

        const _ = !0;
    }
}

impl Capabilities {
    /// What a daemon has unless its configuration takes a role away.
    pub const DEFAULT: Self = Self::from_bits_retain(0x0003_0003);
}

bitflags! {
    /// How a TDB file was opened: the bits of the TDB library.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct TdbOpenFlags: u32 {
        const CLEAR_IF_FIRST = 0x1;
        const NOSYNC = 0x40;
        const SEQNUM = 0x80;
        const DISALLOW_NESTING = 0x400;
        const INCOMPATIBLE_HASH = 0x800;
        const MUTEX_LOCKING = 0x1000;

        const _ = !0;
    }
}

wire_flags! {
    TdbOpenFlags: u32;
    NodeFlags: u32;
    DbFlags: u8;
    RecordFlags: u32;
    Capabilities: u32;
}

/// Life of a daemon, in order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RunState {
    Unknown,
    Init,
    Setup,
    FirstRecovery,
    Startup,
    Running,
    Shutdown,
}

impl RunState {
    /// `None` for numbers above 6.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Unknown,
            1 => Self::Init,
            2 => Self::Setup,
            3 => Self::FirstRecovery,
            4 => Self::Startup,
            5 => Self::Running,
            6 => Self::Shutdown,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// Its name in logs and in the output of `ctdb runstate`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Init => "INIT",
            Self::Setup => "SETUP",
            Self::FirstRecovery => "FIRST_RECOVERY",
            Self::Startup => "STARTUP",
            Self::Running => "RUNNING",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Wire for RunState {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        self.raw().encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let raw = u32::decode(src)?;
        Self::from_raw(raw).ok_or(DecodeError::BadValue {
            field: "run state",
            value: raw.into(),
        })
    }
}

/// Whether a node is in recovery.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RecMode {
    /// Databases can be used.
    Normal,
    /// Databases are frozen, or about to be.
    Active,
}

impl RecMode {
    /// `None` for numbers above 1.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Normal),
            1 => Some(Self::Active),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// Its name in logs and in the output of `ctdb status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Active => "RECOVERY",
        }
    }
}

impl fmt::Display for RecMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Wire for RecMode {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        self.raw().encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let raw = u32::decode(src)?;
        Self::from_raw(raw).ok_or(DecodeError::BadValue {
            field: "recovery mode",
            value: raw.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bits_survive_set_operations() {
        let flags = NodeFlags::from_bits_retain(0x8000_0001) & !NodeFlags::DISCONNECTED;
        assert_eq!(flags.bits(), 0x8000_0000);
    }

    #[test]
    fn an_unhealthy_node_is_active_but_disabled() {
        assert!(!NodeFlags::UNHEALTHY.is_inactive());
        assert!(NodeFlags::UNHEALTHY.is_disabled());
        assert!(NodeFlags::STOPPED.is_inactive());
    }

    #[test]
    fn run_states_keep_their_numbers() {
        for raw in 0..7 {
            assert_eq!(RunState::from_raw(raw).map(RunState::raw), Some(raw));
        }
        assert_eq!(RunState::from_raw(7), None);
    }
}
