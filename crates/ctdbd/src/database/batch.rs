//! Record buffers out of a file and into it.

use std::ops::ControlFlow;

use bytes::Bytes;
use ctdb_core::migrate::server_store;
use ctdb_proto::{
    DbId, Pnn, RecBuffer, RecBufferBuilder, RecordFlags, RecordHeader, ReqId, VnnMap, Wire,
};
use tdb::{Db, KeyPlace, StoreMode};

/// Which records are of interest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    /// Only those of this dmaster.
    pub(crate) dmaster: Option<Pnn>,
    /// Those with data.
    pub(crate) full: bool,
    /// Those that consist of a header only.
    pub(crate) empty: bool,
}

impl Selection {
    /// Everything that has a header.
    pub(crate) const ALL: Self = Self {
        dmaster: None,
        full: true,
        empty: true,
    };

    fn takes(&self, value: &[u8]) -> bool {
        let Ok((header, data)) = RecordHeader::split(value) else {
            return false;
        };
        self.dmaster
            .is_none_or(|dmaster| header.dmaster == dmaster.get())
            && if data.is_empty() {
                self.empty
            } else {
                self.full
            }
    }
}

/// Reads records into buffers that are closed when they reach `limit` bytes, and hands those to
/// `emit`, which answers whether to go on. Returns the number of records.
pub(crate) fn read_records(
    db: &Db,
    id: DbId,
    selection: Selection,
    limit: usize,
    mut emit: impl FnMut(Bytes) -> bool,
) -> tdb::Result<u32> {
    let mut builder = RecBuffer::builder(id);
    let mut count = 0;
    let mut go_on = true;
    db.traverse_read(&mut |key, value| {
        let mut close = |builder: &mut RecBufferBuilder| {
            let full = std::mem::replace(builder, RecBuffer::builder(id));
            go_on = go_on && emit(full.finish().to_bytes());
        };
        if selection.takes(value) {
            if !builder.has_room_for(key.len(), value.len()) {
                close(&mut builder);
            }
            builder.push(ReqId(0), key, value);
            count += 1;
        }
        if builder.count() > 0 && builder.wire_len() >= limit {
            close(&mut builder);
        }
        if go_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    if go_on && builder.count() > 0 {
        emit(builder.finish().to_bytes());
    }
    Ok(count)
}

/// Knows of records that are pushed into an empty database which of them are new, without looking
/// for them: those that come in the order of their places and keys, as our leaders send them.
#[derive(Debug, Default)]
pub(crate) struct Ascent {
    /// The last record, or none yet; `None` when nothing is known.
    last: Option<(KeyPlace, Vec<u8>)>,
}

impl Ascent {
    /// The database is empty.
    pub(crate) fn of_empty() -> Self {
        let last = Some((KeyPlace::default(), Vec::new()));
        Self { last }
    }

    /// How the next record may be stored.
    fn mode(&mut self, db: &Db, key: &[u8]) -> StoreMode {
        let place = db.place_of(key);
        match &mut self.last {
            Some((last_place, last_key)) if (*last_place, &last_key[..]) < (place, key) => {
                *last_place = place;
                last_key.clear();
                last_key.extend_from_slice(key);
                StoreMode::New
            }
            last => {
                *last = None;
                StoreMode::Replace
            }
        }
    }
}

/// Stores the records of a buffer that a recovery pushes. Returns how many were stored; those that
/// could not be are logged and left out, so that the count tells.
pub(crate) fn push_records(
    db: &Db,
    me: Pnn,
    mut records: &[u8],
    vnn_map: Option<&VnnMap>,
    ascent: &mut Ascent,
) -> Result<u32, String> {
    let buffer = RecBuffer::decode(&mut records).map_err(|error| error.to_string())?;
    buffer.check_headers().map_err(|error| error.to_string())?;
    let mut count = 0;
    for record in &buffer {
        let (mut header, data) = record.split().map_err(|error| error.to_string())?;
        header.flags.remove(RecordFlags::RO_FLAGS);
        let mode = ascent.mode(db, record.key);
        match store_in(mode, db, me, record.key, header, data, vnn_map) {
            Ok(()) => count += 1,
            Err(error) => tracing::error!("a record of a recovery cannot be stored: {error}"),
        }
    }
    Ok(count)
}

/// Stores a record as it is, or, with a vnn map, by the rule of volatile databases: that may raise
/// its rsn, or delete it.
pub(crate) fn store(
    db: &Db,
    me: Pnn,
    key: &[u8],
    header: RecordHeader,
    data: &[u8],
    volatile: Option<&VnnMap>,
) -> tdb::Result<()> {
    store_in(StoreMode::Replace, db, me, key, header, data, volatile)
}

fn store_in(
    mode: StoreMode,
    db: &Db,
    me: Pnn,
    key: &[u8],
    header: RecordHeader,
    data: &[u8],
    volatile: Option<&VnnMap>,
) -> tdb::Result<()> {
    let (header, keep) = match volatile.and_then(|map| map.lmaster(key)) {
        Some(lmaster) => {
            let stored = server_store(me, lmaster, header, data);
            (stored.header, stored.keep)
        }
        None => (header, true),
    };
    if keep {
        db.store_parts(key, &[&header.to_bytes(), data], mode)
    } else {
        // It is no error if it is not there.
        db.delete(key).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use ctdb_proto::Rsn;
    use tdb::OpenOptions;

    use super::*;

    const ID: DbId = DbId(7);

    fn pnn(number: u32) -> Pnn {
        Pnn::new(number).unwrap()
    }

    fn database(records: &[(&str, u32, &str)]) -> Db {
        let db = OpenOptions::new().open_memory(Vec::new()).unwrap();
        for (key, dmaster, data) in records {
            let header = RecordHeader::new(Rsn(5), pnn(*dmaster), RecordFlags::empty());
            store(&db, pnn(0), key.as_bytes(), header, data.as_bytes(), None).unwrap();
        }
        db
    }

    fn keys(buffer: &[u8]) -> Vec<String> {
        let buffer = RecBuffer::decode(&mut &buffer[..]).unwrap();
        assert_eq!(buffer.db_id(), ID);
        buffer
            .iter()
            .map(|r| String::from_utf8(r.key.to_vec()).unwrap())
            .collect()
    }

    fn read(db: &Db, selection: Selection, limit: usize) -> (u32, Vec<String>, usize) {
        let (mut all, mut batches) = (Vec::new(), 0);
        let count = read_records(db, ID, selection, limit, |buffer| {
            all.extend(keys(&buffer));
            batches += 1;
            true
        });
        all.sort();
        (count.unwrap(), all, batches)
    }

    #[test]
    fn buffers_are_closed_at_the_limit_and_hold_everything() {
        let db = database(&[("a", 0, "1"), ("b", 0, "2"), ("c", 0, "3")]);
        db.store(b"short", b"no header", StoreMode::Replace)
            .unwrap();
        let everything = vec!["a".to_owned(), "b".into(), "c".into()];
        assert_eq!(read(&db, Selection::ALL, 1), (3, everything.clone(), 3));
        assert_eq!(read(&db, Selection::ALL, 1_000_000), (3, everything, 1));
    }

    #[test]
    fn a_traverse_takes_its_own_records_with_data() {
        let db = database(&[("mine", 1, "x"), ("empty", 1, ""), ("other", 2, "x")]);
        let mine = Selection {
            dmaster: Some(pnn(1)),
            full: true,
            empty: false,
        };
        assert_eq!(read(&db, mine, 1000).1, ["mine"]);
        let both = Selection {
            empty: true,
            ..mine
        };
        assert_eq!(read(&db, both, 1000).1, ["empty", "mine"]);
        let only_empty = Selection {
            full: false,
            ..both
        };
        assert_eq!(read(&db, only_empty, 1000).1, ["empty"]);
    }

    #[test]
    fn reading_stops_when_nobody_wants_more() {
        let db = database(&[("a", 0, "1"), ("b", 0, "2"), ("c", 0, "3")]);
        let mut batches = 0;
        let _ = read_records(&db, ID, Selection::ALL, 1, |_| {
            batches += 1;
            false
        });
        assert_eq!(batches, 1);
    }

    #[test]
    fn to_delete_what_is_not_there_is_no_error() {
        let db = database(&[]);
        // Empty, leaving a node that is not its lmaster, never left with data: it is not kept.
        let map = VnnMap {
            generation: ctdb_proto::Generation(5),
            map: vec![pnn(1)],
        };
        let header = RecordHeader::new(Rsn(5), pnn(2), RecordFlags::empty());
        for _ in 0..2 {
            store(&db, pnn(0), b"key", header, b"", Some(&map)).unwrap();
            assert_eq!(db.count_records().unwrap(), 0);
        }
    }

    #[test]
    fn pushed_records_lose_their_read_only_flags() {
        let source = RecBuffer::builder(ID);
        let flags = RecordFlags::RO_HAVE_DELEGATIONS | RecordFlags::MIGRATED_WITH_DATA;
        let header = RecordHeader::new(Rsn(9), pnn(0), flags);
        let mut builder = source;
        builder.push_record(ReqId(0), b"key", &header, b"data");
        let db = database(&[]);
        let bytes = builder.finish().to_bytes();
        let ascent = &mut Ascent::default();
        assert_eq!(push_records(&db, pnn(0), &bytes, None, ascent), Ok(1));
        let value = db.fetch(b"key").unwrap().unwrap();
        let (stored, data) = RecordHeader::split(&value).unwrap();
        assert_eq!(data, b"data");
        assert_eq!(stored.flags, RecordFlags::MIGRATED_WITH_DATA);
        assert_eq!(stored.rsn, Rsn(9));
    }

    #[test]
    fn a_record_that_is_pushed_twice_is_stored_once() {
        let db = database(&[]);
        let mut keys: Vec<_> = (0..500_u32).map(u32::to_le_bytes).collect();
        keys.sort_unstable_by_key(|key| (db.place_of(key), *key));
        let again = keys[250];
        keys.push(again);
        let mut builder = RecBuffer::builder(ID);
        for (place, key) in keys.iter().enumerate() {
            let header = RecordHeader::new(Rsn(1), pnn(0), RecordFlags::empty());
            builder.push_record(ReqId(0), key, &header, place.to_string().as_bytes());
        }
        let bytes = builder.finish().to_bytes();
        let ascent = &mut Ascent::of_empty();
        assert_eq!(push_records(&db, pnn(0), &bytes, None, ascent), Ok(501));
        assert_eq!(db.count_records().unwrap(), 500);
        assert!(db.fetch(&again).unwrap().unwrap().ends_with(b"500"));
        assert_eq!(db.check().unwrap().records, 500);
    }

    #[test]
    fn a_buffer_that_is_none_is_refused_as_a_whole() {
        let db = database(&[]);
        let ascent = &mut Ascent::of_empty();
        assert!(push_records(&db, pnn(0), &[1, 2, 3], None, ascent).is_err());
        let mut builder = RecBuffer::builder(ID);
        builder.push(ReqId(0), b"key", b"no header");
        let bytes = builder.finish().to_bytes();
        assert!(push_records(&db, pnn(0), &bytes, None, ascent).is_err());
        assert_eq!(db.count_records().unwrap(), 0);
    }
}
