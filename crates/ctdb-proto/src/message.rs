//! Operation `REQ_MESSAGE`: data for whoever registered a service id.
//!
//! [`Message`] knows what the well-known service ids carry (`wire.md 6.2`).

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::text::{decode_cstr, encode_cstr};
use crate::wire::{decode_exact, take_bytes, to_u32, wire_fields};
use crate::{
    DbId, DecodeError, NodeFlagChange, NodeFlags, Pnn, PublicIp, RecBuffer, Srvid, TimeVal, Wire,
};

/// A message. Nobody answers it (`wire.md 3.4`).
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |     32 |    8 | `srvid`                |
/// |     40 |    4 | length of the data     |
/// |     44 |      | data                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReqMessage {
    pub srvid: Srvid,
    pub data: Bytes,
}

impl Wire for ReqMessage {
    const MIN_LEN: usize = 12;

    fn encode(&self, out: &mut impl BufMut) {
        self.srvid.encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let srvid = Srvid::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            srvid,
            data: take_bytes(src, len)?,
        })
    }
}

/// Builds the enum of messages and its codec from the table below.
macro_rules! messages {
    (
        empty { $($none_id:ident => $none:ident,)* }
        address { $($addr_id:ident => $addr:ident,)* }
        data { $($data_id:ident => $data:ident($type:ty) by $decode:ident,)* }
    ) => {
        /// A message to a well-known service id, named after it.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub enum Message {
            $($none,)*
            $($addr(IpAddr),)*
            $($data($type),)*
            /// A batch of records, to [`Srvid::RECOVERY`] plus a counter.
            Records { srvid: Srvid, records: RecBuffer },
            /// To a process of Samba that asked for it with `REGISTER_NOTIFY`; opaque.
            SambaNotify(Bytes),
            /// To any other service id: an answer, a record of a traverse, or somebody else's.
            Other(ReqMessage),
        }

        impl Message {
            /// Decodes a message by its service id. Those that carry nothing may carry something.
            pub fn decode(srvid: Srvid, data: Bytes) -> Result<Self, DecodeError> {
                Ok(match srvid {
                    $(Srvid::$none_id => Self::$none,)*
                    $(Srvid::$addr_id => Self::$addr(address(&data)?),)*
                    $(Srvid::$data_id => Self::$data($decode(data)?),)*
                    Srvid::SAMBA_NOTIFY => Self::SambaNotify(data),
                    _ if srvid.is_recovery() => Self::Records { srvid, records: tail(data)? },
                    _ => Self::Other(ReqMessage { srvid, data }),
                })
            }

            /// The body of a packet with this message.
            pub fn encode(&self) -> ReqMessage {
                let mut out = BytesMut::new();
                let srvid = match self {
                    $(Self::$none => Srvid::$none_id,)*
                    $(Self::$addr(ip) => {
                        encode_cstr(&ip.to_string(), &mut out);
                        Srvid::$addr_id
                    })*
                    $(Self::$data(data) => {
                        data.encode(&mut out);
                        Srvid::$data_id
                    })*
                    Self::Records { srvid, records } => {
                        return ReqMessage { srvid: *srvid, data: records.to_bytes() };
                    }
                    Self::SambaNotify(data) => {
                        return ReqMessage { srvid: Srvid::SAMBA_NOTIFY, data: data.clone() };
                    }
                    Self::Other(message) => return message.clone(),
                };
                ReqMessage { srvid, data: out.freeze() }
            }
        }
    };
}

/// A payload of one size.
fn exact<T: Wire>(data: Bytes) -> Result<T, DecodeError> {
    decode_exact(data)
}

/// A payload with something behind it that nobody looks at.
fn tail<T: Wire>(mut data: Bytes) -> Result<T, DecodeError> {
    T::decode(&mut data)
}

/// An address as text, without the length of its network prefix.
fn address(data: &Bytes) -> Result<IpAddr, DecodeError> {
    let field = "address";
    decode_cstr(data, field)?
        .parse()
        .map_err(|_| DecodeError::NotAnAddress { field })
}

messages! {
    empty {
        RECONFIGURE => Reconfigure,
        IPREALLOCATED => IpReallocated,
        START_IPREALLOCATE => StartIpReallocate,
        GETLOG => GetLog,
        CLEARLOG => ClearLog,
        RELOAD_NODES => ReloadNodes,
    }
    address {
        RELEASE_IP => ReleaseIp,
        TAKE_IP => TakeIp,
    }
    data {
        BANNING => Banning(Pnn) by exact,
        ELECTION => Election(ElectionMessage) by tail,
        LEADER => Leader(Option<Pnn>) by tail,
        LEADER_QUERY => LeaderQuery(Pnn) by exact,
        LEADER_OPINION => LeaderOpinion(LeaderOpinion) by exact,
        LEASE_REQUEST => LeaseRequest(u64) by exact,
        LEASE_GRANT => LeaseGrant(u64) by exact,
        SET_NODE_FLAGS => SetNodeFlags(NodeFlagChange) by exact,
        RECD_UPDATE_IP => RecdUpdateIp(PublicIp) by exact,
        VACUUM_FETCH => VacuumFetch(RecBuffer) by tail,
        DETACH_DATABASE => DetachDatabase(DbId) by exact,
        MEM_DUMP => MemDump(SrvidMessage) by exact,
        PUSH_NODE_FLAGS => PushNodeFlags(NodeFlagChange) by exact,
        TAKEOVER_RUN => TakeoverRun(SrvidMessage) by exact,
        REBALANCE_NODE => RebalanceNode(Pnn) by exact,
        DISABLE_TAKEOVER_RUNS => DisableTakeoverRuns(DisableMessage) by exact,
        DISABLE_RECOVERIES => DisableRecoveries(DisableMessage) by exact,
        DISABLE_IP_CHECK => DisableIpCheck(Duration) by exact,
    }
}

impl Message {
    /// Decodes the message of a packet.
    pub fn from_message(message: &ReqMessage) -> Result<Self, DecodeError> {
        Self::decode(message.srvid, message.data.clone())
    }
}

/// A node wants to lead. 32 bytes.
///
/// | offset | size | field                                  |
/// |-------:|-----:|----------------------------------------|
/// |      0 |    4 | `num_connected`, 4 bytes of padding    |
/// |      8 |   16 | `priority_time`                        |
/// |     24 |    4 | `pnn`                                  |
/// |     28 |    4 | `node_flags`                           |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ElectionMessage {
    /// How many nodes the sender is connected to, itself included.
    pub num_connected: u32,
    /// Since when the sender runs.
    pub priority_time: TimeVal,
    pub pnn: Pnn,
    pub node_flags: NodeFlags,
}

wire_fields!(ElectionMessage, 32 bytes { num_connected + 4, priority_time, pnn, node_flags });

/// Whom a node follows, for one that has lost sight of the leader. 8 bytes.
///
/// | offset | size | field                                                     |
/// |-------:|-----:|-----------------------------------------------------------|
/// |      0 |    4 | `leader`                                                  |
/// |      4 |    4 | `heard_ago_ms`: milliseconds since it said that it leads  |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeaderOpinion {
    /// `None`: it follows nobody, or is not connected to the leader.
    pub leader: Option<Pnn>,
    pub heard_ago_ms: u32,
}

wire_fields!(LeaderOpinion, 8 bytes { leader, heard_ago_ms });

/// A question, and where the answer is to be sent. 16 bytes.
///
/// | offset | size | field                               |
/// |-------:|-----:|-------------------------------------|
/// |      0 |    4 | `pnn`, then 4 bytes of padding      |
/// |      8 |    8 | `srvid`                             |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SrvidMessage {
    pub pnn: Option<Pnn>,
    /// 0: no answer is wanted.
    pub srvid: Srvid,
}

wire_fields!(SrvidMessage, 16 bytes { pnn + 4, srvid });

/// Something is not to be done for some time. 24 bytes.
///
/// | offset | size | field                                           |
/// |-------:|-----:|-------------------------------------------------|
/// |      0 |    4 | `pnn`, then 4 bytes of padding                  |
/// |      8 |    8 | `srvid`                                         |
/// |     16 |    4 | `timeout` in seconds, then 4 bytes of padding   |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DisableMessage {
    pub pnn: Option<Pnn>,
    /// 0: no answer is wanted.
    pub srvid: Srvid,
    /// Zero: it may be done again.
    pub timeout: Duration,
}

wire_fields!(DisableMessage, 24 bytes { pnn + 4, srvid, timeout + 4 });

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(srvid: Srvid, data: &'static [u8]) -> Result<Message, DecodeError> {
        Message::decode(srvid, Bytes::from_static(data))
    }

    #[test]
    fn an_election_without_a_leader_is_announced_to_all() {
        assert_eq!(decode(Srvid::LEADER, &[0xFF; 4]), Ok(Message::Leader(None)));
        let longer = decode(Srvid::LEADER, &[2, 0, 0, 0, 9]);
        assert_eq!(longer, Ok(Message::Leader(Pnn::new(2))));
        assert!(decode(Srvid::LEADER, &[2, 0, 0]).is_err());
    }

    #[test]
    fn addresses_travel_as_text() {
        let message = Message::ReleaseIp("fd00:21::3".parse().unwrap());
        assert_eq!(message.encode().data, "fd00:21::3\0");
        assert_eq!(Message::from_message(&message.encode()), Ok(message));
        assert!(decode(Srvid::RELEASE_IP, b"10.0.0.1").is_err(), "no NUL");
        assert!(decode(Srvid::RELEASE_IP, b"10.0.0.1/24\0").is_err());
    }

    #[test]
    fn messages_to_the_leader_have_one_size() {
        for srvid in [
            Srvid::BANNING,
            Srvid::TAKEOVER_RUN,
            Srvid::DISABLE_TAKEOVER_RUNS,
        ] {
            assert!(decode(srvid, &[0; 3]).is_err());
            assert!(decode(srvid, &[0; 25]).is_err());
        }
        assert!(decode(Srvid::DISABLE_TAKEOVER_RUNS, &[0; 24]).is_ok());
    }

    #[test]
    fn private_ids_carry_anything() {
        let id = Srvid(Srvid::RANGE_TOOL.get() | 7);
        let message = decode(id, b"\x01\0\0\0").unwrap();
        let data = Bytes::from_static(b"\x01\0\0\0");
        assert_eq!(message, Message::Other(ReqMessage { srvid: id, data }));
    }

    #[test]
    fn recovery_ids_carry_records() {
        let srvid = Srvid(Srvid::RECOVERY.get() + 3);
        let records = RecBuffer::empty(DbId(7));
        let message = Message::Records { srvid, records };
        assert_eq!(Message::from_message(&message.encode()), Ok(message));
        assert!(decode(srvid, &[0; 7]).is_err());
    }
}
