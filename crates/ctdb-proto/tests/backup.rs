//! Backups that the original wrote: each must give its records, and be written again to its bytes.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use ctdb_proto::{
    BackupError, BackupHeader, BackupPart, BackupReader, BackupWriter, DbFlags, DbId, RecBuffer,
};
use proptest::collection::vec;
use proptest::prelude::*;

const VOLATILE: &[u8] = include_bytes!("golden/backup/volatile.bak");
const PERSISTENT: &[u8] = include_bytes!("golden/backup/persistent.bak");
const REPLICATED: &[u8] = include_bytes!("golden/backup/replicated.bak");
const EMPTY: &[u8] = include_bytes!("golden/backup/empty.bak");

/// A backup, taken apart.
struct Backup {
    header: BackupHeader,
    buffers: Vec<RecBuffer>,
}

/// Reads a backup that arrives in two parts.
fn read(file: &[u8], cut: usize) -> Result<Backup, BackupError> {
    let (first, second) = file.split_at(cut.min(file.len()));
    let mut reader = BackupReader::new();
    let (mut header, mut buffers) = (None, Vec::new());
    for part in [first, second] {
        reader.push(part);
        while let Some(part) = reader.next_part()? {
            match part {
                BackupPart::Header(found) => header = Some(found),
                BackupPart::Buffer(buffer) => buffers.push(buffer),
            }
        }
    }
    reader.finish()?;
    let header = header.expect("a backup that is whole has a header");
    Ok(Backup { header, buffers })
}

impl Backup {
    /// Key, rsn, dmaster and data of each record.
    fn records(&self) -> Vec<(&[u8], u64, u32, &[u8])> {
        let records = self.buffers.iter().flat_map(RecBuffer::iter);
        records
            .map(|record| {
                let (header, data) = record.split().unwrap();
                (record.key, header.rsn.get(), header.dmaster, data)
            })
            .collect()
    }

    fn write(&self) -> Vec<u8> {
        let mut writer = BackupWriter::new(DbId(0xAAAA_AAAA));
        let mut buffers = Vec::new();
        for record in self.buffers.iter().flat_map(RecBuffer::iter) {
            buffers.extend(writer.push(record.key, record.data).unwrap());
        }
        let Self { header, .. } = self;
        let (last, header) = writer.finish(header.name.clone(), header.flags, header.timestamp);
        buffers.extend(last);
        [&header.to_bytes()[..], &buffers.concat()].concat()
    }
}

/// Name, kind and time of a backup.
fn identity(header: &BackupHeader) -> (&str, DbFlags, i64) {
    (&header.name, header.flags, header.timestamp)
}

#[test]
fn a_volatile_database_is_read() {
    let backup = read(VOLATILE, 50).unwrap();
    let expected = ("vol.tdb", DbFlags::empty(), 1_795_253_622);
    assert_eq!(identity(&backup.header), expected);
    let empty = (&b"\0\xff"[..], 3, 0, &b""[..]);
    let full = (&b"k1"[..], 2, 0, &b"value of k1"[..]);
    assert_eq!(backup.records(), [empty, full]);
}

#[test]
fn a_persistent_database_is_read() {
    let backup = read(PERSISTENT, 150).unwrap();
    let expected = ("per.tdb", DbFlags::PERSISTENT, 1_795_253_622);
    assert_eq!(identity(&backup.header), expected);
    let seqnum: &[u8] = &[4, 0, 0, 0, 0, 0, 0, 0];
    let expected: [(&[u8], u64, u32, &[u8]); 4] = [
        (ctdb_proto::DB_SEQNUM_KEY, 4, 0, seqnum),
        (b"\0\xff", 1, 0, b"\x01\x22"),
        (b"key", 1, 0, b"a value"),
        (b"gone", 2, 0, b""),
    ];
    assert_eq!(backup.records(), expected);
}

#[test]
fn a_replicated_and_an_empty_database_are_read() {
    let replicated = read(REPLICATED, 0).unwrap();
    assert_eq!(replicated.header.flags, DbFlags::REPLICATED);
    assert_eq!(replicated.records().len(), 2);
    let empty = read(EMPTY, 0).unwrap();
    assert_eq!(&*empty.header.name, "empty.tdb");
    assert_eq!((empty.header.buffers, empty.records().len()), (0, 0));
}

#[test]
fn what_we_write_differs_only_in_the_id_that_nobody_reads() {
    for file in [VOLATILE, PERSISTENT, REPLICATED, EMPTY] {
        let mut expected = file.to_vec();
        if let Some(id) = expected.get_mut(104..108) {
            id.fill(0xAA);
        }
        assert_eq!(read(file, 0).unwrap().write(), expected);
    }
}

fn records() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let value = prop_oneof![
        vec(any::<u8>(), 0..50),
        (30_000..70_000usize).prop_map(|len| vec![7; len])
    ];
    vec((vec(any::<u8>(), 0..20), value), 0..8)
}

proptest! {
    #[test]
    fn every_backup_comes_back(records in records(), cut in 0..400_000usize) {
        let mut writer = BackupWriter::new(DbId(1));
        let mut buffers = Vec::new();
        for (key, value) in &records {
            buffers.extend(writer.push(key, value).unwrap());
        }
        let name = ctdb_proto::FixedStr::new("name").unwrap();
        let (last, header) = writer.finish(name, DbFlags::STICKY, -1);
        buffers.extend(last);
        let file = [&header.to_bytes()[..], &buffers.concat()].concat();
        let backup = read(&file, cut).unwrap();
        prop_assert_eq!(backup.header, header);
        let back = backup.buffers.iter().flat_map(RecBuffer::iter);
        let back: Vec<_> = back.map(|record| (record.key.to_vec(), record.data.to_vec())).collect();
        prop_assert_eq!(back, records);
    }

    #[test]
    fn no_damage_goes_unsurvived(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: u8) {
        let mut file = PERSISTENT.to_vec();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(backup) = read(&file, cut.into()) {
            let buffers: usize = backup.buffers.iter().map(RecBuffer::wire_len).sum();
            prop_assert!(buffers <= file.len());
        }
    }
}
