//! Records of databases: dumping them, and reading and writing one (`cli.md` 2.7).

use std::ops::ControlFlow;

use ctdb_client::{RecordError, Traverse};
use ctdb_proto::RecordHeader;
use tdb::Db;

use crate::context::Context;
use crate::database::attach_argument;
use crate::exit::{EINVAL, EIO, Failure, Outcome};
use crate::output::{print, print_bytes};
use crate::record_failure::record_failure;
use crate::records::dump;

/// Dumps a database as the whole cluster has it: the newest copy of each record.
pub(crate) async fn catdb(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let (_, attached) = attach_argument(context, false).await?;
    let traverse = attached
        .traverse(false)
        .await
        .map_err(|error| match error {
            RecordError::Control(error) => {
                let code = error.code();
                Failure::with_code(code, format!("traverse: control failed, ret={code}"))
            }
            other => record_failure(attached.name(), other),
        })?;
    let count = dump_all(traverse).await?;
    print(&format!("Dumped {count} records\n")).map(|()| 0)
}

/// Shows what a traverse brings, and counts it.
async fn dump_all(mut traverse: Traverse) -> Result<u32, Failure> {
    let mut count = 0;
    let bad = |error| match error {
        RecordError::Closed(closed) => closed.into(),
        _ => Failure::silent(EIO),
    };
    while let Some((key, record)) = traverse.next().await.map_err(bad)? {
        // Daemons leave out empty records of volatile databases only.
        if !record.data.is_empty() {
            print(&dump(&key, &record.header, &record.data))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Dumps the local TDB file of a database, empty records too.
pub(crate) async fn cattdb(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let (database, attached) = attach_argument(context, false).await?;
    let count = attached.with_file(dump_local).await;
    let count = count.map_err(|error| record_failure(&database.name, error))??;
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
    let (database, attached) = attach_argument(context, true).await?;
    let key = context.arguments.data(1, "key")?;
    let data = if readonly {
        attached.fetch_readonly(key).await.map(|record| record.data)
    } else {
        let locked = attached.fetch_lock(key).await;
        locked.map(|record| record.data().clone())
    };
    let data = data.map_err(|error| {
        let key = context.arguments.text(1).unwrap_or_default();
        let failure = record_failure(&database.name, error);
        failure.and(format!("Failed to read record for key {key}"))
    })?;
    print(&format!("Data: size:{} ptr:[", data.len()))?;
    // The original prints a C string.
    print_bytes(data.split(|byte| *byte == 0).next().unwrap_or_default())?;
    print("]\n").map(|()| 0)
}

pub(crate) async fn writekey(context: &Context) -> Outcome {
    context.arguments.expect_count(3..=3)?;
    let (database, attached) = attach_argument(context, true).await?;
    let key = context.arguments.data(1, "key")?;
    let value = context.arguments.data(2, "value")?;
    let name = context.arguments.text(0).unwrap_or_default();
    // The original names the database here where it means the key.
    let mut record = attached.fetch_lock(key).await.map_err(|error| {
        let failure = record_failure(&database.name, error);
        failure.and(format!("Failed to lock record for key {name}"))
    })?;
    record.store(value).await.map_err(|error| {
        let key = context.arguments.text(1).unwrap_or_default();
        store_failure(&error).and(format!("Failed to store record for key {key}"))
    })?;
    Ok(0)
}

pub(crate) async fn deletekey(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let (database, attached) = attach_argument(context, true).await?;
    let key = context.arguments.data(1, "key")?;
    let shown = context.arguments.text(1).unwrap_or_default();
    let record = attached.fetch_lock(key).await.map_err(|error| {
        let failure = record_failure(&database.name, error);
        failure.and(format!("Failed to fetch record for key {shown}"))
    })?;
    record.delete().await.map_err(|error| {
        store_failure(&error).and(format!("Failed to delete record for key {shown}"))
    })?;
    Ok(0)
}

fn store_failure(error: &RecordError) -> Failure {
    match error {
        RecordError::Closed(closed) => (*closed).into(),
        _ => Failure::silent(EINVAL),
    }
}
