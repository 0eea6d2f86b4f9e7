//! One packet: the header that all share, and a body for each operation.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::wire::to_u32;
use crate::{
    DecodeError, Dest, Generation, Pnn, RecordFlags, ReplyCall, ReplyControl, ReplyDmaster,
    ReplyError, ReqCall, ReqControl, ReqDmaster, ReqId, ReqKeepalive, ReqMessage, ReqTunnel, Wire,
};

/// Size of the header.
pub const HEADER_LEN: usize = 32;

/// `BDTC` in the order of the bytes on the wire.
pub(crate) const MAGIC: u32 = 0x4354_4442;
/// The only version of the packet format.
pub(crate) const VERSION: u32 = 1;

/// A packet between nodes, or between a daemon and its client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    pub header: Header,
    pub body: Body,
}

impl Packet {
    /// Decodes one whole packet, as [`FrameReader`](crate::FrameReader) cuts them. Keys and data
    /// are slices of `frame`, not copies. Bytes between the end of the body and the end of the
    /// frame are ignored.
    pub fn decode(mut frame: Bytes) -> Result<Self, DecodeError> {
        let peek = Header::peek(&frame)?;
        let (stated, actual) = (peek.length as usize, frame.len());
        if stated != actual {
            return Err(DecodeError::LengthMismatch {
                what: "packet length",
                stated,
                actual,
            });
        }
        let operation =
            Operation::from_raw(peek.operation).ok_or(DecodeError::UnknownOperation {
                found: peek.operation,
            })?;
        frame.advance(HEADER_LEN);
        Ok(Self {
            header: peek.header,
            body: Body::decode(operation, &mut frame)?,
        })
    }

    /// Bytes of the packet without padding. More than `u32::MAX - 8` cannot be encoded.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// The packet as bytes, in one allocation.
    pub fn encode(&self, padding: Padding) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_into(&mut out, padding);
        out.freeze()
    }

    /// Appends the packet to `out`, which grows at most once.
    pub fn encode_into(&self, out: &mut BytesMut, padding: Padding) {
        let operation = self.body.operation();
        let exact = self.wire_len();
        let length = padding.apply(operation, exact);
        out.reserve(length);
        to_u32(length).encode(out);
        MAGIC.encode(out);
        VERSION.encode(out);
        self.header.generation.encode(out);
        operation.raw().encode(out);
        self.header.dest.encode(out);
        self.header.src.encode(out);
        self.header.reqid.encode(out);
        self.body.encode(out);
        out.put_bytes(0, length - exact);
    }
}

/// What all packets have in common. 32 bytes (`wire.md 2`).
///
/// | offset | size | field                                     |
/// |-------:|-----:|-------------------------------------------|
/// |      0 |    4 | length of the packet, padding included    |
/// |      4 |    4 | magic                                     |
/// |      8 |    4 | version of the format, 1                  |
/// |     12 |    4 | `generation`                              |
/// |     16 |    4 | operation                                 |
/// |     20 |    4 | `dest`                                    |
/// |     24 |    4 | `src`                                     |
/// |     28 |    4 | `reqid`                                   |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    pub generation: Generation,
    /// Raw, because clients send anything here: see [`Self::dest`].
    pub dest: u32,
    /// Raw, because clients send anything here: see [`Self::src`].
    pub src: u32,
    pub reqid: ReqId,
}

impl Header {
    /// Where the packet goes. `None` for a number that names no destination.
    pub const fn dest(&self) -> Option<Dest> {
        Dest::from_raw(self.dest)
    }

    /// Which node sent it, or first asked for it. `None` for a client that does not know yet.
    pub const fn src(&self) -> Option<Pnn> {
        Pnn::new(self.src)
    }

    /// Reads the header of a packet of which at least 32 bytes are there, and nothing else.
    pub fn peek(mut frame: &[u8]) -> Result<Peek, DecodeError> {
        crate::wire::require(&frame, HEADER_LEN)?;
        let src = &mut frame;
        let length = u32::decode(src)?;
        match u32::decode(src)? {
            MAGIC => {}
            found => return Err(DecodeError::BadMagic { found }),
        }
        match u32::decode(src)? {
            VERSION => {}
            found => return Err(DecodeError::BadVersion { found }),
        }
        let generation = Generation::decode(src)?;
        let operation = u32::decode(src)?;
        let dest = u32::decode(src)?;
        let source = u32::decode(src)?;
        let reqid = ReqId::decode(src)?;
        Ok(Peek {
            length,
            operation,
            header: Self {
                generation,
                dest,
                src: source,
                reqid,
            },
        })
    }
}

/// What the header says, before the body is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peek {
    /// Length of the whole packet.
    pub length: u32,
    /// See [`Operation::from_raw`].
    pub operation: u32,
    pub header: Header,
}

/// Kind of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operation {
    ReqCall = 0,
    ReplyCall = 1,
    ReqDmaster = 2,
    ReplyDmaster = 3,
    ReplyError = 4,
    ReqMessage = 5,
    ReqControl = 7,
    ReplyControl = 8,
    ReqKeepalive = 9,
    ReqTunnel = 10,
}

impl Operation {
    /// Whether packets of this kind hold the data of records, or many of them.
    pub const fn carries_records(self) -> bool {
        match self {
            Self::ReplyCall
            | Self::ReqDmaster
            | Self::ReplyDmaster
            | Self::ReqMessage
            | Self::ReqControl
            | Self::ReplyControl => true,
            Self::ReqCall | Self::ReplyError | Self::ReqKeepalive | Self::ReqTunnel => false,
        }
    }

    /// `None` for 6 and above 10.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::ReqCall,
            1 => Self::ReplyCall,
            2 => Self::ReqDmaster,
            3 => Self::ReplyDmaster,
            4 => Self::ReplyError,
            5 => Self::ReqMessage,
            7 => Self::ReqControl,
            8 => Self::ReplyControl,
            9 => Self::ReqKeepalive,
            10 => Self::ReqTunnel,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// Fewest bytes a daemon sends for a packet of this kind (S in `wire.md 3.0`).
    const fn daemon_minimum(self) -> usize {
        match self {
            Self::ReqKeepalive => 40,
            Self::ReplyCall | Self::ReplyError => 44,
            Self::ReqMessage | Self::ReplyControl => 48,
            Self::ReqTunnel => 56,
            Self::ReqCall => 60,
            Self::ReqDmaster | Self::ReplyDmaster | Self::ReqControl => 64,
        }
    }
}

/// What a packet carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body {
    ReqCall(ReqCall),
    ReplyCall(ReplyCall),
    ReqDmaster(ReqDmaster),
    ReplyDmaster(ReplyDmaster),
    ReplyError(ReplyError),
    ReqMessage(ReqMessage),
    ReqControl(ReqControl),
    ReplyControl(ReplyControl),
    ReqKeepalive(ReqKeepalive),
    ReqTunnel(ReqTunnel),
}

impl Body {
    /// Kind of the packet.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::ReqCall(_) => Operation::ReqCall,
            Self::ReplyCall(_) => Operation::ReplyCall,
            Self::ReqDmaster(_) => Operation::ReqDmaster,
            Self::ReplyDmaster(_) => Operation::ReplyDmaster,
            Self::ReplyError(_) => Operation::ReplyError,
            Self::ReqMessage(_) => Operation::ReqMessage,
            Self::ReqControl(_) => Operation::ReqControl,
            Self::ReplyControl(_) => Operation::ReplyControl,
            Self::ReqKeepalive(_) => Operation::ReqKeepalive,
            Self::ReqTunnel(_) => Operation::ReqTunnel,
        }
    }

    /// Decodes the body of a packet of this kind from what follows its header.
    pub fn decode(operation: Operation, src: &mut impl Buf) -> Result<Self, DecodeError> {
        Ok(match operation {
            Operation::ReqCall => Self::ReqCall(ReqCall::decode(src)?),
            Operation::ReplyCall => Self::ReplyCall(ReplyCall::decode(src)?),
            Operation::ReqDmaster => Self::ReqDmaster(ReqDmaster::decode(src)?),
            Operation::ReplyDmaster => Self::ReplyDmaster(ReplyDmaster::decode(src)?),
            Operation::ReplyError => Self::ReplyError(ReplyError::decode(src)?),
            Operation::ReqMessage => Self::ReqMessage(ReqMessage::decode(src)?),
            Operation::ReqControl => Self::ReqControl(ReqControl::decode(src)?),
            Operation::ReplyControl => Self::ReplyControl(ReplyControl::decode(src)?),
            Operation::ReqKeepalive => Self::ReqKeepalive(ReqKeepalive::decode_body(src)?),
            Operation::ReqTunnel => Self::ReqTunnel(ReqTunnel::decode(src)?),
        })
    }

    /// Appends the body, without padding.
    fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::ReqCall(body) => body.encode(out),
            Self::ReplyCall(body) => body.encode(out),
            Self::ReqDmaster(body) => body.encode(out),
            Self::ReplyDmaster(body) => body.encode(out),
            Self::ReplyError(body) => body.encode(out),
            Self::ReqMessage(body) => body.encode(out),
            Self::ReqControl(body) => body.encode(out),
            Self::ReplyControl(body) => body.encode(out),
            Self::ReqKeepalive(body) => body.encode_body(out),
            Self::ReqTunnel(body) => body.encode(out),
        }
    }

    /// Size of the encoded body, without padding.
    fn len(&self) -> usize {
        match self {
            Self::ReqCall(body) => ReqCall::MIN_LEN + body.key.len() + body.data.len(),
            Self::ReplyCall(body) => ReplyCall::MIN_LEN + body.data.len(),
            Self::ReqDmaster(body) => {
                let flags = body.record_flags.map_or(0, |_| RecordFlags::MIN_LEN);
                ReqDmaster::MIN_LEN + body.key.len() + body.data.len() + flags
            }
            Self::ReplyDmaster(body) => {
                let flags = body.record_flags.map_or(0, |_| RecordFlags::MIN_LEN);
                ReplyDmaster::MIN_LEN + body.key.len() + body.data.len() + flags
            }
            Self::ReplyError(body) => ReplyError::MIN_LEN + body.message.len(),
            Self::ReqMessage(body) => ReqMessage::MIN_LEN + body.data.len(),
            Self::ReqControl(body) => ReqControl::MIN_LEN + body.data.len(),
            Self::ReplyControl(body) => ReplyControl::MIN_LEN + body.data.len() + body.error.len(),
            Self::ReqKeepalive(body) => body.body_len(),
            Self::ReqTunnel(body) => ReqTunnel::MIN_LEN + body.data.len(),
        }
    }
}

/// How long a packet is made; each kind of sender has its habit (`wire.md 1.1`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Padding {
    /// At least the fixed minimum of the operation, then up to a multiple of 8.
    Daemon,
    /// Up to a multiple of 8: the client library and the tools.
    Client,
    /// None at all: Samba. Not allowed between nodes.
    Exact,
}

impl Padding {
    fn apply(self, operation: Operation, exact: usize) -> usize {
        match self {
            // The bare header of a very old keepalive stays bare: its length says what it is.
            Self::Daemon if exact > HEADER_LEN => {
                exact.max(operation.daemon_minimum()).next_multiple_of(8)
            }
            Self::Daemon | Self::Client => exact.next_multiple_of(8),
            Self::Exact => exact,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientId, ControlFlags, Opcode, SambaVersion, Srvid};

    const HEADER: Header = Header {
        generation: Generation(5),
        dest: 1,
        src: 0,
        reqid: ReqId(9),
    };

    fn message(data: &'static [u8]) -> Packet {
        let data = Bytes::from_static(data);
        let body = Body::ReqMessage(ReqMessage {
            srvid: Srvid::LEADER,
            data,
        });
        Packet {
            header: HEADER,
            body,
        }
    }

    #[test]
    fn padding_follows_the_kind_of_sender() {
        let empty = message(b"");
        assert_eq!(empty.encode(Padding::Daemon).len(), 48);
        assert_eq!(empty.encode(Padding::Client).len(), 48);
        assert_eq!(empty.encode(Padding::Exact).len(), 44);
        assert_eq!(message(b"12345").encode(Padding::Daemon).len(), 56);

        let control = Packet {
            header: HEADER,
            body: Body::ReplyCall(ReplyCall {
                status: 0,
                data: Bytes::new(),
            }),
        };
        assert_eq!(control.encode(Padding::Daemon).len(), 48);
        assert_eq!(control.encode(Padding::Client).len(), 40);
    }

    #[test]
    fn a_packet_without_a_body_is_a_keepalive_of_old() {
        let body = Body::ReqKeepalive(ReqKeepalive {
            version: None,
            uptime: 0,
        });
        let bytes = Packet {
            header: HEADER,
            body: body.clone(),
        }
        .encode(Padding::Daemon);
        assert_eq!(bytes.len(), HEADER_LEN);
        assert_eq!(Packet::decode(bytes).unwrap().body, body);
    }

    #[test]
    fn half_a_version_is_no_keepalive() {
        let version = Some(SambaVersion::new(4, 24));
        let body = Body::ReqKeepalive(ReqKeepalive { version, uptime: 3 });
        let bytes = Packet {
            header: HEADER,
            body,
        }
        .encode(Padding::Daemon);
        let mut short = bytes[..36].to_vec();
        short[0] = 36;
        let error = Packet::decode(short.into()).unwrap_err();
        assert_eq!(error, DecodeError::TooShort { need: 4, have: 0 });
    }

    #[test]
    fn payloads_are_slices_of_the_frame() {
        let frame = message(b"payload").encode(Padding::Daemon);
        let Body::ReqMessage(decoded) = Packet::decode(frame.clone()).unwrap().body else {
            panic!("not a message");
        };
        assert_eq!(decoded.data.as_ptr(), frame[44..].as_ptr());
    }

    #[test]
    fn an_inner_length_cannot_reach_beyond_the_packet() {
        let body = Body::ReqControl(ReqControl {
            opcode: Opcode::PING,
            srvid: Srvid(0),
            client_id: ClientId::NONE,
            flags: ControlFlags::empty(),
            data: Bytes::from_static(b"1234"),
        });
        let mut bytes = Packet {
            header: HEADER,
            body,
        }
        .encode(Padding::Exact)
        .to_vec();
        bytes[56] = 5;
        let error = Packet::decode(bytes.into()).unwrap_err();
        assert_eq!(error, DecodeError::TooShort { need: 5, have: 4 });
    }

    #[test]
    fn the_frame_must_have_the_length_it_states() {
        let mut bytes = message(b"").encode(Padding::Daemon).to_vec();
        bytes.push(0);
        let error = Packet::decode(bytes.into()).unwrap_err();
        let what = "packet length";
        assert_eq!(
            error,
            DecodeError::LengthMismatch {
                what,
                stated: 48,
                actual: 49
            }
        );
    }

    #[test]
    fn operation_six_is_unknown() {
        let mut bytes = message(b"").encode(Padding::Daemon).to_vec();
        bytes[16] = 6;
        let error = Packet::decode(bytes.into()).unwrap_err();
        assert_eq!(error, DecodeError::UnknownOperation { found: 6 });
    }
}
