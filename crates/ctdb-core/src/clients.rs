//! The local clients and what they registered: service ids, tunnels, notifications
//! (data-plane.md 10).

use std::collections::HashMap;

use bytes::Bytes;
use ctdb_proto::{Body, ClientId, ReqId, ReqMessage, ReqTunnel, Srvid, TunnelId};

use crate::cluster::Cluster;

/// One connection of a local process.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) pid: i32,
    srvids: Vec<Srvid>,
    tunnels: Vec<TunnelId>,
    /// Sent to all nodes when the client goes (`REGISTER_NOTIFY`).
    notifications: Vec<(Srvid, Bytes)>,
    /// `START_PERSISTENT_UPDATE` without its end: leaving like this forces a recovery.
    pub(crate) persistent_updates: u32,
}

/// All clients of this node.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    by_id: HashMap<ClientId, Client>,
    /// Newest last. smbd asks for processes often.
    by_pid: HashMap<i32, Vec<ClientId>>,
    /// Registrations in the order they were made; a client may have several.
    listeners: HashMap<Srvid, Vec<ClientId>>,
    tunnels: HashMap<TunnelId, ClientId>,
}

impl Clients {
    pub(crate) fn add(&mut self, id: ClientId, pid: i32) {
        self.by_id.insert(
            id,
            Client {
                pid,
                ..Client::default()
            },
        );
        self.by_pid.entry(pid).or_default().push(id);
    }

    pub(crate) fn exists(&self, id: ClientId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Process at the other end, by the credentials of its socket; 0 if it is gone.
    pub(crate) fn pid(&self, id: ClientId) -> i32 {
        self.by_id.get(&id).map_or(0, |client| client.pid)
    }

    /// The newest connection of a process.
    pub(crate) fn of_pid(&self, pid: i32) -> Option<ClientId> {
        self.by_pid.get(&pid)?.last().copied()
    }

    /// Whether some connection of the process has registered `srvid` (`CHECK_PID_SRVID`).
    pub(crate) fn pid_listens(&self, pid: i32, srvid: Srvid) -> bool {
        let ids = self.by_pid.get(&pid).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
            .any(|c| c.srvids.contains(&srvid))
    }

    /// Forgets the client; returns what must be told to all nodes, and its unfinished updates.
    pub(crate) fn remove(&mut self, id: ClientId) -> Option<Departed> {
        let client = self.by_id.remove(&id)?;
        for srvid in client.srvids {
            remove_newest(&mut self.listeners, srvid, id);
        }
        for tunnel in client.tunnels {
            self.tunnels.remove(&tunnel);
        }
        remove_newest(&mut self.by_pid, client.pid, id);
        Some(Departed {
            notifications: client.notifications,
            persistent_updates: client.persistent_updates,
        })
    }

    /// `false` if the client does not exist.
    pub(crate) fn listen(&mut self, id: ClientId, srvid: Srvid) -> bool {
        let Some(client) = self.by_id.get_mut(&id) else {
            return false;
        };
        client.srvids.push(srvid);
        self.listeners.entry(srvid).or_default().push(id);
        true
    }

    /// Takes back the newest registration; `false` if there is none.
    pub(crate) fn unlisten(&mut self, id: ClientId, srvid: Srvid) -> bool {
        let Some(client) = self.by_id.get_mut(&id) else {
            return false;
        };
        let Some(at) = client.srvids.iter().rposition(|s| *s == srvid) else {
            return false;
        };
        client.srvids.remove(at);
        remove_newest(&mut self.listeners, srvid, id);
        true
    }

    /// Delivers a message: to those who registered its srvid, newest first, then to those who
    /// want all messages.
    pub(crate) fn deliver(&self, message: &ReqMessage, cluster: &mut Cluster) {
        self.deliver_exactly(message, cluster);
        for id in self.listeners.get(&Srvid::ALL).into_iter().flatten().rev() {
            cluster.send_client(*id, ReqId(0), Body::ReqMessage(message.clone()));
        }
    }

    /// Delivers a record of a traverse, which those who want all messages do not get.
    pub(crate) fn deliver_exactly(&self, message: &ReqMessage, cluster: &mut Cluster) {
        for id in self
            .listeners
            .get(&message.srvid)
            .into_iter()
            .flatten()
            .rev()
        {
            cluster.send_client(*id, ReqId(0), Body::ReqMessage(message.clone()));
        }
    }

    /// `false` if another client of this node has the tunnel, or the client does not exist.
    pub(crate) fn open_tunnel(&mut self, id: ClientId, tunnel: TunnelId) -> bool {
        let Some(client) = self.by_id.get_mut(&id) else {
            return false;
        };
        if self.tunnels.contains_key(&tunnel) {
            return false;
        }
        client.tunnels.push(tunnel);
        self.tunnels.insert(tunnel, id);
        true
    }

    pub(crate) fn close_tunnel(&mut self, id: ClientId, tunnel: TunnelId) -> bool {
        if self.tunnels.get(&tunnel) != Some(&id) {
            return false;
        }
        self.tunnels.remove(&tunnel);
        if let Some(client) = self.by_id.get_mut(&id) {
            client.tunnels.retain(|t| *t != tunnel);
        }
        true
    }

    pub(crate) fn has_tunnel(&self, tunnel: TunnelId) -> bool {
        self.tunnels.contains_key(&tunnel)
    }

    pub(crate) fn deliver_tunnel(&self, packet: ReqTunnel, cluster: &mut Cluster) {
        if let Some(id) = self.tunnels.get(&packet.tunnel_id) {
            cluster.send_client(*id, ReqId(0), Body::ReqTunnel(packet));
        } else {
            tracing::warn!(
                "tunnel id {:#x} not registered, dropping pkt",
                packet.tunnel_id.get()
            );
        }
    }

    /// `false` if the client has that srvid already, or does not exist.
    pub(crate) fn add_notification(&mut self, id: ClientId, srvid: Srvid, data: Bytes) -> bool {
        let Some(client) = self.by_id.get_mut(&id) else {
            return false;
        };
        if client.notifications.iter().any(|(s, _)| *s == srvid) {
            return false;
        }
        client.notifications.push((srvid, data));
        true
    }

    pub(crate) fn remove_notification(&mut self, id: ClientId, srvid: Srvid) -> bool {
        let Some(client) = self.by_id.get_mut(&id) else {
            return false;
        };
        let before = client.notifications.len();
        client.notifications.retain(|(s, _)| *s != srvid);
        client.notifications.len() < before
    }
}

/// What a client leaves behind.
#[derive(Debug)]
pub(crate) struct Departed {
    pub(crate) notifications: Vec<(Srvid, Bytes)>,
    pub(crate) persistent_updates: u32,
}

/// Removes the newest entry for `id`, and the list with its last entry.
fn remove_newest<K: Eq + std::hash::Hash>(
    lists: &mut HashMap<K, Vec<ClientId>>,
    key: K,
    id: ClientId,
) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = lists.entry(key) {
        if let Some(at) = entry.get().iter().rposition(|c| *c == id) {
            entry.get_mut().remove(at);
        }
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}
