//! A backup as `ctdb restoredb` reads it: bytes to a header and buffers, and back.
//!
//! Input: a byte that says where the file is cut in two, then the file.
#![no_main]

use ctdb_proto::{BackupHeader, BackupPart, BackupReader, BackupWriter, DbId, RecBuffer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, file)) = input.split_first() else {
        return;
    };
    let (first, second) = file.split_at(usize::from(*cut).min(file.len()));
    let mut reader = BackupReader::new();
    let (mut header, mut buffers) = (None, Vec::new());
    for part in [first, second] {
        reader.push(part);
        loop {
            match reader.next_part() {
                Ok(Some(BackupPart::Header(found))) => header = Some(found),
                Ok(Some(BackupPart::Buffer(buffer))) => buffers.push(buffer),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let size: usize = buffers.iter().map(RecBuffer::wire_len).sum();
    assert!(size <= file.len(), "reading made bytes out of nothing");
    if let (Some(header), Ok(())) = (header, reader.finish()) {
        write_again(&header, &buffers);
    }
});

/// All records of a whole backup are written, and the header counts them.
fn write_again(header: &BackupHeader, buffers: &[RecBuffer]) {
    let mut writer = BackupWriter::new(DbId(1));
    for record in buffers.iter().flat_map(RecBuffer::iter) {
        let full = writer.push(record.key, record.data);
        assert_eq!(full, Ok(None), "an input is too short to fill a buffer");
    }
    let (_, again) = writer.finish(header.name.clone(), header.flags, header.timestamp);
    assert_eq!(again.records, header.records);
}
