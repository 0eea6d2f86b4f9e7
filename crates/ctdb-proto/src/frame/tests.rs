use super::*;

/// A packet of `length` bytes: a good prologue, then zeros.
fn packet(length: u32) -> Vec<u8> {
    packet_with(length, MAGIC, VERSION)
}

fn packet_with(length: u32, magic: u32, version: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [length, magic, version] {
        number.encode(&mut bytes);
    }
    bytes.resize(length.max(12) as usize, 0);
    bytes
}

fn reader(transport: Transport, bytes: &[u8]) -> FrameReader {
    let mut frames = FrameReader::new(transport);
    frames.push(bytes);
    frames
}

#[test]
fn packets_may_come_byte_by_byte_or_all_at_once() {
    let stream = [packet(48), packet(56)].concat();
    let mut slow = FrameReader::new(Transport::Tcp);
    let mut lengths = Vec::new();
    for byte in &stream {
        slow.push(&[*byte]);
        lengths.extend(slow.next_frame().unwrap().map(|frame| frame.len()));
    }
    assert_eq!(lengths, [48, 56]);
    assert!(!slow.is_mid_packet());

    let mut fast = reader(Transport::Tcp, &stream);
    assert_eq!(fast.next_frame().unwrap().unwrap(), packet(48));
    assert_eq!(fast.next_frame().unwrap().unwrap(), packet(56));
    assert_eq!(fast.next_frame(), Ok(None));
}

#[test]
fn length_zero_ends_any_connection() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut frames = reader(transport, &[0; 4]);
        assert_eq!(frames.next_frame(), Err(FrameError::ZeroLength));
        assert_eq!(frames.next_frame(), Err(FrameError::ZeroLength), "it stays");
        assert!(FrameError::ZeroLength.is_fatal(transport));
    }
}

#[test]
fn unaligned_lengths_are_for_the_unix_socket_only() {
    let mut tcp = reader(Transport::Tcp, &packet(59));
    let error = FrameError::Unaligned { length: 59 };
    assert_eq!(tcp.next_frame(), Err(error));
    assert!(error.is_fatal(Transport::Tcp));
    assert_eq!(
        reader(Transport::Unix, &packet(59))
            .next_frame()
            .unwrap()
            .unwrap()
            .len(),
        59
    );
}

#[test]
fn bad_packets_of_a_client_are_dropped() {
    let errors = [
        (
            packet_with(31, MAGIC, VERSION),
            FrameError::TooShort { length: 31 },
        ),
        (
            packet_with(40, 0x1234, VERSION),
            FrameError::BadMagic { magic: 0x1234 },
        ),
        (
            packet_with(40, MAGIC, 2),
            FrameError::BadVersion { version: 2 },
        ),
    ];
    for (bytes, error) in errors {
        let stream = [bytes, packet(48)].concat();
        let mut frames = reader(Transport::Unix, &stream);
        assert_eq!(frames.next_frame(), Err(error));
        assert!(!error.is_fatal(Transport::Unix));
        assert!(error.is_fatal(Transport::Tcp));
        assert_eq!(frames.next_frame().unwrap().unwrap(), packet(48));
    }
}

#[test]
fn a_dropped_packet_is_not_kept_while_it_arrives() {
    let mut frames = reader(Transport::Unix, &packet_with(100_000, 0, VERSION)[..12]);
    assert_eq!(frames.next_frame(), Err(FrameError::BadMagic { magic: 0 }));
    for _ in 0..(100_000 - 12) / 1_000 {
        frames.push(&[0; 1_000]);
        assert_eq!(frames.next_frame(), Ok(None));
        assert!(frames.buffer.is_empty());
    }
    frames.push(&[0; 988]);
    frames.push(&packet(48));
    assert_eq!(frames.next_frame().unwrap().unwrap(), packet(48));
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut frames = reader(
        Transport::Unix,
        &packet_with(200_000_000, MAGIC, VERSION)[..12],
    );
    assert_eq!(frames.next_frame(), Ok(None));
    assert!(frames.buffer().capacity() <= 4 * MIN_READ);
}

/// The first bytes of a packet of this kind.
fn head_of(length: u32, operation: Operation) -> Vec<u8> {
    [length, MAGIC, VERSION, 0, operation.raw()]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

#[test]
fn packets_over_the_limit_of_their_kind_end_the_connection() {
    let length = u32::try_from(MAX_PLAIN_LEN).unwrap() + 8;
    let head = head_of(length, Operation::ReqKeepalive);
    let mut frames = reader(Transport::Unix, &head[..KIND_LEN - 1]);
    assert_eq!(frames.next_frame(), Ok(None), "the kind is not there yet");
    frames.push(&head[KIND_LEN - 1..]);
    let error = FrameError::TooLong { length };
    assert_eq!(frames.next_frame(), Err(error));
    assert!(error.is_fatal(Transport::Unix));
}

#[test]
fn packets_with_records_may_be_as_long_as_a_database() {
    let head = head_of(u32::MAX - 7, Operation::ReqDmaster);
    let mut frames = reader(Transport::Tcp, &head);
    assert_eq!(frames.next_frame(), Ok(None));
    assert!(frames.buffer().capacity() <= 4 * MIN_READ);
}
