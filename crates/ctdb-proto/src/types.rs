//! The numbers of CTDB, one type for each kind, so that they do not mix.

use std::fmt;

use bytes::{Buf, BufMut};

use crate::{DecodeError, Wire, jenkins_hash};

/// TCP port of the daemon, unless `/etc/services` gives another one for `ctdb`.
pub const DEFAULT_PORT: u16 = 4379;

/// Destination of a client's packet: the daemon it is connected to.
pub const CURRENT_NODE: u32 = 0xF000_0001;
/// Destination: every node that is not deleted, the sender too.
pub const BROADCAST_ALL: u32 = 0xF000_0002;
/// Destination: every node without one of the inactive flags, the sender too.
pub const BROADCAST_ACTIVE: u32 = 0xF000_0003;
/// Destination: every node that is neither deleted nor disconnected, the sender too.
pub const BROADCAST_CONNECTED: u32 = 0xF000_0004;
/// Defined, but never implemented by anyone: treated as a node that does not exist.
pub const MULTICAST: u32 = 0xF000_0005;
/// "No node": an address without a host, a cluster without a leader.
pub const UNKNOWN_PNN: u32 = 0xFFFF_FFFF;

/// Physical node number: the zero-based line of a node in the `nodes` file, whether it is up or
/// not.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pnn(u32);

impl Pnn {
    /// `None` for the reserved numbers: "this node", the broadcasts, "unknown".
    pub const fn new(raw: u32) -> Option<Self> {
        if raw < CURRENT_NODE {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as an index into a list of all nodes.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number on the wire of a node that may be missing.
    pub const fn raw_or_unknown(pnn: Option<Self>) -> u32 {
        match pnn {
            Some(pnn) => pnn.0,
            None => UNKNOWN_PNN,
        }
    }
}

impl fmt::Display for Pnn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Wire for Pnn {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        self.0.encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let raw = u32::decode(src)?;
        Self::new(raw).ok_or(DecodeError::BadValue {
            field: "pnn",
            value: raw.into(),
        })
    }
}

/// A node that may be missing: `None` is [`UNKNOWN_PNN`] on the wire.
impl Wire for Option<Pnn> {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        Pnn::raw_or_unknown(*self).encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        match u32::decode(src)? {
            UNKNOWN_PNN => Ok(None),
            raw => match Pnn::new(raw) {
                Some(pnn) => Ok(Some(pnn)),
                None => Err(DecodeError::BadValue {
                    field: "pnn",
                    value: raw.into(),
                }),
            },
        }
    }
}

/// Where a packet goes (`wire.md 2`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Dest {
    /// One node, by its number.
    Node(Pnn),
    /// The daemon the client is connected to. On the Unix socket only.
    Current,
    /// Every node that is not deleted.
    All,
    /// Every node without one of [`NodeFlags::INACTIVE`](crate::NodeFlags::INACTIVE).
    Active,
    /// Every node that is neither deleted nor disconnected.
    Connected,
}

impl Dest {
    /// `None` for numbers that name no destination ([`MULTICAST`], [`UNKNOWN_PNN`], ...).
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            CURRENT_NODE => Some(Self::Current),
            BROADCAST_ALL => Some(Self::All),
            BROADCAST_ACTIVE => Some(Self::Active),
            BROADCAST_CONNECTED => Some(Self::Connected),
            _ => match Pnn::new(raw) {
                Some(pnn) => Some(Self::Node(pnn)),
                None => None,
            },
        }
    }

    /// The number on the wire.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Node(pnn) => pnn.get(),
            Self::Current => CURRENT_NODE,
            Self::All => BROADCAST_ALL,
            Self::Active => BROADCAST_ACTIVE,
            Self::Connected => BROADCAST_CONNECTED,
        }
    }

    /// Whether the packet is for more than one node.
    pub const fn is_broadcast(self) -> bool {
        matches!(self, Self::All | Self::Active | Self::Connected)
    }
}

impl From<Pnn> for Dest {
    fn from(pnn: Pnn) -> Self {
        Self::Node(pnn)
    }
}

/// Declares a number of its own kind: constructor, getter, `Display` and codec.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub $raw);

        impl $name {
            /// Wraps the number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number itself.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl $crate::Wire for $name {
            const MIN_LEN: usize = size_of::<$raw>();

            fn encode(&self, out: &mut impl bytes::BufMut) {
                self.0.encode(out);
            }

            fn decode(src: &mut impl bytes::Buf) -> Result<Self, $crate::DecodeError> {
                <$raw>::decode(src).map(Self)
            }
        }
    };
}
pub(crate) use number;

number! {
    /// Id of a database: the hash of its name.
    DbId(u32), "{:#010x}"
}

impl DbId {
    /// Id of the database with this name (`wire.md 4.2`): the NUL of the C string counts.
    pub fn of_name(name: &str) -> Self {
        let mut bytes = Vec::with_capacity(name.len() + 1);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        Self(jenkins_hash(&bytes))
    }
}

number! {
    /// Number of a vnn map or of a database; a record packet of another generation is dropped.
    Generation(u32), "{}"
}

impl Generation {
    /// Before the first recovery, and after becoming inactive.
    pub const INVALID: Self = Self(1);
}

number! {
    /// Id that matches a reply to its request. Opaque to the one who replies.
    ReqId(u32), "{}"
}

number! {
    /// Number of a client in its own daemon, out of the same space as [`ReqId`]. 0: no client.
    ClientId(u32), "{}"
}

impl ClientId {
    /// The daemon itself asks, not a client.
    pub const NONE: Self = Self(0);
}

number! {
    /// Record sequence number: grows when a record moves or changes; recovery keeps the highest.
    Rsn(u64), "{}"
}

number! {
    /// Service id: the 64-bit address of a message handler (`wire.md 6`).
    Srvid(u64), "{:#018x}"
}

impl Srvid {
    /// First of the addresses for batches of records; a counter of the recovery is added.
    pub const RECOVERY: Self = Self(0xF001_0000_0000_0000);
    /// A node did something that brings it closer to a ban.
    pub const BANNING: Self = Self(0xF002_0000_0000_0000);
    /// Leader election.
    pub const ELECTION: Self = Self(0xF100_0000_0000_0000);
    /// The leader says that it leads, once a second.
    pub const LEADER: Self = Self(0xF101_0000_0000_0000);
    /// A node misses its leader and asks another one about it. Ours only: others do not answer.
    pub const LEADER_QUERY: Self = Self(0xF102_0000_0000_0000);
    /// The answer to [`Self::LEADER_QUERY`].
    pub const LEADER_OPINION: Self = Self(0xF103_0000_0000_0000);
    /// A node asks its leader whether it may go on, and names a time of its own clock. Ours only.
    pub const LEASE_REQUEST: Self = Self(0xF104_0000_0000_0000);
    /// The answer to [`Self::LEASE_REQUEST`], with the same time; with 0 the leader says unasked
    /// that it answers such requests.
    pub const LEASE_GRANT: Self = Self(0xF105_0000_0000_0000);
    /// A recovery has ended.
    pub const RECONFIGURE: Self = Self(0xF200_0000_0000_0000);
    /// A public address has left this node.
    pub const RELEASE_IP: Self = Self(0xF300_0000_0000_0000);
    /// A public address has come to this node.
    pub const TAKE_IP: Self = Self(0xF301_0000_0000_0000);
    /// A takeover run has ended (4.24).
    pub const IPREALLOCATED: Self = Self(0xF302_0000_0000_0000);
    /// A takeover run begins (4.24).
    pub const START_IPREALLOCATE: Self = Self(0xF303_0000_0000_0000);
    /// Obsolete: only logged.
    pub const SET_NODE_FLAGS: Self = Self(0xF400_0000_0000_0000);
    /// Obsolete: nobody listens.
    pub const RECD_UPDATE_IP: Self = Self(0xF500_0000_0000_0000);
    /// Obsolete: replaced by the control of the same name.
    pub const VACUUM_FETCH: Self = Self(0xF700_0000_0000_0000);
    /// Obsolete: nobody listens.
    pub const DETACH_DATABASE: Self = Self(0xF701_0000_0000_0000);
    /// Asks the recovery daemon for a description of its memory.
    pub const MEM_DUMP: Self = Self(0xF800_0000_0000_0000);
    /// Obsolete.
    pub const GETLOG: Self = Self(0xF801_0000_0000_0000);
    /// Obsolete.
    pub const CLEARLOG: Self = Self(0xF802_0000_0000_0000);
    /// The daemon's health changed: tell the other nodes.
    pub const PUSH_NODE_FLAGS: Self = Self(0xF900_0000_0000_0000);
    /// Read the `nodes` file again.
    pub const RELOAD_NODES: Self = Self(0xFA00_0000_0000_0000);
    /// Asks the leader for a takeover run.
    pub const TAKEOVER_RUN: Self = Self(0xFB00_0000_0000_0000);
    /// Asks the leader to move addresses to this node in the next takeover run.
    pub const REBALANCE_NODE: Self = Self(0xFB01_0000_0000_0000);
    /// No takeover runs for some time.
    pub const DISABLE_TAKEOVER_RUNS: Self = Self(0xFB03_0000_0000_0000);
    /// No recoveries for some time.
    pub const DISABLE_RECOVERIES: Self = Self(0xFB04_0000_0000_0000);
    /// No checks of the public addresses for some time (tool of 4.17).
    pub const DISABLE_IP_CHECK: Self = Self(0xFC00_0000_0000_0000);
    /// A Samba process that asked for it has ended.
    pub const SAMBA_NOTIFY: Self = Self(0xFE00_0000_0000_0000);
    /// Samba's proxy for file change notifications.
    pub const SAMBA_NOTIFY_PROXY: Self = Self(0xFE00_0000_0000_0001);
    /// All Samba processes.
    pub const SAMBA_PROCESS: Self = Self(0xFE00_0000_0000_0002);
    /// Registered by a client that wants every message of its node. Never sent.
    pub const ALL: Self = Self(u64::MAX);

    /// Base of the ids that a shutting-down daemon (4.24) wants answers at.
    pub const RANGE_SERVER: Self = Self(0x9E00_0000_0000_0000);
    /// Base of the ids of test programs.
    pub const RANGE_TEST: Self = Self(0xAE00_0000_0000_0000);
    /// Base of the ids of the client library; the traverse of a process adds its pid.
    pub const RANGE_CLIENT: Self = Self(0xBE00_0000_0000_0000);
    /// Base of the ids of the `ctdb` tool.
    pub const RANGE_TOOL: Self = Self(0xCE00_0000_0000_0000);
    /// Where `ctdb restoredb` sends its batches of records.
    pub const RESTORE: Self = Self(0xCE02_0000_0000_0000);
    /// Base of the ids of Samba.
    pub const RANGE_SAMBA: Self = Self(0xFE00_0000_0000_0000);

    /// Whether batches of records for a recovery are sent to it.
    pub const fn is_recovery(self) -> bool {
        self.0 >> 32 == Self::RECOVERY.0 >> 32
    }

    /// Name of a well-known id, as log lines and tools show it.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::BANNING => "BANNING",
            Self::ELECTION => "ELECTION",
            Self::LEADER => "LEADER",
            Self::LEADER_QUERY => "LEADER_QUERY",
            Self::LEADER_OPINION => "LEADER_OPINION",
            Self::LEASE_REQUEST => "LEASE_REQUEST",
            Self::LEASE_GRANT => "LEASE_GRANT",
            Self::RECONFIGURE => "RECONFIGURE",
            Self::RELEASE_IP => "RELEASE_IP",
            Self::TAKE_IP => "TAKE_IP",
            Self::IPREALLOCATED => "IPREALLOCATED",
            Self::START_IPREALLOCATE => "START_IPREALLOCATE",
            Self::SET_NODE_FLAGS => "SET_NODE_FLAGS",
            Self::RECD_UPDATE_IP => "RECD_UPDATE_IP",
            Self::VACUUM_FETCH => "VACUUM_FETCH",
            Self::DETACH_DATABASE => "DETACH_DATABASE",
            Self::MEM_DUMP => "MEM_DUMP",
            Self::GETLOG => "GETLOG",
            Self::CLEARLOG => "CLEARLOG",
            Self::PUSH_NODE_FLAGS => "PUSH_NODE_FLAGS",
            Self::RELOAD_NODES => "RELOAD_NODES",
            Self::TAKEOVER_RUN => "TAKEOVER_RUN",
            Self::REBALANCE_NODE => "REBALANCE_NODE",
            Self::DISABLE_TAKEOVER_RUNS => "DISABLE_TAKEOVER_RUNS",
            Self::DISABLE_RECOVERIES => "DISABLE_RECOVERIES",
            Self::DISABLE_IP_CHECK => "DISABLE_IP_CHECK",
            Self::SAMBA_NOTIFY => "SAMBA_NOTIFY",
            Self::SAMBA_NOTIFY_PROXY => "SAMBA_NOTIFY_PROXY",
            Self::SAMBA_PROCESS => "SAMBA_PROCESS",
            Self::ALL => "ALL",
            _ if self.is_recovery() => "RECOVERY",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_numbers_are_no_pnn() {
        assert_eq!(Pnn::new(0).map(Pnn::get), Some(0));
        assert_eq!(Pnn::new(0xF000_0000).map(Pnn::get), Some(0xF000_0000));
        for raw in [
            CURRENT_NODE,
            BROADCAST_ALL,
            MULTICAST,
            0xF000_0006,
            UNKNOWN_PNN,
        ] {
            assert_eq!(Pnn::new(raw), None);
        }
    }

    #[test]
    fn destinations_keep_their_numbers() {
        for raw in [
            0,
            7,
            CURRENT_NODE,
            BROADCAST_ALL,
            BROADCAST_ACTIVE,
            BROADCAST_CONNECTED,
        ] {
            assert_eq!(Dest::from_raw(raw).map(Dest::raw), Some(raw));
        }
        assert_eq!(Dest::from_raw(MULTICAST), None);
        assert_eq!(Dest::from_raw(UNKNOWN_PNN), None);
    }

    #[test]
    fn database_ids_are_those_of_the_original() {
        assert_eq!(DbId::of_name("vol1.tdb"), DbId(0xb616_98e1));
        assert_eq!(DbId::of_name("g_lock.tdb"), DbId(0x4d2a_432b));
        assert_eq!(DbId::of_name("vol1.tdb").to_string(), "0xb61698e1");
    }

    #[test]
    fn numbers_are_shown_as_the_tools_show_them() {
        assert_eq!(DbId(0x1a).to_string(), "0x0000001a");
        assert_eq!(Srvid::LEADER.to_string(), "0xf101000000000000");
        assert_eq!(Pnn::new(12).unwrap().to_string(), "12");
        assert_eq!(Generation(7).to_string(), "7");
    }
}
