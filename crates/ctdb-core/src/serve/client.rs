//! What local clients register, and questions about processes (data-plane.md 10).

use ctdb_proto::control::Request;
use ctdb_proto::{ClientId, NodeFlags, TunnelId};
use tracing::warn;

use crate::effect::{ClientLoss, Effect};
use crate::node::Node;
use crate::waiting::Caller;

/// Status of `DEREGISTER_SRVID` when there is nothing to take back.
const ENOENT: i32 = 2;

impl Node {
    /// Serves the controls of this family; gives any other one back.
    pub(super) fn serve_client(&mut self, caller: Caller, request: Request) -> Result<(), Request> {
        match request {
            Request::ProcessExists(pid) => self.process_exists(caller, pid),
            Request::CheckPidSrvid(check) => {
                let found = self.clients.pid_listens(check.pid, check.srvid);
                self.answer_status(caller, if found { 0 } else { -1 });
            }
            Request::RegisterSrvid(srvid) => {
                self.for_client(caller, |node, id| ok(node.clients.listen(id, srvid)));
            }
            Request::DeregisterSrvid(srvid) => self.for_client(caller, |node, id| {
                if node.clients.unlisten(id, srvid) {
                    0
                } else {
                    ENOENT
                }
            }),
            Request::RegisterNotify(notify) => self.for_client(caller, |node, id| {
                ok(node.clients.add_notification(id, notify.srvid, notify.data))
            }),
            Request::DeregisterNotify(srvid) => {
                self.for_client(caller, |node, id| {
                    ok(node.clients.remove_notification(id, srvid))
                });
            }
            Request::TunnelRegister(tunnel) => {
                self.for_client(caller, |node, id| {
                    ok(node.clients.open_tunnel(id, TunnelId(tunnel.get())))
                });
            }
            Request::TunnelDeregister(tunnel) => {
                self.for_client(caller, |node, id| {
                    ok(node.clients.close_tunnel(id, TunnelId(tunnel.get())))
                });
            }
            Request::StartPersistentUpdate => {
                self.for_client(caller, |node, id| node.count_persistent_update(id, true));
            }
            Request::CancelPersistentUpdate => {
                self.for_client(caller, |node, id| node.count_persistent_update(id, false));
            }
            // No public address is served yet, so no connection needs to be remembered.
            Request::TcpClient(_)
            | Request::TcpClientDisconnected(_)
            | Request::TcpClientPassed(_)
            | Request::TcpAdd(_)
            | Request::TcpRemove(_)
            | Request::TcpAddDelayedUpdate(_) => self.answer_status(caller, 0),
            other => return Err(other),
        }
        Ok(())
    }

    /// Does something for the local client that asked; -1 if there is none.
    fn for_client(&mut self, caller: Caller, what: impl FnOnce(&mut Self, ClientId) -> i32) {
        let status = match self.local_client(caller) {
            Some(id) => what(self, id),
            None => -1,
        };
        self.answer_status(caller, status);
    }

    fn count_persistent_update(&mut self, id: ClientId, start: bool) -> i32 {
        if let Some(client) = self.clients.get_mut(id) {
            let count = &mut client.persistent_updates;
            *count = if start {
                count.saturating_add(1)
            } else {
                count.saturating_sub(1)
            };
        }
        0
    }

    /// A process exists if it has a connection here. (Its socket closes when it ends, so there is
    /// no need to ask the kernel as well.) On a banned or stopped node it is cut off.
    fn process_exists(&mut self, caller: Caller, pid: i32) {
        let Some(client) = self.clients.of_pid(pid) else {
            return self.answer_status(caller, -1);
        };
        let inactive = NodeFlags::BANNED | NodeFlags::STOPPED;
        if self.cluster.my_flags().intersects(inactive) {
            warn!("Killing client with pid:{pid} on banned/stopped node");
            self.cluster.effect(Effect::DropClient {
                client,
                reason: ClientLoss::NodeInactive,
            });
            self.client_gone(client);
            return self.answer_status(caller, -1);
        }
        self.answer_status(caller, 0);
    }
}

fn ok(done: bool) -> i32 {
    if done { 0 } else { -1 }
}
