//! Reading and storing a record of a volatile database: what an absent record means, when the rsn
//! grows, and when a store is a delete (data-plane.md 2.4, 2.5).

use bytes::Bytes;
use ctdb_proto::{DbId, Pnn, RecordFlags, RecordHeader, Rsn};

use super::job::{Deletion, Notes, Then, Verdict, Write};
use crate::input::Record;

/// What the server store makes of a header; see [`server_store`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stored {
    /// The header as it goes into the file.
    pub header: RecordHeader,
    /// Store the record; else delete it.
    pub keep: bool,
    /// The record is empty and of no use: put it into the delete queue.
    pub schedule_for_deletion: bool,
}

/// The store routine of volatile databases (data-plane.md 2.5).
///
/// The dmaster's stores raise the rsn, so that its copy stays the newest; those that give the
/// record away do not. An empty record is deleted instead where no one will ask for it: on a
/// node that is not its lmaster and gives it away, and on the lmaster to which vacuuming brought
/// it; unless it once had data, because then other nodes may have copies that only vacuuming
/// removes.
pub fn server_store(me: Pnn, lmaster: Pnn, header: RecordHeader, data: &[u8]) -> Stored {
    let (mine, flags) = (header.dmaster == me.get(), header.flags);
    let read_only = flags.intersects(RecordFlags::RO_FLAGS);
    let keep = !data.is_empty()
        || read_only
        || flags.intersects(RecordFlags::AUTOMATIC | RecordFlags::MIGRATED_WITH_DATA)
        || if me == lmaster {
            !(mine && flags.contains(RecordFlags::VACUUM_MIGRATED))
        } else {
            mine
        };
    let mut stored = header;
    stored
        .flags
        .remove(RecordFlags::VACUUM_MIGRATED | RecordFlags::AUTOMATIC);
    let mut schedule = data.is_empty() && !read_only && flags.contains(RecordFlags::AUTOMATIC);
    if keep && mine && !read_only {
        stored.rsn = Rsn(header.rsn.get().wrapping_add(1));
        schedule |= data.is_empty();
    }
    Stored {
        header: stored,
        keep,
        schedule_for_deletion: keep && schedule,
    }
}

/// A record between its lock and its write: as fetched, then as the handlers change it. The last
/// store decides what is written.
#[derive(Debug)]
pub(crate) struct Draft {
    me: Pnn,
    pub(super) lmaster: Pnn,
    pub(super) header: RecordHeader,
    pub(super) data: Bytes,
    pub(super) notes: Notes,
    action: Action,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Nothing,
    Store,
    Delete,
}

impl Draft {
    /// The record as read. An absent one belongs to its lmaster, which creates it at once.
    pub(super) fn fetch(record: Option<Record>, me: Pnn, lmaster: Pnn) -> Self {
        let absent = record.is_none();
        let record = record.unwrap_or_else(|| Record {
            header: RecordHeader::new(Rsn(0), lmaster, RecordFlags::AUTOMATIC),
            data: Bytes::new(),
        });
        let mut draft = Self::arrived(record.header, record.data, me, lmaster);
        if absent && lmaster == me {
            draft.store();
        }
        draft
    }

    /// A record that comes from elsewhere and replaces what is here.
    pub(super) fn arrived(header: RecordHeader, data: Bytes, me: Pnn, lmaster: Pnn) -> Self {
        let (notes, action) = (Notes::default(), Action::Nothing);
        Self {
            me,
            lmaster,
            header,
            data,
            notes,
            action,
        }
    }

    pub(super) fn is_mine(&self) -> bool {
        self.header.dmaster == self.me.get()
    }

    pub(super) fn store(&mut self) {
        let stored = server_store(self.me, self.lmaster, self.header, &self.data);
        self.header = stored.header;
        self.action = if stored.keep {
            Action::Store
        } else {
            Action::Delete
        };
        self.notes.deletion = if stored.schedule_for_deletion {
            Deletion::Schedule(stored.header)
        } else {
            Deletion::Forget
        };
    }

    /// Header and data in one, as `FETCH_WITH_HEADER` answers them.
    pub(super) fn header_and_data(&self) -> Bytes {
        join(&self.header, &self.data)
    }

    pub(super) fn verdict(self, db: DbId, key: Bytes, then: Then) -> Verdict {
        let write = match self.action {
            Action::Nothing => Write::Nothing,
            Action::Store => Write::Store {
                header: self.header,
                data: self.data,
            },
            Action::Delete => Write::Delete,
        };
        Verdict {
            write,
            db,
            key,
            notes: self.notes,
            then,
        }
    }
}

/// A header with its data behind it.
pub(super) fn join(header: &RecordHeader, data: &[u8]) -> Bytes {
    let mut both = Vec::with_capacity(RecordHeader::LEN + data.len());
    both.extend_from_slice(&header.to_bytes());
    both.extend_from_slice(data);
    both.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u32 = 1;
    const OTHER: u32 = 2;

    fn pnn(raw: u32) -> Pnn {
        Pnn::new(raw).unwrap()
    }

    /// (lmaster, dmaster, flags, data) -> (rsn after 7, keep, schedule)
    #[track_caller]
    fn check(
        lmaster: u32,
        dmaster: u32,
        flags: RecordFlags,
        data: &[u8],
        expected: (u64, bool, bool),
    ) {
        let header = RecordHeader::new(Rsn(7), pnn(dmaster), flags);
        let stored = server_store(pnn(ME), pnn(lmaster), header, data);
        let got = (
            stored.header.rsn.get(),
            stored.keep,
            stored.schedule_for_deletion,
        );
        assert_eq!(got, expected);
        let memory_only = RecordFlags::VACUUM_MIGRATED | RecordFlags::AUTOMATIC;
        assert_eq!(stored.header.flags, flags - memory_only);
        assert_eq!(stored.header.dmaster, dmaster);
    }

    #[test]
    fn each_row_of_the_server_store() {
        let none = RecordFlags::empty();
        let with_data = RecordFlags::MIGRATED_WITH_DATA;
        let vacuum = RecordFlags::VACUUM_MIGRATED;
        for lmaster in [ME, OTHER] {
            // Data not empty.
            check(lmaster, ME, none, b"x", (8, true, false));
            check(lmaster, OTHER, none, b"x", (7, true, false));
            check(lmaster, ME, vacuum, b"x", (8, true, false));
            // Any read-only flag set: no bump.
            for bit in [0x0100_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000] {
                let flag = RecordFlags::from_bits_retain(bit);
                check(lmaster, ME, flag, b"", (7, true, false));
                check(lmaster, ME, flag, b"x", (7, true, false));
                check(lmaster, OTHER, flag, b"", (7, true, false));
            }
            // AUTOMATIC.
            check(lmaster, ME, RecordFlags::AUTOMATIC, b"", (8, true, true));
            check(lmaster, OTHER, RecordFlags::AUTOMATIC, b"", (7, true, true));
            // MIGRATED_WITH_DATA.
            check(lmaster, ME, with_data, b"", (8, true, true));
            check(lmaster, ME, with_data | vacuum, b"", (8, true, true));
            check(lmaster, OTHER, with_data, b"", (7, true, false));
        }
        // This node is lmaster: VACUUM_MIGRATED and ours, or otherwise.
        check(ME, ME, vacuum, b"", (7, false, false));
        check(ME, OTHER, vacuum, b"", (7, true, false));
        check(ME, ME, none, b"", (8, true, true));
        check(ME, OTHER, none, b"", (7, true, false));
        // Not lmaster: ours, or otherwise.
        check(OTHER, ME, none, b"", (8, true, true));
        check(OTHER, ME, vacuum, b"", (8, true, true));
        check(OTHER, OTHER, none, b"", (7, false, false));
    }

    #[test]
    fn an_absent_record_is_created_by_its_lmaster_only() {
        let here = Draft::fetch(None, pnn(ME), pnn(ME));
        assert_eq!(
            here.header,
            RecordHeader::new(Rsn(1), pnn(ME), RecordFlags::empty())
        );
        assert_eq!(here.notes.deletion, Deletion::Schedule(here.header));
        let expected = Write::Store {
            header: here.header,
            data: Bytes::new(),
        };
        assert_eq!(
            here.verdict(DbId(1), Bytes::new(), Then::Drop).write,
            expected
        );

        let there = Draft::fetch(None, pnn(ME), pnn(OTHER));
        assert_eq!(
            there.header,
            RecordHeader::new(Rsn(0), pnn(OTHER), RecordFlags::AUTOMATIC)
        );
        assert_eq!(
            there.verdict(DbId(1), Bytes::new(), Then::Drop).write,
            Write::Nothing
        );
    }
}
