//! Goes through all records of a database, wherever in the cluster they are.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use ctdb_proto::DbFlags;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [one, two] = common::connect().await?;
    let name = "example_traverse.tdb";
    let one = one.attach(name, DbFlags::empty()).await?;
    let two = two.attach(name, DbFlags::empty()).await?;
    for (database, keys) in [(&one, 0..3), (&two, 3..6)] {
        for key in keys {
            let mut record = database.fetch_lock(format!("key {key}")).await?;
            record
                .store(format!("written on node {}", database.pnn()))
                .await?;
        }
    }

    let mut count = 0;
    let mut records = one.traverse(false).await?;
    while let Some((key, record)) = records.next().await? {
        println!(
            "{}: {} (rsn {}, dmaster {})",
            key.escape_ascii(),
            record.data.escape_ascii(),
            record.header.rsn,
            record.header.dmaster
        );
        count += 1;
    }
    assert_eq!(count, 6, "every record comes, and once");

    let local = one.traverse_local().await?;
    println!(
        "the file of node {} has {} of them, or older copies",
        one.pnn(),
        local.len()
    );
    Ok(())
}
