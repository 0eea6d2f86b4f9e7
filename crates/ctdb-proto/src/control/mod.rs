//! Operations `REQ_CONTROL` and `REPLY_CONTROL`: questions and orders to a daemon.
//!
//! [`Opcode`] names them all. [`Request`] and [`Reply`] have one variant for each kind of argument
//! or answer; the structures in them live in one file for each family of controls.

use bitflags::bitflags;
use bytes::{Buf, BufMut, Bytes};

use crate::flags::wire_flags;
use crate::wire::{put_padding, skip_padding, take_bytes, to_u32};
use crate::{ClientId, DecodeError, Srvid, Wire};

pub mod db;
mod error;
pub mod explain;
pub mod ip;
pub mod node;
mod opcode;
mod reply;
mod request;
pub mod script;
pub mod traverse;
pub mod tunable;

pub use db::{DbVacuum, DbidEntry, DbidMap, KeyData, PullDbExt, SeqnumDb, TransDb};
pub use error::ControlDecodeError;
pub use explain::{Explanation, Statement, Topic};
pub use ip::{
    AddrInfo, Connection, ConnectionList, Iface, IfaceList, PublicIp, PublicIpInfo, PublicIpList,
    TickleList,
};
pub use node::{
    BanState, EchoData, NodeAndFlags, NodeFlagChange, NodeMap, NotifyData, PidSrvid, Uptime,
};
pub use opcode::{Obsolete, Opcode};
pub use reply::Reply;
pub use request::Request;
pub use script::{Script, ScriptList};
pub use traverse::{TraverseAll, TraverseAllExt, TraverseStart, TraverseStartExt};
pub use tunable::{GetTunable, SetTunable, TunableList, TunableNames};

bitflags! {
    /// How a control is to be done. The upper half belongs to the single controls.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct ControlFlags: u32 {
        /// No reply is wanted.
        const NOREPLY = 0x0000_0001;
        /// `GET_PUBLIC_IPS`: only addresses that the node can host now.
        const ONLY_AVAILABLE = 0x0001_0000;
        /// `DB_ATTACH` and its kin: by the recovery, do not wait for the end of it.
        const ATTACH_RECOVERY = 0x0002_0000;

        const _ = !0;
    }
}

wire_flags! {
    ControlFlags: u32;
}

/// A question or an order (`wire.md 3.5`).
///
/// | offset | size | field                               |
/// |-------:|-----:|-------------------------------------|
/// |     32 |    4 | `opcode`, then 4 bytes of padding   |
/// |     40 |    8 | `srvid`                             |
/// |     48 |    4 | `client_id`                         |
/// |     52 |    4 | `flags`                             |
/// |     56 |    4 | length of the data                  |
/// |     60 |      | data                                |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReqControl {
    pub opcode: Opcode,
    /// Argument of some controls, else 0.
    pub srvid: Srvid,
    /// Filled in by the daemon of the client; what a client writes here is ignored.
    pub client_id: ClientId,
    pub flags: ControlFlags,
    pub data: Bytes,
}

impl Wire for ReqControl {
    const MIN_LEN: usize = 28;

    fn encode(&self, out: &mut impl BufMut) {
        self.opcode.encode(out);
        put_padding(out, 4);
        self.srvid.encode(out);
        self.client_id.encode(out);
        self.flags.encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let opcode = Opcode::decode(src)?;
        skip_padding(src, 4)?;
        let srvid = Srvid::decode(src)?;
        let client_id = ClientId::decode(src)?;
        let flags = ControlFlags::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            opcode,
            srvid,
            client_id,
            flags,
            data: take_bytes(src, len)?,
        })
    }
}

/// The answer to a control (`wire.md 3.6`). Which one, only the request id tells.
///
/// | offset | size | field                      |
/// |-------:|-----:|----------------------------|
/// |     32 |    4 | `status`                   |
/// |     36 |    4 | length of the data         |
/// |     40 |    4 | length of the error text   |
/// |     44 |      | data, then error text      |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplyControl {
    /// 0: done. Some controls give their value here instead.
    pub status: i32,
    /// May be there although the status says otherwise.
    pub data: Bytes,
    /// Text without a NUL; empty for most failures.
    pub error: Bytes,
}

impl ReplyControl {
    /// A status and nothing else.
    pub const fn status(status: i32) -> Self {
        Self {
            status,
            data: Bytes::new(),
            error: Bytes::new(),
        }
    }

    /// Done, with data.
    pub const fn ok(data: Bytes) -> Self {
        Self {
            status: 0,
            data,
            error: Bytes::new(),
        }
    }

    /// A failure with a text.
    pub const fn error(status: i32, text: &'static str) -> Self {
        Self {
            status,
            data: Bytes::new(),
            error: Bytes::from_static(text.as_bytes()),
        }
    }
}

impl Wire for ReplyControl {
    const MIN_LEN: usize = 12;

    fn encode(&self, out: &mut impl BufMut) {
        self.status.encode(out);
        to_u32(self.data.len()).encode(out);
        to_u32(self.error.len()).encode(out);
        out.put_slice(&self.data);
        out.put_slice(&self.error);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let status = i32::decode(src)?;
        let (data_len, error_len) = (u32::decode(src)?, u32::decode(src)?);
        let data = take_bytes(src, data_len)?;
        let error = take_bytes(src, error_len)?;
        Ok(Self {
            status,
            data,
            error,
        })
    }
}
