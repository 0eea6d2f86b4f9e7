//! Local processes that are connected to the nodes of a [`World`].

use ctdb_core::Input;
use ctdb_proto::{ClientId, Packet, Pnn};

use super::World;

impl World {
    /// A local process connects to the daemon of a node that runs.
    pub fn connect_client(&mut self, pnn: Pnn, pid: i32) -> Option<ClientId> {
        let now = self.now;
        let daemon = self.host_mut(pnn).daemon.as_mut()?;
        let client = daemon.node.accept_client(pid, now);
        daemon.inbox.insert(client, Vec::new());
        Some(client)
    }

    /// A client closes its connection.
    pub fn disconnect_client(&mut self, pnn: Pnn, client: ClientId) {
        if let Some(daemon) = &mut self.host_mut(pnn).daemon {
            daemon.inbox.remove(&client);
        }
        self.tell(pnn, Input::ClientGone(client));
    }

    /// A client sends a packet.
    pub fn client_sends(&mut self, pnn: Pnn, client: ClientId, packet: Packet) {
        self.tell(pnn, Input::ClientPacket { client, packet });
    }

    /// What a client has received since the last look.
    pub fn inbox(&mut self, pnn: Pnn, client: ClientId) -> Vec<Packet> {
        let daemon = self.host_mut(pnn).daemon.as_mut();
        daemon
            .and_then(|d| d.inbox.get_mut(&client))
            .map(std::mem::take)
            .unwrap_or_default()
    }
}
