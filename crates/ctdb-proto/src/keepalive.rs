//! Operation `REQ_KEEPALIVE`: a node is alive, and which version it runs.

use std::fmt;

use bytes::{Buf, BufMut};

use crate::{DecodeError, Wire};

/// Version of Samba a daemon belongs to: `major << 16 | minor`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SambaVersion(pub u32);

impl SambaVersion {
    /// The version with these numbers.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// 4 in 4.24.
    pub const fn major(self) -> u32 {
        self.0 >> 16
    }

    /// 24 in 4.24.
    pub const fn minor(self) -> u32 {
        self.0 & 0xFFFF
    }
}

impl fmt::Display for SambaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// Sign of life between nodes (`wire.md 3.7`).
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |     32 |    4 | `version`              |
/// |     36 |    4 | `uptime`               |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReqKeepalive {
    /// `None`: a very old daemon, which sent the header alone.
    pub version: Option<SambaVersion>,
    /// Seconds since the sending daemon was started. 0 without a version.
    pub uptime: u32,
}

impl ReqKeepalive {
    /// Size after the header.
    pub(crate) fn body_len(&self) -> usize {
        if self.version.is_some() { 8 } else { 0 }
    }

    pub(crate) fn encode_body(&self, out: &mut impl BufMut) {
        if let Some(SambaVersion(raw)) = self.version {
            raw.encode(out);
            self.uptime.encode(out);
        }
    }

    pub(crate) fn decode_body(src: &mut impl Buf) -> Result<Self, DecodeError> {
        if src.remaining() == 0 {
            return Ok(Self {
                version: None,
                uptime: 0,
            });
        }
        let version = SambaVersion(u32::decode(src)?);
        Ok(Self {
            version: Some(version),
            uptime: u32::decode(src)?,
        })
    }
}
