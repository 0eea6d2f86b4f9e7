//! One client leaves a message that the daemon sends when it ends, however it ends.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use bytes::Bytes;
use ctdb_proto::Srvid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [worker, watcher] = common::connect().await?;
    let srvid = Srvid::new(Srvid::RANGE_TEST.get() | 8);
    let mut ends = watcher.subscribe(srvid, None).await?;

    let will = Bytes::from("the worker has ended");
    worker.notify_at_exit(srvid, will.clone(), None).await?;
    drop(worker);

    let message = ends.receive().await?;
    println!("{}", message.data.escape_ascii());
    assert_eq!(message.data, will);
    Ok(())
}
