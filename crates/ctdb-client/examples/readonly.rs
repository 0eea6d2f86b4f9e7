//! Two clients read one record again and again. With read-only copies each node has one of its
//! own, until somebody writes.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use ctdb_proto::DbFlags;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [writer, reader] = common::connect().await?;
    let name = "example_readonly.tdb";
    let writer = writer.attach(name, DbFlags::READONLY).await?;
    let reader = reader.attach(name, DbFlags::READONLY).await?;

    for news in ["dawn", "noon", "dusk"] {
        // Takes back all copies first.
        let mut record = writer.fetch_lock("news").await?;
        record.store(news).await?;
        record.unlock();

        // The first brings a copy here; the others find it in the local file.
        for _ in 0..3 {
            let copy = reader.fetch_readonly("news").await?;
            println!(
                "{} (flags {:?})",
                copy.data.escape_ascii(),
                copy.header.flags
            );
            assert_eq!(copy.data, news);
        }
    }
    Ok(())
}
