//! Traverses: all records of a database, from all nodes (`data-plane.md` 9).

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use ctdb_proto::control::{TraverseStart, TraverseStartExt};
use ctdb_proto::{Dest, RecData, RecordHeader, ReqId, Srvid, Wire};

use crate::client::Client;
use crate::database::Database;
use crate::error::RecordError;
use crate::file::Record;
use crate::message::Subscription;

/// A running traverse. Dropped before its end it goes on in the daemon until the connection ends.
#[derive(Debug)]
pub struct Traverse {
    client: Client,
    records: Subscription,
    ended: bool,
}

impl Database {
    /// Starts to send all records of the database, each from the node that has its newest copy.
    ///
    /// Take the records without delay: while [`MESSAGE_QUEUE`](crate::message::MESSAGE_QUEUE) of
    /// them wait, nothing else is read from the connection. There is no snapshot: a record that
    /// moves meanwhile may come twice or not at all, and when a node does not answer the traverse
    /// ends, after `TraverseTimeout`, as if it were complete.
    pub async fn traverse(&self, with_empty_records: bool) -> Result<Traverse, RecordError> {
        let client = self.client().clone();
        let srvid = new_srvid();
        let records = client.subscribe(srvid, None).await?;
        // From here on dropping it leaves nothing behind but the registration.
        let traverse = Traverse {
            client,
            records,
            ended: false,
        };
        let order = TraverseStartExt {
            start: TraverseStart {
                db_id: self.id(),
                reqid: ReqId::new(0),
                srvid,
            },
            with_empty_records,
        };
        let here = traverse.client.node(Dest::Current, None);
        here.traverse_start_ext(&order).await?;
        Ok(traverse)
    }
}

impl Traverse {
    /// The next record, in no particular order; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Record)>, RecordError> {
        if self.ended {
            return Ok(None);
        }
        let message = self.records.receive().await?;
        let mut record = RecData::decode(&mut message.data.clone())?;
        if record.is_end() {
            self.ended = true;
            self.client.unsubscribe(self.records.srvid(), None).await?;
            return Ok(None);
        }
        let (header, _) = record.split()?;
        let data = record.data.split_off(RecordHeader::LEN);
        Ok(Some((record.key, Record { header, data })))
    }
}

impl Drop for Traverse {
    fn drop(&mut self) {
        if !self.ended {
            // Else records that nobody takes would hold up the connection.
            self.client.shared.routes.remove(self.records.srvid());
        }
    }
}

/// An address that no other traverse of this node has: pid, and a counter above it.
fn new_srvid() -> Srvid {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % (1 << 24);
    let pid = u64::from(std::process::id());
    Srvid::new(Srvid::RANGE_CLIENT.get() | u64::from(count) << 32 | pid)
}
