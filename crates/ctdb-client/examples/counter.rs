//! Two clients count in one record: it migrates to whoever fetches it, and no count is lost.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use ctdb_client::{Database, RecordError};
use ctdb_proto::DbFlags;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [one, two] = common::connect().await?;
    let one = one.attach("example_counter.tdb", DbFlags::empty()).await?;
    let two = two.attach("example_counter.tdb", DbFlags::empty()).await?;

    let before = count(&one).await?;
    tokio::try_join!(add(&one, 100), add(&two, 100))?;
    let after = count(&two).await?;
    println!("{before} + 100 + 100 = {after}");
    if after != before + 200 {
        return Err("counts were lost".into());
    }

    // An empty record is a deleted one; its remains go in time.
    one.fetch_lock("visitors").await?.delete().await?;
    assert_eq!(two.fetch("visitors").await?, None);
    Ok(())
}

async fn add(database: &Database, times: u32) -> Result<(), RecordError> {
    for _ in 0..times {
        // Nobody else in the cluster has the record until it is dropped.
        let mut record = database.fetch_lock("visitors").await?;
        let count = number(record.data()) + 1;
        record.store(count.to_string()).await?;
    }
    Ok(())
}

/// Reads the record where it is, without moving it.
async fn count(database: &Database) -> Result<u64, RecordError> {
    Ok(database.parse("visitors", number).await?.unwrap_or(0))
}

fn number(data: &[u8]) -> u64 {
    std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
