//! Moves an amount between two accounts in a database that every node has a full copy of: both
//! change, on all nodes, or neither.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use bytes::Bytes;
use ctdb_client::Transaction;
use ctdb_proto::DbFlags;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [here, there] = common::connect().await?;
    let name = "example_accounts.tdb";
    let here = here.attach(name, DbFlags::PERSISTENT).await?;
    let there = there.attach(name, DbFlags::PERSISTENT).await?;

    let mut transaction = here.transaction().await?;
    let (alice, bob) = (
        balance(&transaction, "alice").await?,
        balance(&transaction, "bob").await?,
    );
    transaction.store("alice", (alice - 5).to_string()).await?;
    transaction.store("bob", (bob + 5).to_string()).await?;
    // What it has changed the transaction sees, and nobody else.
    assert_eq!(balance(&transaction, "bob").await?, bob + 5);
    assert_eq!(
        there.fetch("bob").await?.map_or(0, |data| amount(&data)),
        bob
    );
    transaction.commit().await?;

    // Many may read at a time; nothing changes while they do.
    let reading = there.read_transaction().await?;
    let after = (
        balance(&reading, "alice").await?,
        balance(&reading, "bob").await?,
    );
    reading.cancel().await?;
    println!(
        "alice has {}, bob has {}, after {} changes",
        after.0,
        after.1,
        there.sequence_number().await?
    );
    assert_eq!(after, (alice - 5, bob + 5));

    // Given up: nothing has happened.
    let mut transaction = here.transaction().await?;
    transaction.delete("alice").await?;
    transaction.cancel().await?;
    assert_eq!(
        there.fetch("alice").await?,
        Some(Bytes::from((alice - 5).to_string()))
    );
    Ok(())
}

async fn balance(transaction: &Transaction<'_>, who: &'static str) -> common::Result<i64> {
    Ok(transaction
        .fetch(who)
        .await?
        .map_or(0, |data| amount(&data)))
}

fn amount(data: &[u8]) -> i64 {
    let text = std::str::from_utf8(data).unwrap_or_default();
    text.parse().unwrap_or(0)
}
