use ctdb_core::collate::Collate;
use ctdb_proto::{DbFlags, RecordFlags, Rsn};
use tdb::OpenOptions as TdbOptions;

use super::*;

const ID: DbId = DbId(7);

fn pnn(raw: u32) -> Pnn {
    Pnn::new(raw).unwrap()
}

fn copy_of(from: u32, records: &[(u32, u64, usize)]) -> Bytes {
    let mut builder = RecBuffer::builder(ID);
    for (key, rsn, len) in records {
        let header = RecordHeader::new(Rsn(*rsn), pnn(from), RecordFlags::empty());
        let data = vec![u8::try_from(from).unwrap(); *len];
        builder.push_record(ReqId(0), &key.to_le_bytes(), &header, &data);
    }
    builder.finish().to_bytes()
}

fn records(batches: &[Bytes]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    for batch in batches {
        let buffer = RecBuffer::decode(&mut batch.clone()).unwrap();
        for record in &buffer {
            let twice = all.insert(record.key.to_vec(), record.data.to_vec());
            assert_eq!(twice, None);
        }
    }
    all
}

/// The keys of the records that `from` sends in each round.
type Keys = dyn Fn(&Db, u32) -> Vec<u32>;

/// Merges what three nodes send here, and by the rule in memory. Returns how large the file was.
fn merges_as_in_memory(rounds: u32, keys: &Keys) -> u64 {
    let db = TdbOptions::new()
        .hash_size(1000)
        .open_memory(Vec::new())
        .unwrap();
    let mut copies = Copies::new(std::env::temp_dir(), pnn(1));
    let mut expected = Collate::new(pnn(1));
    for round in 0..rounds {
        let from = round % 3;
        let keys = keys(&db, round / 3).into_iter();
        let batch: Vec<_> = keys
            .map(|key| {
                let (rsn, len) = ((key + from * 3) % 5, (key + from) % 1000);
                (key, u64::from(rsn), len as usize)
            })
            .collect();
        let bytes = copy_of(from, &batch);
        copies.add(&db, pnn(from), &bytes).unwrap();
        let buffer = RecBuffer::decode(&mut bytes.clone()).unwrap();
        expected.add(pnn(from), &buffer).unwrap();
    }
    let file_len = copies.file_len;
    let flags = DbFlags::empty();
    let rules = MergeRules {
        leader: pnn(1),
        flags,
        batch_limit: 10_000,
    };
    let mut batches = Vec::new();
    let emit = |batch| {
        batches.push(batch);
        true
    };
    let count = copies.read(ID, rules, emit).unwrap();
    let expected = expected.into_batches(ID, flags, 10_000);
    assert_eq!(count, expected.records);
    let (got, wanted) = (records(&batches), records(&expected.messages));
    assert!(got == wanted, "{} {} records", got.len(), wanted.len());
    file_len
}

/// More than what is kept in memory, in any order.
#[test]
fn what_goes_through_the_file_is_merged_as_in_memory() {
    let file_len = merges_as_in_memory(120, &|_, round| {
        let keys = (0..1000).map(|number| (round * 500 + number * 7) % 20_000);
        keys.collect()
    });
    assert!(file_len > KEEP as u64, "{file_len} bytes in the file");
}

/// The nodes go through their chains side by side.
#[test]
fn copies_that_lose_do_not_get_to_the_file() {
    let file_len = merges_as_in_memory(120, &|db, round| {
        let mut keys: Vec<u32> = (0..40_000).collect();
        keys.sort_by_key(|key| db.place_of(&key.to_le_bytes()));
        keys[round as usize * 1000..][..1000].to_vec()
    });
    // A third of the 62 MB, but for what has not been merged yet.
    assert!(file_len > 0 && file_len < 25_000_000, "{file_len} bytes");
}

#[test]
fn nothing_is_one_empty_batch() {
    let rules = MergeRules {
        leader: pnn(1),
        flags: DbFlags::empty(),
        batch_limit: 1000,
    };
    let mut batches = Vec::new();
    let count = Copies::new(PathBuf::new(), pnn(1)).read(ID, rules, |batch| {
        batches.push(batch);
        true
    });
    assert_eq!(count, Ok(0));
    assert_eq!(batches, [RecBuffer::empty(ID).to_bytes()]);
}
