//! Sending controls, and registering service ids by control.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::control::{Reply, Request};
use ctdb_proto::{
    Body, ClientId, ControlFlags, Dest, Opcode, ReplyControl, ReqControl, ReqId, Srvid,
};

use crate::client::{Client, within};
use crate::error::{Closed, ControlError, ControlFailure};
use crate::message::{Latest, Subscription};

/// A control without data, for the callers of [`Client::raw_control`] to fill in.
pub const fn request(opcode: Opcode) -> ReqControl {
    ReqControl {
        opcode,
        srvid: Srvid::new(0),
        client_id: ClientId::NONE,
        flags: ControlFlags::empty(),
        data: Bytes::new(),
    }
}

impl Client {
    /// Sends a control and waits for its reply. A status that says "not done" is a [`Reply`] too;
    /// [`Client::node`] has methods that make it an error.
    pub async fn control(
        &self,
        dest: Dest,
        request: &Request,
        limit: Option<Duration>,
    ) -> Result<Reply, ControlError> {
        let opcode = request.opcode();
        let packet = request.to_control(ControlFlags::empty());
        let reply = self.raw_control(dest, packet, limit).await?;
        Reply::from_control(opcode, &reply).map_err(|error| ControlError {
            opcode,
            dest,
            cause: ControlFailure::Decode(error),
        })
    }

    /// Sends a control as it is and waits for its reply, whatever its status. Without a limit it
    /// waits until the connection ends. To many nodes at once only [`Self::order`] works.
    pub async fn raw_control(
        &self,
        dest: Dest,
        request: ReqControl,
        limit: Option<Duration>,
    ) -> Result<ReplyControl, ControlError> {
        let opcode = request.opcode;
        let reply = within(limit, self.request(dest, Body::ReqControl(request))).await;
        let cause = match reply {
            Some(Ok(Body::ReplyControl(reply))) => return Ok(reply),
            Some(Ok(_) | Err(Closed)) => Closed.into(),
            None => ControlFailure::Timeout,
        };
        Err(ControlError {
            opcode,
            dest,
            cause,
        })
    }

    /// Sends a control that nobody answers, to one node or to many.
    pub async fn order(&self, dest: Dest, mut request: ReqControl) -> Result<(), Closed> {
        request.flags |= ControlFlags::NOREPLY;
        let reqid: ReqId = self.shared.pending.unanswered_id()?;
        self.send(dest, reqid, Body::ReqControl(request)).await
    }

    /// Registers a srvid and queues all messages for it, until the subscription is dropped. The
    /// id stays registered with the daemon, see [`Self::unsubscribe`].
    pub async fn subscribe(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<Subscription, ControlError> {
        // Open the queue first: a message may overtake the reply.
        let opened = self.shared.routes.queue(srvid);
        let subscription = opened.map_err(|closed| register_error(closed.into()))?;
        self.register(srvid, limit).await?;
        Ok(subscription)
    }

    /// Registers a srvid and keeps only the newest message for it.
    pub async fn watch(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<Latest, ControlError> {
        let opened = self.shared.routes.latest(srvid);
        let latest = opened.map_err(|closed| register_error(closed.into()))?;
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
        let request = ReqControl {
            srvid,
            ..request(Opcode::DEREGISTER_SRVID)
        };
        let reply = self.raw_control(Dest::Current, request, limit).await?;
        expect_zero(Opcode::DEREGISTER_SRVID, Dest::Current, reply).map(drop)
    }

    pub(crate) async fn register(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<(), ControlError> {
        let request = ReqControl {
            srvid,
            ..request(Opcode::REGISTER_SRVID)
        };
        let reply = self.raw_control(Dest::Current, request, limit).await;
        let reply =
            reply.and_then(|reply| expect_zero(Opcode::REGISTER_SRVID, Dest::Current, reply));
        if reply.is_err() {
            self.shared.routes.remove(srvid);
        }
        reply.map(drop)
    }
}

/// The reply, if its status says that the control was done.
pub(crate) fn expect_zero(
    opcode: Opcode,
    dest: Dest,
    reply: ReplyControl,
) -> Result<ReplyControl, ControlError> {
    if reply.status == 0 {
        return Ok(reply);
    }
    let text = String::from_utf8_lossy(&reply.error).into_owned();
    let cause = ControlFailure::Status {
        status: reply.status,
        text,
    };
    Err(ControlError {
        opcode,
        dest,
        cause,
    })
}

fn register_error(cause: ControlFailure) -> ControlError {
    ControlError {
        opcode: Opcode::REGISTER_SRVID,
        dest: Dest::Current,
        cause,
    }
}
