//! Two clients speak a protocol of their own through a tunnel.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use bytes::Bytes;
use ctdb_client::Client;
use ctdb_proto::{Dest, Pnn, TunnelFlags, TunnelId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [asks, answers] = common::connect().await?;
    let (asking, answering) = (pnn(&asks).await?, pnn(&answers).await?);
    // A tunnel has one end on a node, and both ends the same id.
    let id = TunnelId::new(0xFFFF_FFFF_0000_0007);
    if asking == answering {
        return Err("name the sockets of two nodes".into());
    }
    let mut near = asks.open_tunnel(id, None).await?;
    let mut far = answers.open_tunnel(id, None).await?;

    // Who sends says who he is: the daemons do not tell.
    let question = Bytes::from(asking.to_string());
    near.send(answering, TunnelFlags::REQUEST, question).await?;
    let (_, from) = far.receive().await?;
    let from: u32 = std::str::from_utf8(&from)?.parse()?;
    let from = Pnn::new(from).ok_or("no node")?;
    far.send(from, TunnelFlags::REPLY, Bytes::from("well received"))
        .await?;

    let (flags, reply) = near.receive().await?;
    println!("node {answering} answers: {}", reply.escape_ascii());
    assert_eq!(
        (flags, &reply[..]),
        (TunnelFlags::REPLY, &b"well received"[..])
    );
    near.close(None).await?;
    far.close(None).await?;
    Ok(())
}

async fn pnn(client: &Client) -> common::Result<Pnn> {
    let pnn = client.node(Dest::Current, None).get_pnn().await?;
    Ok(Pnn::new(pnn).ok_or("a node has a number")?)
}
