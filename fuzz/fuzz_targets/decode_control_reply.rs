//! The reply to every control, and back.
//!
//! Input: a byte with the opcode (255: EXPLAIN), a byte with the status, then the payload.
#![no_main]

use bytes::Bytes;
use ctdb_proto::{Opcode, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [opcode, status, data @ ..] = input else {
        return;
    };
    let opcode = match *opcode {
        255 => Opcode::EXPLAIN,
        other => Opcode(u32::from(other)),
    };
    let status = i32::from(status.cast_signed());
    let Ok(reply) = Reply::decode(opcode, status, Bytes::copy_from_slice(data)) else {
        return;
    };
    let (status, encoded) = reply.encode();
    // Compared by their bytes: a latency that is not a number is not equal to itself.
    let again = Reply::decode(opcode, status, encoded.clone());
    assert_eq!(again.expect("our own encoding").encode(), (status, encoded));
});
