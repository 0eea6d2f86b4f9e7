//! Controls on nodes: the list of them, their flags, bans, and their clients.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::time::TimeVal;
use crate::wire::{take_bytes, to_u32, wire_fields, wire_list};
use crate::{DecodeError, NodeFlags, Pnn, SockAddr, Srvid, Wire};

/// One node. 36 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `pnn`                  |
/// |      4 |    4 | `flags`                |
/// |      8 |   28 | `addr`                 |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeAndFlags {
    pub pnn: Pnn,
    pub flags: NodeFlags,
    /// With its port. 0.0.0.0 for a deleted node.
    pub addr: SockAddr,
}

wire_fields!(NodeAndFlags, 36 bytes { pnn, flags, addr });

/// All nodes in the order of their numbers, deleted ones too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeMap {
    pub nodes: Vec<NodeAndFlags>,
}

wire_list!(NodeMap { num: u32, nodes });

/// The flags of a node have changed. 12 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `pnn`                  |
/// |      4 |    4 | `new_flags`            |
/// |      8 |    4 | `old_flags`            |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeFlagChange {
    pub pnn: Pnn,
    pub new_flags: NodeFlags,
    /// Not looked at by the one who changes them.
    pub old_flags: NodeFlags,
}

wire_fields!(NodeFlagChange, 12 bytes { pnn, new_flags, old_flags });

/// A ban. 8 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `pnn`                  |
/// |      4 |    4 | `time`, in seconds     |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BanState {
    pub pnn: Pnn,
    /// Length of the whole ban, not what is left of it. Zero: not banned, or not any more.
    pub time: Duration,
}

wire_fields!(BanState, 8 bytes { pnn, time });

/// When things happened on a node, by its own clock. 64 bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Uptime {
    pub current_time: TimeVal,
    pub ctdbd_start_time: TimeVal,
    /// Zero before the first one, like the next.
    pub last_recovery_started: TimeVal,
    pub last_recovery_finished: TimeVal,
}

wire_fields!(Uptime, 64 bytes {
    current_time, ctdbd_start_time, last_recovery_started, last_recovery_finished,
});

/// A process and a service id that it may have registered. 12 bytes, without padding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PidSrvid {
    pub pid: i32,
    pub srvid: Srvid,
}

wire_fields!(PidSrvid, 12 bytes { pid, srvid });

/// A message that the daemon is to send when the client goes away.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    8 | `srvid`                |
/// |      8 |    4 | length of the data     |
/// |     12 |      | data                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotifyData {
    pub srvid: Srvid,
    pub data: Bytes,
}

impl Wire for NotifyData {
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

/// Bytes to be sent back.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `timeout`              |
/// |      4 |    4 | length of the data     |
/// |      8 |      | data                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EchoData {
    /// Nobody looks at it.
    pub timeout: u32,
    pub data: Bytes,
}

impl Wire for EchoData {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        self.timeout.encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let timeout = u32::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            timeout,
            data: take_bytes(src, len)?,
        })
    }
}
