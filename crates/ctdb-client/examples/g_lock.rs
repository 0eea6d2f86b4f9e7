//! Two clients want to do something that only one in the cluster may do at a time.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use ctdb_client::GLocks;
use ctdb_proto::GLockType;

const NAME: &str = "example nightly backup";

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [one, two] = common::connect().await?;
    let (first, second) = (GLocks::attach(&one).await?, GLocks::attach(&two).await?);

    let lock = first.lock(NAME, GLockType::Write, 0).await?;
    assert!(second.try_lock(NAME, GLockType::Write, 0).await?.is_none());
    for entry in second.holders(NAME).await? {
        println!(
            "process {} of node {} is at work",
            entry.holder.pid, entry.holder.vnn
        );
    }
    lock.unlock().await?;

    // A lock goes with the connection of its holder.
    let _lost = first.lock(NAME, GLockType::Write, 0).await?;
    one.close();
    let lock = second.lock(NAME, GLockType::Write, 0).await?;
    println!("the holder has gone; the lock is ours");
    lock.unlock().await?;
    assert!(second.holders(NAME).await?.is_empty());
    Ok(())
}
