use super::*;

fn name() -> FixedStr<64> {
    FixedStr::new("per.tdb").unwrap()
}

/// A whole file with these values, each under its own key.
fn backup(values: &[&[u8]]) -> Vec<u8> {
    let mut writer = BackupWriter::new(DbId(7));
    let mut buffers = Vec::new();
    for (number, value) in (0u8..).zip(values) {
        buffers.extend(writer.push(&[b'k', number], value).unwrap());
    }
    let (last, header) = writer.finish(name(), DbFlags::PERSISTENT, 1_795_192_815);
    buffers.extend(last);
    [&header.to_bytes()[..], &buffers.concat()].concat()
}

/// Everything in a file that arrives in pieces of some length.
fn read(file: &[u8], piece: usize) -> Result<(BackupHeader, Vec<RecBuffer>), BackupError> {
    let mut reader = BackupReader::new();
    let (mut header, mut buffers) = (None, Vec::new());
    for piece in file.chunks(piece) {
        reader.push(piece);
        while let Some(part) = reader.next_part()? {
            match part {
                BackupPart::Header(found) => assert!(header.replace(found).is_none()),
                BackupPart::Buffer(buffer) => buffers.push(buffer),
            }
        }
    }
    reader.finish()?;
    Ok((header.unwrap(), buffers))
}

/// The file with another value at an offset.
fn with(file: &[u8], offset: usize, value: &impl Wire) -> Vec<u8> {
    let mut changed = file.to_vec();
    value.encode(&mut &mut changed[offset..]);
    changed
}

#[test]
fn a_backup_gives_back_its_records_in_pieces_of_any_length() {
    let file = backup(&[b"one", b"", &[9; 300]]);
    for piece in [1, 7, 104, file.len()] {
        let (header, buffers) = read(&file, piece).unwrap();
        assert_eq!((header.buffers, header.records), (1, 3));
        assert_eq!((header.name, header.flags), (name(), DbFlags::PERSISTENT));
        assert_eq!(header.timestamp, 1_795_192_815);
        let [buffer] = &buffers[..] else {
            panic!("{buffers:?}");
        };
        assert_eq!(buffer.db_id(), DbId(7));
        let values: Vec<_> = buffer.iter().map(|record| record.data).collect();
        assert_eq!(values, [&b"one"[..], b"", &[9; 300]]);
    }
}

#[test]
fn a_buffer_is_closed_when_it_is_full() {
    // 8 bytes of the batch, 16 of the record, 2 of the key.
    let full = vec![0; CLOSE_AT - 8 - 16 - 2];
    let short = &full[1..];
    let buffers = |values: &[&[u8]]| {
        let (header, buffers) = read(&backup(values), 4096).unwrap();
        assert_eq!(header.buffers, buffers.len() as u64);
        buffers.iter().map(RecBuffer::count).collect::<Vec<_>>()
    };
    assert_eq!(buffers(&[short, b"", b""]), [2, 1]);
    assert_eq!(buffers(&[&full, b""]), [1, 1]);
    assert_eq!(buffers(&[&full]), [1]);
}

#[test]
fn an_empty_database_has_no_buffer() {
    let file = backup(&[]);
    assert_eq!(file.len(), BackupHeader::LEN);
    let (header, buffers) = read(&file, 100).unwrap();
    assert_eq!((header.buffers, header.records, buffers.len()), (0, 0, 0));
}

#[test]
fn a_file_that_is_cut_off_is_told_from_a_whole_one() {
    let file = backup(&[b"one", b"two"]);
    for len in 0..file.len() {
        let error = read(&file[..len], 4096).unwrap_err();
        let expected = if len < BackupHeader::LEN {
            BackupError::NoHeader { have: len }
        } else {
            BackupError::EndsEarly { missing: 1 }
        };
        assert_eq!(error, expected, "{len}");
    }
}

#[test]
fn what_a_longer_file_had_behind_it_is_dropped() {
    let file = backup(&[b"one"]);
    let longer = [&file[..], &[0xAA; 500]].concat();
    assert_eq!(read(&longer, 50), read(&file, 50));
}

#[test]
fn another_version_is_named() {
    let file = with(&backup(&[b"one"]), 0, &4u64);
    assert_eq!(read(&file, 64), Err(BackupError::Version { found: 4 }));
    assert_eq!(
        read(&[0; 104], 64),
        Err(BackupError::Version { found: 0 }),
        "the place of a header that was never written"
    );
}

#[test]
fn a_length_is_refused_before_its_bytes_arrive() {
    let file = with(&backup(&[b"one"]), 112, &u64::MAX);
    let error = read(&file[..120], 4096).unwrap_err();
    assert_eq!(error, BackupError::BufferTooLong { length: u64::MAX });
}

#[test]
fn records_must_fill_their_buffer() {
    let file = backup(&[b"one", b"two"]);
    let one_less = with(&file, 108, &1u32);
    let one_more = with(&file, 108, &3u32);
    let longer = with(&file, 120, &200u32);
    for damaged in [one_less, one_more, longer] {
        let error = read(&damaged, 4096).unwrap_err();
        assert!(matches!(error, BackupError::Decode(_)), "{error}");
    }
}

#[test]
fn the_header_counts_all_records() {
    let file = with(&backup(&[b"one", b"two"]), 32, &3u64);
    let expected = BackupError::RecordCount {
        stated: 3,
        actual: 2,
    };
    assert_eq!(read(&file, 4096), Err(expected));
}

#[test]
fn flags_and_name_are_checked() {
    let file = backup(&[]);
    assert!(read(&with(&file, 17, &1u8), 104).is_err());
    assert!(read(&with(&file, 40, &[b'x'; 64]), 104).is_err());
}

#[test]
fn a_record_that_no_message_can_carry_is_refused() {
    let mut writer = BackupWriter::new(DbId(7));
    // Zeros that are never touched.
    let value = vec![0; MAX_RECORDS_LEN];
    let error = writer.push(b"k", &value).unwrap_err();
    let length = MAX_RECORDS_LEN + 1;
    assert_eq!(error, BackupError::RecordTooLong { length });
}
