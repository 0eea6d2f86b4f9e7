//! Controls: questions and orders to a daemon, and their results.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{Body, ClientId, ControlFlags, Dest, Opcode, ReplyControl, ReqControl, Srvid};

use crate::client::{Client, within};
use crate::error::{Closed, ControlError};
use crate::message::{Latest, Subscription};

impl Client {
    /// Sends a control as it is and waits for its reply, whatever its status. No limit: waits
    /// until the connection ends.
    pub async fn raw_control(
        &self,
        dest: Dest,
        request: ReqControl,
        limit: Option<Duration>,
    ) -> Result<ReplyControl, ControlError> {
        let reply = self.request(dest, Body::ReqControl(request));
        match within(limit, reply).await.ok_or(ControlError::Timeout)?? {
            Body::ReplyControl(reply) => Ok(reply),
            _ => Err(Closed.into()),
        }
    }

    /// Registers a srvid and queues all messages for it, until the subscription is dropped. The
    /// id stays registered with the daemon, see [`Self::unsubscribe`].
    pub async fn subscribe(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<Subscription, ControlError> {
        // Open the queue first: a message may overtake the reply.
        let subscription = self.shared.routes.queue(srvid)?;
        self.register(srvid, limit).await?;
        Ok(subscription)
    }

    /// Registers a srvid and keeps only the newest message for it.
    pub async fn watch(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<Latest, ControlError> {
        let latest = self.shared.routes.latest(srvid)?;
        self.register(srvid, limit).await?;
        Ok(latest)
    }

    /// Takes back the registration of a srvid.
    pub async fn unsubscribe(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<(), ControlError> {
        self.shared.routes.remove(srvid);
        let request = bare(Opcode::DEREGISTER_SRVID, srvid);
        success(self.raw_control(Dest::Current, request, limit).await?).map(drop)
    }

    async fn register(&self, srvid: Srvid, limit: Option<Duration>) -> Result<(), ControlError> {
        let request = bare(Opcode::REGISTER_SRVID, srvid);
        let reply = self
            .raw_control(Dest::Current, request, limit)
            .await
            .and_then(success);
        if reply.is_err() {
            self.shared.routes.remove(srvid);
        }
        reply.map(drop)
    }
}

/// The reply, if its status says that the control was done.
pub(crate) fn success(reply: ReplyControl) -> Result<ReplyControl, ControlError> {
    if reply.status == 0 {
        return Ok(reply);
    }
    let text = String::from_utf8_lossy(&reply.error).into_owned();
    Err(ControlError::Status {
        status: reply.status,
        text,
    })
}

/// A control without data.
fn bare(opcode: Opcode, srvid: Srvid) -> ReqControl {
    ReqControl {
        opcode,
        srvid,
        client_id: ClientId::NONE,
        flags: ControlFlags::empty(),
        data: Bytes::new(),
    }
}
