//! `UPDATE_RECORD`, one record at a time: what a copy that another node sends does to ours
//! (data-plane.md 7.3).

use ctdb_proto::Rsn;

use crate::input::Record;

/// The record here is newer than the one that was sent: somebody works on old data.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("existing header has larger RSN {here} than new RSN {sent} in ctdb_persistent_store")]
pub struct UpdateRefused {
    pub here: Rsn,
    pub sent: Rsn,
}

/// Decides what to store for one record of `UPDATE_RECORD`: `old` is what is here, `new` what was
/// sent. `None` leaves the record alone. For a volatile database the result goes through
/// [`crate::migrate::server_store`], else it is stored as it is.
///
/// A volatile record that is not here needs no update. The same data with a lower rsn is accepted,
/// but here the record keeps its own header then; the original lets the rsn drop.
pub fn merge_update(
    old: Option<&Record>,
    new: &Record,
    volatile: bool,
) -> Result<Option<Record>, UpdateRefused> {
    let Some(old) = old else {
        return Ok((!volatile).then(|| new.clone()));
    };
    let (here, sent) = (old.header.rsn, new.header.rsn);
    if here < sent {
        return Ok(Some(new.clone()));
    }
    if old.data != new.data {
        return Err(UpdateRefused { here, sent });
    }
    Ok((here == sent).then(|| new.clone()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ctdb_proto::{Pnn, RecordFlags, RecordHeader};

    use super::*;

    fn record(rsn: u64, data: &'static [u8]) -> Record {
        let header = RecordHeader::new(Rsn(rsn), Pnn::new(1).unwrap(), RecordFlags::empty());
        Record {
            header,
            data: Bytes::from_static(data),
        }
    }

    #[test]
    fn each_case_of_an_update() {
        let refused = |here, sent| {
            Err(UpdateRefused {
                here: Rsn(here),
                sent: Rsn(sent),
            })
        };
        let new = record(5, b"new");
        for volatile in [false, true] {
            let merge = |old: &Record| merge_update(Some(old), &new, volatile);
            assert_eq!(merge(&record(4, b"old")), Ok(Some(new.clone())));
            assert_eq!(merge(&record(5, b"new")), Ok(Some(new.clone())));
            assert_eq!(merge(&record(5, b"old")), refused(5, 5));
            assert_eq!(merge(&record(5, b"")), refused(5, 5));
            assert_eq!(merge(&record(6, b"new")), Ok(None), "the rsn never drops");
            assert_eq!(merge(&record(6, b"old")), refused(6, 5));
        }
    }

    #[test]
    fn an_absent_record_is_created_unless_it_is_volatile() {
        let new = record(1, b"");
        assert_eq!(merge_update(None, &new, false), Ok(Some(new.clone())));
        assert_eq!(merge_update(None, &new, true), Ok(None));
    }
}
