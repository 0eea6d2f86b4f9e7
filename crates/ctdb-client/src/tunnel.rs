//! Tunnels: packets of another protocol between two clients of different nodes
//! (`data-plane.md` 10.8).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{Body, Dest, Opcode, Pnn, ReqControl, ReqTunnel, Srvid, TunnelFlags, TunnelId};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::control::{expect_zero, request};
use crate::error::{Closed, ControlError, ControlFailure};

/// Packets of one [`Tunnel`] that may wait to be received. When as many wait, nothing more is read
/// from the socket until one is taken.
pub const TUNNEL_QUEUE: usize = 1024;

/// A registered tunnel. Only one client of a node can have a tunnel of one id; the daemon forgets
/// the registration when the connection ends, or by [`Tunnel::close`].
#[derive(Debug)]
pub struct Tunnel {
    client: Client,
    id: TunnelId,
    packets: mpsc::Receiver<ReqTunnel>,
}

impl Client {
    /// Registers a tunnel with the daemon. Fails with status -1 if a client of this node has it.
    pub async fn open_tunnel(
        &self,
        id: TunnelId,
        limit: Option<Duration>,
    ) -> Result<Tunnel, ControlError> {
        // Open the queue first: a packet may overtake the reply.
        let packets = self.shared.tunnels.insert(id)?;
        let registered = self
            .control_tunnel(Opcode::TUNNEL_REGISTER, id, limit)
            .await;
        if registered.is_err() {
            self.shared.tunnels.remove(id);
        }
        registered.map(|()| Tunnel {
            client: self.clone(),
            id,
            packets,
        })
    }

    async fn control_tunnel(
        &self,
        opcode: Opcode,
        id: TunnelId,
        limit: Option<Duration>,
    ) -> Result<(), ControlError> {
        let request = ReqControl {
            srvid: Srvid::new(id.get()),
            ..request(opcode)
        };
        let reply = self.raw_control(Dest::Current, request, limit).await?;
        expect_zero(opcode, Dest::Current, reply).map(drop)
    }
}

impl Tunnel {
    pub fn id(&self) -> TunnelId {
        self.id
    }

    /// Sends a packet to the client that has registered this tunnel on that node. Nobody confirms
    /// it; without such a client it is dropped. The receiver does not learn who sent it, so a
    /// protocol with replies puts the sender's node into the data.
    pub async fn send(&self, to: Pnn, flags: TunnelFlags, data: Bytes) -> Result<(), Closed> {
        let reqid = self.client.shared.pending.unanswered_id()?;
        let packet = ReqTunnel {
            tunnel_id: self.id,
            flags,
            data,
        };
        self.client
            .send(Dest::Node(to), reqid, Body::ReqTunnel(packet))
            .await
    }

    /// Waits for the next packet: its flags and data. [`Closed`] after the connection has ended.
    pub async fn receive(&mut self) -> Result<(TunnelFlags, Bytes), Closed> {
        let packet = self.packets.recv().await.ok_or(Closed)?;
        Ok((packet.flags, packet.data))
    }

    /// Takes back the registration.
    pub async fn close(self, limit: Option<Duration>) -> Result<(), ControlError> {
        self.client
            .control_tunnel(Opcode::TUNNEL_DEREGISTER, self.id, limit)
            .await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.client.shared.tunnels.remove(self.id);
    }
}

/// Who gets the packets of which tunnel. `None` inside after the connection has ended.
#[derive(Debug)]
pub(crate) struct Tunnels(Mutex<Option<HashMap<TunnelId, mpsc::Sender<ReqTunnel>>>>);

impl Tunnels {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    /// Fails if this connection has the tunnel: the daemon would refuse it as well.
    fn insert(&self, id: TunnelId) -> Result<mpsc::Receiver<ReqTunnel>, ControlError> {
        let failed = |cause| ControlError {
            opcode: Opcode::TUNNEL_REGISTER,
            dest: Dest::Current,
            cause,
        };
        let mut tunnels = self.lock();
        let tunnels = tunnels.as_mut().ok_or_else(|| failed(Closed.into()))?;
        if tunnels.contains_key(&id) {
            let text = "tunnel is open already".to_owned();
            return Err(failed(ControlFailure::Status { status: -1, text }));
        }
        let (sender, packets) = mpsc::channel(TUNNEL_QUEUE);
        tunnels.insert(id, sender);
        Ok(packets)
    }

    fn remove(&self, id: TunnelId) {
        if let Some(tunnels) = self.lock().as_mut() {
            tunnels.remove(&id);
        }
    }

    /// Hands a packet out; waits while its queue is full. Without a tunnel it is dropped.
    pub(crate) async fn deliver(&self, packet: ReqTunnel) {
        let sender = self
            .lock()
            .as_ref()
            .and_then(|tunnels| tunnels.get(&packet.tunnel_id).cloned());
        if let Some(sender) = sender {
            // A receiver that has gone away has no use for the packet.
            let _ = sender.send(packet).await;
        }
    }

    pub(crate) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<TunnelId, mpsc::Sender<ReqTunnel>>>> {
        self.0
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
