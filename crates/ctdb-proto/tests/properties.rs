//! What holds for all values, and for all bytes that a hostile peer can send.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, ClientId, ControlFlags, DbId, DbStatistics, FrameReader, Generation,
    Header, HotKey, Iface, Message, NodeAndFlags, Opcode, Packet, Padding, Pnn, RecBuffer,
    RecordFlags, RecordHeader, Reply, ReplyCall, ReplyControl, ReplyDmaster, ReplyError, ReqCall,
    ReqControl, ReqDmaster, ReqId, ReqKeepalive, ReqMessage, ReqTunnel, Request, Rsn, SambaVersion,
    SockAddr, Srvid, Statistics, Transport, TunnelFlags, TunnelId, Wire, decode_exact, decode_list,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..40).prop_map(Bytes::from)
}

fn pnn() -> impl Strategy<Value = Pnn> {
    (0..0xF000_0000u32).prop_map(|raw| Pnn::new(raw).unwrap())
}

fn record_flags() -> impl Strategy<Value = RecordFlags> {
    any::<u32>().prop_map(RecordFlags::from_bits_retain)
}

fn call() -> impl Strategy<Value = Body> {
    (any::<[u32; 4]>(), key(), bytes(60)).prop_map(
        |([flags, db_id, call_id, hopcount], key, data)| {
            Body::ReqCall(ReqCall {
                flags: CallFlags::from_bits_retain(flags),
                db_id: DbId(db_id),
                call_id: CallId(call_id),
                hopcount,
                key,
                data,
            })
        },
    )
}

fn moved_record() -> impl Strategy<Value = Body> {
    let flags = proptest::option::of(record_flags());
    let parts = (
        any::<u32>(),
        any::<u64>(),
        proptest::option::of(pnn()),
        key(),
        bytes(60),
        flags,
    );
    parts.prop_map(|(db_id, rsn, dmaster, key, data, record_flags)| {
        let (db_id, rsn) = (DbId(db_id), Rsn(rsn));
        match dmaster {
            Some(dmaster) => Body::ReqDmaster(ReqDmaster {
                db_id,
                rsn,
                dmaster,
                key,
                data,
                record_flags,
            }),
            None => Body::ReplyDmaster(ReplyDmaster {
                db_id,
                rsn,
                key,
                data,
                record_flags,
            }),
        }
    })
}

fn control() -> impl Strategy<Value = Body> {
    let parts = (
        any::<u32>(),
        any::<u64>(),
        any::<u32>(),
        any::<u32>(),
        bytes(80),
    );
    parts.prop_map(|(opcode, srvid, client_id, flags, data)| {
        Body::ReqControl(ReqControl {
            opcode: Opcode(opcode),
            srvid: Srvid(srvid),
            client_id: ClientId(client_id),
            flags: ControlFlags::from_bits_retain(flags),
            data,
        })
    })
}

fn tunnel() -> impl Strategy<Value = Body> {
    (any::<u64>(), any::<u32>(), bytes(40)).prop_map(|(tunnel_id, flags, data)| {
        let flags = TunnelFlags::from_bits_retain(flags);
        Body::ReqTunnel(ReqTunnel {
            tunnel_id: TunnelId(tunnel_id),
            flags,
            data,
        })
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        call(),
        moved_record(),
        control(),
        tunnel(),
        (any::<i32>(), bytes(60))
            .prop_map(|(status, data)| Body::ReplyCall(ReplyCall { status, data })),
        (any::<i32>(), bytes(60))
            .prop_map(|(status, message)| Body::ReplyError(ReplyError { status, message })),
        (any::<u64>(), bytes(60)).prop_map(|(srvid, data)| {
            Body::ReqMessage(ReqMessage {
                srvid: Srvid(srvid),
                data,
            })
        }),
        (any::<i32>(), bytes(60), bytes(40)).prop_map(|(status, data, error)| {
            Body::ReplyControl(ReplyControl {
                status,
                data,
                error,
            })
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(version, uptime)| {
            Body::ReqKeepalive(ReqKeepalive {
                version: Some(SambaVersion(version)),
                uptime,
            })
        }),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    (any::<[u32; 4]>(), body()).prop_map(|([generation, dest, src, reqid], body)| {
        let (generation, reqid) = (Generation(generation), ReqId(reqid));
        Packet {
            header: Header {
                generation,
                dest,
                src,
                reqid,
            },
            body,
        }
    })
}

/// A record without flags that is padded seems to have flags: zeros.
fn with_flags(mut packet: Packet) -> Packet {
    match &mut packet.body {
        Body::ReqDmaster(ReqDmaster { record_flags, .. })
        | Body::ReplyDmaster(ReplyDmaster { record_flags, .. }) => {
            record_flags.get_or_insert_default();
        }
        _ => {}
    }
    packet
}

fn encoded(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out);
    out
}

/// The packets of the golden file.
fn golden() -> Vec<Vec<u8>> {
    let lines = include_str!("golden/wire.jsonl")
        .split("\"hex\":\"")
        .skip(1);
    let digits = lines.map(|rest| rest.split('"').next().unwrap().as_bytes());
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    let packets: Vec<Vec<u8>> = digits
        .map(|text| text.chunks(2).map(byte).collect())
        .collect();
    assert_eq!(packets.len(), 910);
    packets
}

/// Whatever bytes decode to, encodes to bytes that decode to the same.
fn check_packet(frame: Bytes) {
    let Ok(packet) = Packet::decode(frame) else {
        return;
    };
    let again = packet.encode(Padding::Exact);
    assert_eq!(Packet::decode(again).unwrap(), packet);
    match &packet.body {
        Body::ReqControl(control) => check_request(control.opcode, control.data.clone()),
        Body::ReqMessage(message) => check_message(message),
        Body::ReplyControl(reply) => {
            for (opcode, _) in Opcode::served() {
                check_reply(*opcode, reply.status, reply.data.clone());
            }
        }
        _ => {}
    }
}

// Payloads are compared by their bytes: NaN is not equal to itself.
fn check_request(opcode: Opcode, data: Bytes) {
    let Ok(request) = Request::decode(opcode, Srvid(1), data) else {
        return;
    };
    let (again, srvid, data) = request.encode();
    assert_eq!(again, opcode);
    let request = Request::decode(opcode, srvid, data.clone()).unwrap();
    assert_eq!(request.encode(), (opcode, srvid, data));
}

fn check_reply(opcode: Opcode, status: i32, data: Bytes) {
    let Ok(reply) = Reply::decode(opcode, status, data) else {
        return;
    };
    let (status, data) = reply.encode();
    let reply = Reply::decode(opcode, status, data.clone()).unwrap();
    assert_eq!(reply.encode(), (status, data));
}

fn check_message(message: &ReqMessage) {
    let Ok(message) = Message::from_message(message) else {
        return;
    };
    let again = message.encode();
    assert_eq!(Message::from_message(&again).unwrap(), message);
}

proptest! {
    #[test]
    fn a_packet_comes_back_as_it_was(packet in packet()) {
        prop_assert_eq!(&Packet::decode(packet.encode(Padding::Exact)).unwrap(), &packet);
        let packet = with_flags(packet);
        for padding in [Padding::Client, Padding::Daemon] {
            let frame = packet.encode(padding);
            prop_assert_eq!(frame.len() % 8, 0);
            prop_assert_eq!(&Packet::decode(frame).unwrap(), &packet);
        }
    }

    #[test]
    fn a_stream_is_cut_the_same_however_it_arrives(
        packets in vec(packet(), 1..6),
        cuts in vec(1usize..200, 1..40),
    ) {
        let stream: Vec<u8> =
            packets.iter().flat_map(|packet| packet.encode(Padding::Daemon)).collect();
        let mut frames = FrameReader::new(Transport::Tcp);
        let mut rest = stream.as_slice();
        let mut out = Vec::new();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            frames.push(now);
            rest = later;
            while let Some(frame) = frames.next_frame().unwrap() {
                out.push(frame);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(!frames.is_mid_packet());
        prop_assert_eq!(out.concat(), stream);
    }

    #[test]
    fn any_bytes_are_survived(data in vec(any::<u8>(), 0..300), tcp in any::<bool>()) {
        let transport = if tcp { Transport::Tcp } else { Transport::Unix };
        let mut frames = FrameReader::new(transport);
        frames.push(&data);
        for _ in 0..data.len() {
            match frames.next_frame() {
                Ok(Some(frame)) => check_packet(frame),
                Ok(None) => break,
                Err(error) if error.is_fatal(transport) => break,
                Err(_) => {}
            }
        }
        let _ = Packet::decode(data.into());
    }

    #[test]
    fn any_payload_is_survived(
        index in any::<prop::sample::Index>(),
        status in prop_oneof![Just(0), any::<i32>()],
        data in bytes(600),
    ) {
        let (opcode, _) = *index.get(Opcode::served());
        check_request(opcode, data.clone());
        check_reply(opcode, status, data);
    }

    #[test]
    fn a_list_never_outgrows_its_bytes(
        count in prop_oneof![0u32..30, any::<u32>()],
        data in vec(any::<u8>(), 0..200)) {
        let mut rest = data.as_slice();
        if let Ok(list) = decode_list::<u64>(count, &mut rest) {
            prop_assert_eq!(list.len() * 8 + rest.len(), data.len());
        } else {
            prop_assert!(count as usize * 8 > data.len());
        }
        let mut rest = data.as_slice();
        if let Ok(list) = decode_list::<NodeAndFlags>(count, &mut rest) {
            prop_assert!(list.len() * 36 <= data.len());
        }
        let mut rest = data.as_slice();
        if let Ok(list) = decode_list::<Iface>(count, &mut rest) {
            prop_assert!(list.len() * 24 <= data.len());
        }
    }

    #[test]
    fn every_double_comes_back(bits in any::<u64>()) {
        let back: f64 = decode_exact(encoded(&f64::from_bits(bits)).as_slice()).unwrap();
        prop_assert_eq!(back.to_bits(), bits);
    }

    #[test]
    fn statistics_come_back(data in prop::array::uniform32(any::<u64>())) {
        let bytes: Vec<u8> = data.iter().cycle().take(61).flat_map(|n| n.to_le_bytes()).collect();
        let statistics: Statistics = decode_exact(bytes.as_slice()).unwrap();
        let again = encoded(&statistics);
        prop_assert_eq!(again.len(), 488);
        prop_assert_eq!(encoded(&decode_exact::<Statistics>(again.as_slice()).unwrap()), again);
    }

    #[test]
    fn hot_keys_come_back(keys in vec((any::<u32>(), bytes(20)), 0..=10)) {
        let hot_keys = keys.into_iter().map(|(count, key)| HotKey { count, key }).collect();
        let statistics = DbStatistics { hot_keys, ..DbStatistics::default() };
        let back: DbStatistics = decode_exact(encoded(&statistics).as_slice()).unwrap();
        prop_assert_eq!(back, statistics);
    }

    #[test]
    fn records_come_back(
        records in vec((any::<u32>(), bytes(30), any::<[u64; 2]>(), record_flags(), bytes(50)), 0..9),
    ) {
        let mut builder = RecBuffer::builder(DbId(1));
        for (reqid, key, [rsn, dmaster], flags, data) in &records {
            let dmaster = u32::try_from(dmaster >> 32).unwrap();
            let header = RecordHeader { rsn: Rsn(*rsn), dmaster, reserved: 0, flags: *flags };
            builder.push_record(ReqId(*reqid), key, &header, data);
        }
        let size = builder.wire_len();
        let bytes = builder.finish().to_bytes();
        prop_assert_eq!(bytes.len(), size);
        let batch: RecBuffer = decode_exact(bytes).unwrap();
        batch.check_headers().unwrap();
        prop_assert_eq!(batch.iter().count(), records.len());
        for (record, (reqid, key, [rsn, _], flags, data)) in batch.iter().zip(&records) {
            let (header, rest) = record.split().unwrap();
            prop_assert_eq!((record.reqid, record.key), (ReqId(*reqid), &key[..]));
            prop_assert_eq!((header.rsn, header.flags, rest), (Rsn(*rsn), *flags, &data[..]));
        }
    }

    #[test]
    fn addresses_come_back_whole(ip in any::<std::net::IpAddr>(), port in any::<u16>()) {
        let addr = SockAddr::from((ip, port));
        prop_assert_eq!(decode_exact::<SockAddr>(encoded(&addr).as_slice()).unwrap().0, addr.0);
    }
}

#[test]
fn no_damage_to_a_real_packet_goes_unsurvived() {
    let mut rng = proptest::test_runner::TestRng::deterministic_rng(
        proptest::test_runner::RngAlgorithm::ChaCha,
    );
    for packet in golden() {
        for _ in 0..40 {
            let mut damaged = packet.clone();
            for _ in 0..=rng.next_u32() % 3 {
                // The length stays as it is: anything else ends at the splitter.
                let at = 4 + rng.next_u32() as usize % (damaged.len() - 4);
                damaged[at] = match rng.next_u32() % 3 {
                    0 => 0xFF,
                    1 => damaged[at].wrapping_add(1),
                    _ => u8::try_from(rng.next_u32() % 256).unwrap(),
                };
            }
            check_packet(damaged.into());
        }
    }
}
