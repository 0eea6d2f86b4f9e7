//! The request of every control, and back.
//!
//! Input: a byte with the opcode, which has room for all of the original's (255: EXPLAIN), then the payload.
#![no_main]

use bytes::Bytes;
use ctdb_proto::{Opcode, Request, Srvid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((opcode, data)) = input.split_first() else {
        return;
    };
    let opcode = match *opcode {
        255 => Opcode::EXPLAIN,
        other => Opcode(u32::from(other)),
    };
    let srvid = Srvid(0x1234);
    let Ok(request) = Request::decode(opcode, srvid, Bytes::copy_from_slice(data)) else {
        return;
    };
    assert_eq!(request.opcode(), opcode);
    let encoded = request.encode();
    // The name of a tunable may come without its NUL, and gets one.
    assert!(
        encoded.2.len() <= data.len() + 1,
        "decoding made bytes out of nothing"
    );
    // Compared by their bytes: a latency that is not a number is not equal to itself.
    let again = Request::decode(encoded.0, encoded.1, encoded.2.clone());
    assert_eq!(again.expect("our own encoding").encode(), encoded);
});
