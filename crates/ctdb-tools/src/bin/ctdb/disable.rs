//! Having nodes refrain from something for a while, and waiting until all do (`cli.md` 2.5,
//! "disable and wait").

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ctdb_client::Subscription;
use ctdb_proto::{DisableMessage, Pnn, Srvid, Wire};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::exit::Failure;

/// Has all these nodes refrain from what the srvid stands for; `time` zero: no longer. Waits until
/// all have answered. One that refuses, or does not answer in time, is a failure.
///
/// The original takes silence for consent.
pub(crate) async fn disable(
    context: &mut Context,
    what: &Disabled,
    nodes: &[Pnn],
    time: Duration,
) -> Result<(), Failure> {
    let mut replies = context.reply_subscription().await?;
    let request = DisableMessage {
        pnn: Some(context.local),
        srvid: replies.srvid(),
        timeout: time,
    };
    let mut data = BytesMut::new();
    request.encode(&mut data);
    let data = data.freeze();
    for pnn in nodes {
        let client = &context.client;
        client
            .send_message((*pnn).into(), what.srvid, data.clone())
            .await?;
    }
    let result = wait_for_all(&mut replies, nodes, context.limit()).await;
    // What was asked for is done or not, whatever becomes of the registration.
    let _ = context
        .client
        .unsubscribe(replies.srvid(), Some(context.limit()))
        .await;
    match result? {
        Answers::All => Ok(()),
        Answers::Refused => Err(Failure::silent(1)),
        Answers::Missing => Err(Failure::new(format!(
            "Timed out waiting to disable {}",
            what.name
        ))),
    }
}

/// Something that nodes can refrain from.
pub(crate) struct Disabled {
    pub(crate) srvid: Srvid,
    pub(crate) name: &'static str,
}

/// What came of a request to all nodes.
#[derive(Debug, Eq, PartialEq)]
enum Answers {
    All,
    Refused,
    Missing,
}

async fn wait_for_all(
    replies: &mut Subscription,
    nodes: &[Pnn],
    limit: Duration,
) -> Result<Answers, Failure> {
    let deadline = Instant::now() + limit;
    let mut missing: BTreeSet<u32> = nodes.iter().map(|pnn| pnn.get()).collect();
    while !missing.is_empty() {
        let Ok(message) = timeout_at(deadline, replies.receive()).await else {
            return Ok(Answers::Missing);
        };
        match result_of(&message?.data).map(u32::try_from) {
            Some(Ok(pnn)) => _ = missing.remove(&pnn),
            Some(Err(_)) => return Ok(Answers::Refused),
            None => {}
        }
    }
    Ok(Answers::All)
}

/// A reply is the number of the node, or a negative number; others are ignored.
fn result_of(data: &Bytes) -> Option<i32> {
    (data.len() == 4)
        .then(|| i32::decode(&mut data.as_ref()).ok())
        .flatten()
}
