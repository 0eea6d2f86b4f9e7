//! Cuts the byte stream of a connection into whole packets.
//!
//! Each packet starts with its length; there is no other delimiter. What is wrong with a length
//! or a header, and whether the connection survives it, is decided here (`wire.md 8.1`). The
//! buffer grows with the bytes that arrive, never by the length that a header announces.

use bytes::{Buf, Bytes, BytesMut};

use crate::Wire;
use crate::packet::{HEADER_LEN, MAGIC, Operation, VERSION};
use crate::wire::to_usize;

/// Longest packet that can be told: lengths have four bytes, and are multiples of 8.
pub const MAX_PACKET_LEN: usize = 0xFFFF_FFF8;

/// Longest packet of a kind that carries no record. Those that do may have the 4 GiB of the length
/// field, which is more than a TDB file can hold: a record that is in a database gets through,
/// however large, since one that does not would stop every recovery.
pub const MAX_PLAIN_LEN: usize = 16 * 1024 * 1024;

/// Space that is at least offered for the next bytes.
const MIN_READ: usize = 16 * 1024;

/// Bytes up to and including the version: enough to tell whether this is CTDB at all.
const PROLOGUE_LEN: usize = 12;

/// Bytes up to and including the operation.
const KIND_LEN: usize = 20;

/// Which rules a connection follows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// Between nodes: lengths are multiples of 8, and every offence ends the connection.
    Tcp,
    /// Between a daemon and its client: any length; most bad packets are dropped.
    Unix,
}

/// Why bytes from a connection are not a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    #[error("packet of length 0")]
    ZeroLength,
    #[error("bad packet length {length}, the header alone has 32")]
    TooShort { length: u32 },
    #[error("packet length {length} is over the limit of {MAX_PLAIN_LEN} for its kind")]
    TooLong { length: u32 },
    #[error("packet length {length:#x} not multiple of alignment")]
    Unaligned { length: u32 },
    #[error("non CTDB packet {magic:#x} rejected")]
    BadMagic { magic: u32 },
    #[error("bad CTDB version {version:#x} rejected")]
    BadVersion { version: u32 },
}

impl FrameError {
    /// Whether the connection must be closed. If not, the packet has been dropped, and reading
    /// may go on.
    pub const fn is_fatal(self, transport: Transport) -> bool {
        match (self, transport) {
            (Self::ZeroLength | Self::TooLong { .. } | Self::Unaligned { .. }, _) => true,
            (Self::TooShort { .. } | Self::BadMagic { .. } | Self::BadVersion { .. }, t) => {
                matches!(t, Transport::Tcp)
            }
        }
    }
}

/// The bytes of one connection that are not yet packets.
///
/// ```
/// use ctdb_proto::{FrameReader, Transport};
///
/// let mut frames = FrameReader::new(Transport::Unix);
/// frames.push(&48u32.to_le_bytes()); // or: socket.read_buf(frames.buffer())
/// assert_eq!(frames.next_frame(), Ok(None));
/// ```
#[derive(Debug)]
pub struct FrameReader {
    transport: Transport,
    buffer: BytesMut,
    /// Bytes still to come of a packet that is being dropped.
    to_drop: usize,
}

impl FrameReader {
    /// For a new connection.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            buffer: BytesMut::new(),
            to_drop: 0,
        }
    }

    /// Where the next bytes of the connection are to be appended. Has room for some.
    ///
    /// The room doubles with the bytes that wait, so that a long packet is copied a few times
    /// only, and it is never more than the bytes that have arrived, or 16 KiB.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(MIN_READ.max(self.buffer.len()));
        &mut self.buffer
    }

    /// Appends bytes of the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes of a packet are waiting for the rest of it.
    pub fn is_mid_packet(&self) -> bool {
        self.to_drop > 0 || !self.buffer.is_empty()
    }

    /// The next whole packet, or `None` when more bytes are needed.
    ///
    /// After an error that [is not fatal](FrameError::is_fatal) the packet is gone and the next
    /// call goes on behind it; a fatal one stays.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if !self.finish_dropping() {
            return Ok(None);
        }
        match self.check_head() {
            Ok(Some(length)) if self.buffer.len() >= length => {
                Ok(Some(self.buffer.split_to(length).freeze()))
            }
            Ok(_) => Ok(None),
            Err((error, length)) => {
                if !error.is_fatal(self.transport) {
                    self.to_drop = to_usize(length);
                }
                Err(error)
            }
        }
    }

    /// Drops what has arrived of an unwanted packet; true when all of it has gone.
    fn finish_dropping(&mut self) -> bool {
        let here = self.to_drop.min(self.buffer.len());
        self.buffer.advance(here);
        self.to_drop -= here;
        self.to_drop == 0
    }

    /// Length of the packet at the front, once enough of it is there to believe it.
    fn check_head(&self) -> Result<Option<usize>, (FrameError, u32)> {
        let mut head: &[u8] = &self.buffer;
        let Ok(length) = u32::decode(&mut head) else {
            return Ok(None);
        };
        self.check_length(length).map_err(|error| (error, length))?;
        if self.buffer.len() < PROLOGUE_LEN {
            return Ok(None);
        }
        match u32::decode(&mut head) {
            Ok(magic) if magic != MAGIC => Err((FrameError::BadMagic { magic }, length)),
            _ => match u32::decode(&mut head) {
                Ok(version) if version != VERSION => {
                    Err((FrameError::BadVersion { version }, length))
                }
                _ => self.check_kind(length).map_err(|error| (error, length)),
            },
        }
    }

    /// Whether a packet of its kind may be so long, once that is known.
    fn check_kind(&self, length: u32) -> Result<Option<usize>, FrameError> {
        let length_here = to_usize(length);
        if length_here <= MAX_PLAIN_LEN {
            return Ok(Some(length_here));
        }
        let Some(mut kind) = self.buffer.get(KIND_LEN - 4..KIND_LEN) else {
            return Ok(None);
        };
        let carries_records = u32::decode(&mut kind)
            .ok()
            .and_then(Operation::from_raw)
            .is_some_and(Operation::carries_records);
        if carries_records {
            Ok(Some(length_here))
        } else {
            Err(FrameError::TooLong { length })
        }
    }

    fn check_length(&self, length: u32) -> Result<(), FrameError> {
        if length == 0 {
            return Err(FrameError::ZeroLength);
        }
        if to_usize(length) < HEADER_LEN {
            return Err(FrameError::TooShort { length });
        }
        if self.transport == Transport::Tcp && !length.is_multiple_of(8) {
            return Err(FrameError::Unaligned { length });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
