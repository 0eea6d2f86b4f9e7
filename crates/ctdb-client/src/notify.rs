//! Messages that the daemon sends when this client has gone (`data-plane.md` 10.5).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ctdb_proto::{Dest, NotifyData, Opcode, ReqControl, Srvid, Wire};

use crate::client::Client;
use crate::control::{expect_zero, request};
use crate::error::ControlError;

impl Client {
    /// Has the daemon send a message to all connected nodes when this connection ends, however it
    /// ends. One for each srvid: a second one is refused with status -1.
    pub async fn notify_at_exit(
        &self,
        srvid: Srvid,
        data: Bytes,
        limit: Option<Duration>,
    ) -> Result<(), ControlError> {
        let notify = NotifyData { srvid, data };
        self.control_notify(Opcode::REGISTER_NOTIFY, &notify, limit)
            .await
    }

    /// Takes that back.
    pub async fn forget_notify(
        &self,
        srvid: Srvid,
        limit: Option<Duration>,
    ) -> Result<(), ControlError> {
        self.control_notify(Opcode::DEREGISTER_NOTIFY, &srvid, limit)
            .await
    }

    async fn control_notify(
        &self,
        opcode: Opcode,
        payload: &impl Wire,
        limit: Option<Duration>,
    ) -> Result<(), ControlError> {
        let mut data = BytesMut::new();
        payload.encode(&mut data);
        let request = ReqControl {
            data: data.freeze(),
            ..request(opcode)
        };
        let reply = self.raw_control(Dest::Current, request, limit).await?;
        expect_zero(opcode, Dest::Current, reply).map(drop)
    }
}
