//! The number of each control (`wire.md 5`).

use std::fmt;

use bytes::{Buf, BufMut};

use crate::{DecodeError, Wire};

/// Which control. Numbers without a name are kept: the daemon that gets one answers -1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Opcode(pub u32);

impl Opcode {
    /// Wraps the number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// From this number on there are controls that only our daemons know. The original counts from
    /// 0 and is not expected to come near.
    pub const FIRST_OF_OURS: Self = Self(0x4000_0000);

    /// Name of the control, also of an obsolete one. `None` for a number that nobody uses.
    pub fn name(self) -> Option<&'static str> {
        let served = SERVED
            .iter()
            .find(|(opcode, _)| *opcode == self)
            .map(|(_, name)| *name);
        served.or_else(|| self.obsolete().map(|obsolete| obsolete.name))
    }

    /// What is known of a control that no daemon serves any more.
    pub fn obsolete(self) -> Option<&'static Obsolete> {
        OBSOLETE.iter().find(|obsolete| obsolete.opcode == self)
    }

    /// All controls that a daemon of today serves, with their names.
    pub const fn served() -> &'static [(Self, &'static str)] {
        SERVED
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "opcode {}", self.0),
        }
    }
}

impl Wire for Opcode {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        self.0.encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        u32::decode(src).map(Self)
    }
}

/// A control that is answered with -1, and with a log line that tells what to use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Obsolete {
    pub opcode: Opcode,
    pub name: &'static str,
    /// The name that the log line of the original gives it: not always its own.
    pub logged_as: &'static str,
    /// The control that replaces it.
    pub use_instead: Option<&'static str>,
}

const fn obsolete(opcode: u32, name: &'static str) -> Obsolete {
    Obsolete {
        opcode: Opcode(opcode),
        name,
        logged_as: name,
        use_instead: None,
    }
}

const fn replaced(opcode: u32, name: &'static str, by: &'static str) -> Obsolete {
    Obsolete {
        use_instead: Some(by),
        ..obsolete(opcode, name)
    }
}

macro_rules! served {
    ($($name:ident = $number:literal,)*) => {
        impl Opcode {
            $(pub const $name: Self = Self($number);)*
        }

        const SERVED: &[(Opcode, &str)] = &[$((Opcode::$name, stringify!($name)),)*];
    };
}

served! {
    PROCESS_EXISTS = 0,
    STATISTICS = 1,
    PING = 3,
    GETDBPATH = 4,
    GETVNNMAP = 5,
    SETVNNMAP = 6,
    GET_DEBUG = 7,
    SET_DEBUG = 8,
    GET_DBMAP = 9,
    GET_RECMODE = 15,
    SET_RECMODE = 16,
    STATISTICS_RESET = 17,
    DB_ATTACH = 18,
    TRAVERSE_START = 20,
    TRAVERSE_ALL = 21,
    TRAVERSE_DATA = 22,
    REGISTER_SRVID = 23,
    DEREGISTER_SRVID = 24,
    GET_DBNAME = 25,
    ENABLE_SEQNUM = 26,
    UPDATE_SEQNUM = 27,
    DUMP_MEMORY = 29,
    GET_PID = 30,
    FREEZE = 33,
    GET_PNN = 35,
    SHUTDOWN = 36,
    TCP_CLIENT = 44,
    TCP_ADD = 45,
    TCP_REMOVE = 46,
    STARTUP = 47,
    SET_TUNABLE = 48,
    GET_TUNABLE = 49,
    LIST_TUNABLES = 50,
    MODIFY_FLAGS = 52,
    GET_ALL_TUNABLES = 53,
    GET_TCP_TICKLE_LIST = 55,
    SET_TCP_TICKLE_LIST = 56,
    DB_ATTACH_PERSISTENT = 61,
    UPDATE_RECORD = 63,
    SEND_GRATUITOUS_ARP = 64,
    WIPE_DATABASE = 67,
    UPTIME = 69,
    START_RECOVERY = 70,
    END_RECOVERY = 71,
    RELOAD_NODES_FILE = 72,
    TRY_DELETE_RECORDS = 74,
    ADD_PUBLIC_IP = 77,
    DEL_PUBLIC_IP = 78,
    GET_CAPABILITIES = 80,
    START_PERSISTENT_UPDATE = 81,
    CANCEL_PERSISTENT_UPDATE = 82,
    RECD_PING = 87,
    RELEASE_IP = 88,
    TAKEOVER_IP = 89,
    GET_PUBLIC_IPS = 90,
    GET_NODEMAP = 91,
    TRAVERSE_KILL = 97,
    RECD_RECLOCK_LATENCY = 98,
    GET_RECLOCK_FILE = 99,
    STOP_NODE = 101,
    CONTINUE_NODE = 102,
    SET_LMASTERROLE = 104,
    SET_RECMASTERROLE = 105,
    SET_BAN_STATE = 109,
    GET_BAN_STATE = 110,
    REGISTER_NOTIFY = 114,
    DEREGISTER_NOTIFY = 115,
    TRANS3_COMMIT = 119,
    GET_DB_SEQNUM = 120,
    DB_SET_HEALTHY = 121,
    DB_GET_HEALTH = 122,
    GET_PUBLIC_IP_INFO = 123,
    GET_IFACES = 124,
    SET_IFACE_LINK_STATE = 125,
    TCP_ADD_DELAYED_UPDATE = 126,
    GET_STAT_HISTORY = 127,
    SCHEDULE_FOR_DELETION = 128,
    SET_DB_READONLY = 129,
    TRAVERSE_START_EXT = 131,
    GET_DB_STATISTICS = 132,
    SET_DB_STICKY = 133,
    RELOAD_PUBLIC_IPS = 134,
    TRAVERSE_ALL_EXT = 135,
    IPREALLOCATED = 137,
    GET_RUNSTATE = 138,
    DB_DETACH = 139,
    GET_NODES_FILE = 140,
    DB_FREEZE = 141,
    DB_THAW = 142,
    DB_TRANSACTION_START = 143,
    DB_TRANSACTION_COMMIT = 144,
    DB_TRANSACTION_CANCEL = 145,
    DB_PULL = 146,
    DB_PUSH_START = 147,
    DB_PUSH_CONFIRM = 148,
    DB_OPEN_FLAGS = 149,
    DB_ATTACH_REPLICATED = 150,
    CHECK_PID_SRVID = 151,
    TUNNEL_REGISTER = 152,
    TUNNEL_DEREGISTER = 153,
    VACUUM_FETCH = 154,
    DB_VACUUM = 155,
    ECHO_DATA = 156,
    DISABLE_NODE = 157,
    ENABLE_NODE = 158,
    TCP_CLIENT_DISCONNECTED = 159,
    TCP_CLIENT_PASSED = 160,
    START_IPREALLOCATE = 161,
    // From here on: ours.
    EXPLAIN = 0x4000_0001,
}

const OBSOLETE: &[Obsolete] = &[
    replaced(10, "GET_NODEMAPv4", "GET_NODEMAP"),
    obsolete(11, "SET_DMASTER"),
    obsolete(13, "PULL_DB"),
    obsolete(14, "PUSH_DB"),
    obsolete(19, "SET_CALL"),
    obsolete(31, "GET_RECMASTER"),
    obsolete(32, "SET_RECMASTER"),
    obsolete(34, "THAW"),
    obsolete(37, "GET_MONMODE"),
    replaced(42, "TAKEOVER_IPv4", "TAKEOVER_IP"),
    replaced(43, "RELEASE_IPv4", "RELEASE_IP"),
    replaced(51, "GET_PUBLIC_IPSv4", "GET_PUBLIC_IPS"),
    obsolete(54, "KILL_TCP"),
    obsolete(57, "REGISTER_SERVER_ID"),
    obsolete(58, "UNREGISTER_SERVER_ID"),
    obsolete(59, "CHECK_SERVER_ID"),
    Obsolete {
        logged_as: "SERVER_ID_LIST",
        ..obsolete(60, "GET_SERVER_ID_LIST")
    },
    obsolete(62, "PERSISTENT_STORE"),
    obsolete(65, "TRANSACTION_START"),
    obsolete(66, "TRANSACTION_COMMIT"),
    obsolete(75, "ENABLE_MONITOR"),
    obsolete(76, "DISABLE_MONITOR"),
    obsolete(79, "RUN_EVENTSCRIPTS"),
    replaced(83, "TRANS2_COMMIT", "TRANS3_COMMIT"),
    obsolete(84, "TRANS2_FINISHED"),
    obsolete(85, "TRANS2_ERROR"),
    Obsolete {
        logged_as: "TRANS2_COMMIT",
        ..replaced(86, "TRANS2_COMMIT_RETRY", "TRANS3_COMMIT")
    },
    obsolete(96, "GET_EVENT_SCRIPT_STATUS"),
    Obsolete {
        logged_as: "SET_RECLOCK",
        ..obsolete(100, "SET_RECLOCK_FILE")
    },
    obsolete(103, "SET_NATGWSTATE"),
    obsolete(107, "ENABLE_SCRIPT"),
    obsolete(108, "DISABLE_SCRIPT"),
    obsolete(111, "SET_DB_PRIORITY"),
    obsolete(112, "GET_DB_PRIORITY"),
    obsolete(113, "TRANSACTION_CANCEL"),
    obsolete(116, "TRANS2_ACTIVE"),
    obsolete(117, "GET_LOG"),
    obsolete(118, "CLEAR_LOG"),
    obsolete(130, "CHECK_SRVIDS"),
    obsolete(136, "RECEIVE_RECORDS"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_used_twice() {
        let mut all: Vec<Opcode> = SERVED.iter().map(|(opcode, _)| *opcode).collect();
        all.extend(OBSOLETE.iter().map(|obsolete| obsolete.opcode));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        let of_the_original = all.iter().filter(|opcode| **opcode < Opcode::FIRST_OF_OURS);
        // 0 to 161, less the numbers that were never assigned.
        assert_eq!(
            of_the_original.count(),
            162 - [2, 12, 28, 38, 39, 40, 41, 68, 73, 92, 93, 94, 95, 106].len()
        );
    }

    #[test]
    fn replacements_are_served() {
        for name in OBSOLETE.iter().filter_map(|obsolete| obsolete.use_instead) {
            assert!(SERVED.iter().any(|(_, served)| *served == name), "{name}");
        }
    }
}
