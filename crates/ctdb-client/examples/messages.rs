//! One client waits for messages at an address, another sends to it.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use bytes::Bytes;
use ctdb_proto::{Dest, Pnn, Srvid};

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [alice, bob] = common::connect().await?;
    let srvid = Srvid::new(Srvid::RANGE_TEST.get() | 7);
    let mut letters = alice.subscribe(srvid, None).await?;

    // To one node, and to all of them.
    let pnn = alice.node(Dest::Current, None).get_pnn().await?;
    let pnn = Pnn::new(pnn).ok_or("a node has a number")?;
    bob.send_message(pnn.into(), srvid, Bytes::from("hello"))
        .await?;
    bob.send_message(Dest::Connected, srvid, Bytes::from("hello, all"))
        .await?;

    for expected in ["hello", "hello, all"] {
        let letter = letters.receive().await?;
        println!("{}", letter.data.escape_ascii());
        assert_eq!(letter.data, expected);
    }
    alice.unsubscribe(srvid, None).await?;
    Ok(())
}
