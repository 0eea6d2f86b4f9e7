//! Records of databases: dumping them, and reading and writing one (`cli.md` 2.7).

use std::ops::ControlFlow;

use ctdb_proto::control::{KeyData, TraverseStart, TraverseStartExt};
use ctdb_proto::{RecData, RecordHeader, ReqId, Srvid, Wire};
use tdb::Db;

use crate::context::Context;
use crate::database::attach_argument;
use crate::exit::{EIO, Failure, Outcome};
use crate::fetch_lock::{Record, store, with_record};
use crate::output::{print, print_bytes};
use crate::records::dump;

/// Dumps a database as the whole cluster has it: the newest copy of each record.
pub(crate) async fn catdb(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let (database, _) = attach_argument(context, false).await?;
    let limit = Some(context.limit());
    let srvid = Srvid::new(Srvid::RANGE_CLIENT.get() | u64::from(std::process::id()));
    let mut messages = context.client.subscribe(srvid, limit).await?;
    let start = TraverseStart {
        db_id: database.id,
        reqid: ReqId::new(0),
        srvid,
    };
    let traverse = TraverseStartExt {
        start,
        with_empty_records: false,
    };
    context
        .here()
        .traverse_start_ext(&traverse)
        .await
        .map_err(|error| {
            let code = error.code();
            Failure::with_code(code, format!("traverse: control failed, ret={code}"))
        })?;
    let mut count = 0_u32;
    loop {
        let message = messages.receive().await?;
        let Ok(record) = RecData::decode(&mut message.data.clone()) else {
            return Err(Failure::silent(EIO));
        };
        if record.is_end() {
            break;
        }
        let Ok((header, data)) = record.split() else {
            return Err(Failure::silent(EIO));
        };
        // Daemons leave out empty records of volatile databases only.
        if !data.is_empty() {
            print(&dump(&record.key, &header, data))?;
            count += 1;
        }
    }
    print(&format!("Dumped {count} records\n")).map(|()| 0)
}

/// Dumps the local TDB file of a database, empty records too.
pub(crate) async fn cattdb(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let (_, db) = attach_argument(context, false).await?;
    let count = dump_local(&db)?;
    print(&format!("Dumped {count} record(s)\n")).map(|()| 0)
}

fn dump_local(db: &Db) -> Result<u64, Failure> {
    let mut stopped = None;
    let visited = db.traverse_read(&mut |key, value| {
        let printed = match RecordHeader::split(value) {
            Ok((header, data)) => print(&dump(key, &header, data)),
            Err(_) => Err(Failure::silent(EIO)),
        };
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                stopped = Some(failure);
                ControlFlow::Break(())
            }
        }
    });
    match stopped {
        Some(failure) => Err(failure),
        None => visited.map_err(|error| Failure::with_code(EIO, error.to_string())),
    }
}

pub(crate) async fn readkey(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=3)?;
    let readonly = match context.arguments.text(2).as_deref() {
        None => false,
        Some("readonly") => true,
        Some(_) => return Err(Failure::Usage),
    };
    let (database, db) = attach_argument(context, true).await?;
    let key = context.arguments.data(1, "key")?;
    let read = |_: &Db, record: &Record| Ok(record.data.clone());
    let data = with_record(context, &database, &db, &key, readonly, read).await;
    let data = data.map_err(|failure| {
        let key = context.arguments.text(1).unwrap_or_default();
        failure.and(format!("Failed to read record for key {key}"))
    })?;
    print(&format!("Data: size:{} ptr:[", data.len()))?;
    // The original prints a C string.
    print_bytes(data.split(|byte| *byte == 0).next().unwrap_or_default())?;
    print("]\n").map(|()| 0)
}

pub(crate) async fn writekey(context: &Context) -> Outcome {
    context.arguments.expect_count(3..=3)?;
    let (database, db) = attach_argument(context, true).await?;
    let key = context.arguments.data(1, "key")?;
    let value = context.arguments.data(2, "value")?;
    let name = context.arguments.text(0).unwrap_or_default();
    let store = |db: &Db, record: &Record| Ok(store(db, &key, &record.header, &value));
    let stored = with_record(context, &database, &db, &key, false, store).await;
    // The original names the database here where it means the key.
    let stored =
        stored.map_err(|failure| failure.and(format!("Failed to lock record for key {name}")))?;
    stored.map_err(|failure| {
        let key = context.arguments.text(1).unwrap_or_default();
        failure.and(format!("Failed to store record for key {key}"))
    })?;
    Ok(0)
}

pub(crate) async fn deletekey(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let (database, db) = attach_argument(context, true).await?;
    let key = context.arguments.data(1, "key")?;
    let shown = context.arguments.text(1).unwrap_or_default();
    let clear =
        |db: &Db, record: &Record| Ok(store(db, &key, &record.header, b"").map(|()| record.header));
    let cleared = with_record(context, &database, &db, &key, false, clear).await;
    let cleared = cleared
        .map_err(|failure| failure.and(format!("Failed to fetch record for key {shown}")))?;
    let header = cleared
        .map_err(|failure| failure.and(format!("Failed to delete record for key {shown}")))?;
    let record = KeyData {
        db_id: database.id,
        header,
        key: key.into(),
    };
    // The record is gone either way; this only has its remains cleaned up.
    let _ = context.here().schedule_for_deletion(&record).await;
    Ok(0)
}
