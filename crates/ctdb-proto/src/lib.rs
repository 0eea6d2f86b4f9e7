//! Every packet, control, message and service id of CTDB as a type with a codec.
//!
//! No sockets, no clock: bytes in, types out, and back. Where to start reading:
//!
//! - [`frame`] cuts the byte stream of a connection into whole packets.
//! - [`Packet`] is one packet: a [`Header`] and a [`Body`], one variant for each operation.
//! - [`control`] holds the requests and replies that travel in [`ReqControl`] and
//!   [`ReplyControl`]; [`message`] those that travel in [`ReqMessage`].
//! - [`backup`] is the one file among all this: a database as `ctdb backupdb` saves it.
//! - [`wire`] has the [`Wire`] trait that every structure implements, and the checked primitives.
//!
//! Bytes come from hostile places, so nothing here panics on them, and a count or a length is
//! compared with the bytes at hand before memory is taken for it. The layouts are those of the
//! specification page `wire.md`; sections are named where a rule comes from.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod addr;
pub mod backup;
pub mod call;
pub mod control;
pub mod error;
pub mod flags;
pub mod frame;
pub mod glock;
pub mod hash;
pub mod keepalive;
pub mod message;
pub mod packet;
pub mod recbuffer;
pub mod record;
pub mod statistics;
pub mod text;
pub mod time;
pub mod tunnel;
pub mod types;
pub mod vnnmap;
pub mod wire;

pub use addr::SockAddr;
pub use backup::{BackupError, BackupHeader, BackupPart, BackupReader, BackupWriter};
pub use call::{CallFlags, CallId, ReplyCall, ReplyDmaster, ReplyError, ReqCall, ReqDmaster};
pub use control::{
    AddrInfo, BanState, Connection, ConnectionList, ControlDecodeError, ControlFlags, DbVacuum,
    DbidEntry, DbidMap, EchoData, GetTunable, Iface, IfaceList, KeyData, NodeAndFlags,
    NodeFlagChange, NodeMap, NotifyData, Opcode, PidSrvid, PublicIp, PublicIpInfo, PublicIpList,
    PullDbExt, Reply, ReplyControl, ReqControl, Request, Script, ScriptList, SeqnumDb, SetTunable,
    TickleList, TransDb, TraverseAll, TraverseAllExt, TraverseStart, TraverseStartExt, TunableList,
    TunableNames, Uptime,
};
pub use error::DecodeError;
pub use flags::{Capabilities, DbFlags, NodeFlags, RecMode, RecordFlags, RunState, TdbOpenFlags};
pub use frame::{FrameError, FrameReader, MAX_PACKET_LEN, MAX_PLAIN_LEN, Transport};
pub use glock::{GLock, GLockEntry, GLockType, ServerId};
pub use hash::jenkins_hash;
pub use keepalive::{ReqKeepalive, SambaVersion};
pub use message::{
    DisableMessage, ElectionMessage, LeaderOpinion, Message, ReqMessage, SrvidMessage,
};
pub use packet::{Body, HEADER_LEN, Header, Operation, Packet, Padding, Peek};
pub use recbuffer::{
    DB_SEQNUM_KEY, RecBuffer, RecBufferBuilder, RecBufferIter, RecData, RecordRef,
};
pub use record::RecordHeader;
pub use statistics::{
    ClientCounters, DbStatistics, HotKey, Latency, LockStatistics, NodeCounters, Statistics,
    StatisticsList, TimeoutCounters, hop_count_bucket,
};
pub use text::{FixedStr, hex_for_log};
pub use time::TimeVal;
pub use tunnel::{ReqTunnel, TunnelFlags, TunnelId};
pub use types::{
    BROADCAST_ACTIVE, BROADCAST_ALL, BROADCAST_CONNECTED, CURRENT_NODE, ClientId, DEFAULT_PORT,
    DbId, Dest, Generation, MULTICAST, Pnn, ReqId, Rsn, Srvid, UNKNOWN_PNN,
};
pub use vnnmap::VnnMap;
pub use wire::{Wire, decode_exact, decode_list};
