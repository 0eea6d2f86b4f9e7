//! A connection as a daemon reads it: bytes to packets, packets to operations, and back.
//!
//! Input: a byte whose lowest bit chooses the rules (0: between nodes, 1: of a client), then the
//! stream.
#![no_main]

use ctdb_proto::{Body, FrameReader, Message, Packet, Padding, ReqMessage, Request, Transport};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, stream)) = input.split_first() else {
        return;
    };
    let transport = if choice & 1 == 0 {
        Transport::Tcp
    } else {
        Transport::Unix
    };
    let mut frames = FrameReader::new(transport);
    // In two parts, so that the splitter has to wait in the middle of a packet.
    let (first, second) = stream.split_at(stream.len() / 2);
    for part in [first, second] {
        frames.push(part);
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => decode(frame, transport),
                Ok(None) => break,
                Err(error) if error.is_fatal(transport) => return,
                Err(_) => {}
            }
        }
    }
});

fn decode(frame: bytes::Bytes, transport: Transport) {
    assert!(transport == Transport::Unix || frame.len().is_multiple_of(8));
    let Ok(packet) = Packet::decode(frame.clone()) else {
        return;
    };
    let exact = packet.encode(Padding::Exact);
    assert!(
        exact.len() <= frame.len(),
        "decoding made bytes out of nothing"
    );
    assert_eq!(Packet::decode(exact).as_ref(), Ok(&packet));
    assert_eq!(packet.encode(Padding::Daemon).len() % 8, 0);
    match packet.body {
        Body::ReqMessage(message) => decode_message(&message),
        Body::ReqControl(control) => drop(Request::from_control(&control)),
        _ => {}
    }
}

fn decode_message(message: &ReqMessage) {
    let Ok(decoded) = Message::from_message(message) else {
        return;
    };
    let again = decoded.encode();
    assert_eq!(again.srvid, message.srvid);
    assert_eq!(Message::from_message(&again), Ok(decoded));
}
