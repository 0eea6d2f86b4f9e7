//! The replies to all controls (`wire.md 5`), by the opcode of their request.

use bytes::{Bytes, BytesMut};

use super::{
    BanState, DbidMap, EchoData, Explanation, IfaceList, NodeMap, PublicIpInfo, PublicIpList,
    ReplyControl, TickleList, TunableList, TunableNames, Uptime,
};
use crate::text::{decode_cstr, encode_cstr};
use crate::{
    Capabilities, DbId, DbStatistics, DecodeError, Opcode, Pnn, RecBuffer, RecMode, RunState,
    Statistics, StatisticsList, TdbOpenFlags, VnnMap, Wire,
};

/// Builds the enum of replies and its codec from the tables below.
macro_rules! replies {
    (
        text { $($text:ident: $($text_op:ident)|+,)* }
        optional_text { $($opt:ident: $($opt_op:ident)|+,)* }
        bytes { $($bytes:ident: $($bytes_op:ident)|+,)* }
        data { $($data:ident($type:ty): $($data_op:ident)|+,)* }
    ) => {
        /// The answer to a control.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Reply {
            /// No answer but a status. 0: done. Anything else: not done, or not quite; what it
            /// means depends on the control, -1 is a failure of any kind.
            Status(i32),
            /// To `PING`: number of clients of the daemon, in the status.
            NumClients(i32),
            /// To `GET_PID`: process id of the daemon, in the status.
            Pid(i32),
            /// To `GET_PNN`: number of the node, in the status.
            Pnn(Pnn),
            /// To `GET_RECMODE`, in the status.
            RecMode(RecMode),
            $($text(String),)*
            $($opt(Option<String>),)*
            $($bytes(Bytes),)*
            $($data($type),)*
        }

        impl Reply {
            /// Decodes the reply to a control with this opcode. Data that comes with a failure is
            /// not looked at, nor are bytes behind the data.
            pub fn decode(
                opcode: Opcode,
                status: i32,
                mut data: Bytes,
            ) -> Result<Self, DecodeError> {
                if let Some(value) = Self::from_status(opcode, status) {
                    return value;
                }
                Ok(match opcode {
                    $($(Opcode::$text_op)|+ => Self::$text(decode_cstr(&data, TEXT)?),)*
                    $($(Opcode::$opt_op)|+ => Self::$opt(optional_text(&data)?),)*
                    $($(Opcode::$bytes_op)|+ => Self::$bytes(data),)*
                    $($(Opcode::$data_op)|+ => Self::$data(Wire::decode(&mut data)?),)*
                    _ => Self::Status(status),
                })
            }

            /// Status and data of the packet.
            pub fn encode(&self) -> (i32, Bytes) {
                let mut out = BytesMut::new();
                match self {
                    Self::Status(value) | Self::NumClients(value) | Self::Pid(value) => {
                        return (*value, Bytes::new());
                    }
                    Self::Pnn(pnn) => return (pnn.get().cast_signed(), Bytes::new()),
                    Self::RecMode(mode) => return (mode.raw().cast_signed(), Bytes::new()),
                    $(Self::$text(text))|* => encode_cstr(text, &mut out),
                    $(Self::$opt(text))|* => {
                        if let Some(text) = text {
                            encode_cstr(text, &mut out);
                        }
                    }
                    $(Self::$bytes(bytes))|* => return (0, bytes.clone()),
                    $(Self::$data(data) => data.encode(&mut out),)*
                }
                (0, out.freeze())
            }
        }
    };
}

impl Reply {
    /// Done, and nothing to tell.
    pub const DONE: Self = Self::Status(0);
    /// Not done; the log of the daemon says why.
    pub const FAILED: Self = Self::Status(-1);

    /// Decodes the reply of a packet to a control with this opcode.
    pub fn from_control(opcode: Opcode, reply: &ReplyControl) -> Result<Self, DecodeError> {
        Self::decode(opcode, reply.status, reply.data.clone())
    }

    /// The body of a packet with this reply, without an error text.
    pub fn to_control(&self) -> ReplyControl {
        let (status, data) = self.encode();
        ReplyControl {
            status,
            data,
            error: Bytes::new(),
        }
    }

    /// The reply, if the status alone tells it: a failure, or a value given in the status.
    fn from_status(opcode: Opcode, status: i32) -> Option<Result<Self, DecodeError>> {
        let bad = |field| {
            let value = u64::from(status.cast_unsigned());
            Err(DecodeError::BadValue { field, value })
        };
        match opcode {
            _ if status < 0 => Some(Ok(Self::Status(status))),
            Opcode::PING => Some(Ok(Self::NumClients(status))),
            Opcode::GET_PID => Some(Ok(Self::Pid(status))),
            Opcode::GET_PNN => Some(match Pnn::new(status.cast_unsigned()) {
                Some(pnn) => Ok(Self::Pnn(pnn)),
                None => bad("pnn"),
            }),
            Opcode::GET_RECMODE => Some(match RecMode::from_raw(status.cast_unsigned()) {
                Some(mode) => Ok(Self::RecMode(mode)),
                None => bad("recovery mode"),
            }),
            _ if status != 0 => Some(Ok(Self::Status(status))),
            _ => None,
        }
    }
}

const TEXT: &str = "text of the reply";

/// A C string, or nothing at all.
fn optional_text(data: &Bytes) -> Result<Option<String>, DecodeError> {
    if data.is_empty() {
        Ok(None)
    } else {
        decode_cstr(data, TEXT).map(Some)
    }
}

// Controls that are not here answer with a status, and so does every control that fails.
replies! {
    text {
        DbPath: GETDBPATH,
        DbName: GET_DBNAME,
    }
    // `DbHealth`: why the database is unhealthy. `ReclockFile`: there may be no cluster lock.
    optional_text {
        DbHealth: DB_GET_HEALTH,
        ReclockFile: GET_RECLOCK_FILE,
    }
    // A text without a NUL.
    bytes {
        MemoryDump: DUMP_MEMORY,
    }
    data {
        Statistics(Box<Statistics>): STATISTICS,
        VnnMap(VnnMap): GETVNNMAP,
        DebugLevel(i32): GET_DEBUG,
        DbidMap(DbidMap): GET_DBMAP,
        DbAttached(DbId): DB_ATTACH | DB_ATTACH_PERSISTENT | DB_ATTACH_REPLICATED,
        Tunable(u32): GET_TUNABLE,
        TunableNames(TunableNames): LIST_TUNABLES,
        AllTunables(Box<TunableList>): GET_ALL_TUNABLES,
        TickleList(TickleList): GET_TCP_TICKLE_LIST,
        Uptime(Uptime): UPTIME,
        RecordsKept(RecBuffer): TRY_DELETE_RECORDS,
        Capabilities(Capabilities): GET_CAPABILITIES,
        PublicIps(PublicIpList): GET_PUBLIC_IPS,
        NodeMap(NodeMap): GET_NODEMAP | GET_NODES_FILE,
        BanState(BanState): GET_BAN_STATE,
        DbSeqnum(u64): GET_DB_SEQNUM,
        PublicIpInfo(PublicIpInfo): GET_PUBLIC_IP_INFO,
        Ifaces(IfaceList): GET_IFACES,
        StatHistory(StatisticsList): GET_STAT_HISTORY,
        DbStatistics(Box<DbStatistics>): GET_DB_STATISTICS,
        RunState(RunState): GET_RUNSTATE,
        NumRecords(u32): DB_PULL | DB_PUSH_CONFIRM,
        DbOpenFlags(TdbOpenFlags): DB_OPEN_FLAGS,
        EchoData(EchoData): ECHO_DATA,
        Explanation(Explanation): EXPLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_controls_answer_in_the_status() {
        let reply = |opcode, status| Reply::decode(opcode, status, Bytes::new()).unwrap();
        assert_eq!(reply(Opcode::PING, 3), Reply::NumClients(3));
        assert_eq!(reply(Opcode::GET_PNN, 2), Reply::Pnn(Pnn::new(2).unwrap()));
        assert_eq!(
            reply(Opcode::GET_RECMODE, 1),
            Reply::RecMode(RecMode::Active)
        );
        assert_eq!(reply(Opcode::GET_PNN, -1), Reply::FAILED);
        assert!(Reply::decode(Opcode::GET_RECMODE, 7, Bytes::new()).is_err());
    }

    #[test]
    fn data_beside_a_failure_is_not_looked_at() {
        let data = Bytes::from_static(b"xyz");
        assert_eq!(
            Reply::decode(Opcode::GETVNNMAP, -1, data.clone()),
            Ok(Reply::FAILED)
        );
        assert_eq!(
            Reply::decode(Opcode::SET_TUNABLE, 1, data.clone()),
            Ok(Reply::Status(1))
        );
        assert!(Reply::decode(Opcode::GETVNNMAP, 0, data).is_err());
    }

    #[test]
    fn no_cluster_lock_is_no_data() {
        assert_eq!(Reply::ReclockFile(None).encode(), (0, Bytes::new()));
        let lock = Some("/lock".to_owned());
        let (status, data) = Reply::ReclockFile(lock.clone()).encode();
        assert_eq!(data, "/lock\0");
        let decoded = Reply::decode(Opcode::GET_RECLOCK_FILE, status, data);
        assert_eq!(decoded, Ok(Reply::ReclockFile(lock)));
    }
}
