//! Asking the leader for a takeover run and waiting for its end (`cli.md` 2.5, ipreallocate).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ctdb_client::Subscription;
use ctdb_proto::{Dest, Srvid, SrvidMessage, Wire};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::exit::{Failure, Outcome};

/// Asks until somebody answers: only the leader does, and there may be none for a while. The
/// result is the leader's, 0 or a negative number.
pub(crate) async fn takeover_run(context: &mut Context) -> Outcome {
    let mut replies = context.reply_subscription().await?;
    let question = SrvidMessage {
        pnn: Some(context.local),
        srvid: replies.srvid(),
    };
    let mut data = BytesMut::new();
    question.encode(&mut data);
    let data = data.freeze();
    let result = loop {
        context
            .client
            .send_message(Dest::Connected, Srvid::TAKEOVER_RUN, data.clone())
            .await?;
        // With `-t 0` the original floods the cluster with questions.
        let patience = context.limit().max(Duration::from_secs(1));
        if let Some(result) = answer(&mut replies, patience).await? {
            break result;
        }
    };
    // The takeover run is over, whatever becomes of the registration.
    let _ = context
        .client
        .unsubscribe(replies.srvid(), Some(context.limit()))
        .await;
    Ok(result.min(0))
}

/// The first reply of four bytes; others are ignored. `None` when the time is up.
async fn answer(replies: &mut Subscription, patience: Duration) -> Result<Option<i32>, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let Ok(message) = timeout_at(deadline, replies.receive()).await else {
            return Ok(None);
        };
        if let Some(result) = result_of(&message?.data) {
            return Ok(Some(result));
        }
    }
}

fn result_of(data: &Bytes) -> Option<i32> {
    (data.len() == 4)
        .then(|| i32::decode(&mut data.as_ref()).ok())
        .flatten()
}
