//! Who this node is, what it believes of the others, and what an administrator may change
//! (cluster.md 2, 9).

use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    BanState, Capabilities, ClientId, IfaceList, NodeAndFlags, NodeFlagChange, NodeFlags, NodeMap,
    PublicIpList, RunState, SockAddr, TunableList, TunableNames,
};
use tracing::{error, warn};

use crate::effect::Effect;
use crate::explain::Banner;
use crate::mutation::{self, Mutation};
use crate::node::{Ban, Node};
use crate::nodes_list::Purpose;
use crate::waiting::Caller;

/// Status of `GET_TUNABLE` for a name that nobody knows.
const EINVAL: i32 = 22;
/// Status of `SET_TUNABLE` for a tunable that is kept and has no effect any more.
const OBSOLETE: i32 = 1;
/// Status of questions about an address that is not a public one.
const NOT_PUBLIC: i32 = 1;

impl Node {
    /// Serves the controls of this family; gives any other one back.
    pub(super) fn serve_membership(
        &mut self,
        caller: Caller,
        request: Request,
        now: Instant,
    ) -> Result<(), Request> {
        match request {
            Request::GetPnn => self.answer_status(caller, self.cluster.me.get().cast_signed()),
            Request::GetPid => self.answer_status(caller, self.config.pid),
            Request::Ping => {
                let count = i32::try_from(self.clients.count()).unwrap_or(i32::MAX);
                self.answer_status(caller, count);
            }
            Request::GetNodeMap => {
                let map = self.node_map();
                self.answer_data(caller, &map);
            }
            Request::Explain => {
                let explanation = self.explanation(now);
                self.answer_data(caller, &explanation);
            }
            Request::GetNodesFile => self.want_nodes_list(caller, Purpose::Show),
            Request::ReloadNodesFile => self.want_nodes_list(caller, Purpose::Reload),
            Request::ModifyFlags(change) => self.modify_flags(caller, &change, now),
            Request::GetRunState => {
                let state = self.cluster.run_state;
                self.answer_data(caller, &state);
            }
            Request::GetCapabilities => {
                let capabilities = self.cluster.capabilities;
                self.answer_data(caller, &capabilities);
            }
            Request::SetLmasterRole(on) => self.set_role(caller, Capabilities::LMASTER, on, now),
            Request::SetRecmasterRole(on) => self.set_role(caller, Capabilities::LEADER, on, now),
            Request::StopNode => {
                error!("Stopping node");
                self.set_my_flag(NodeFlags::STOPPED, true);
                self.become_inactive(now);
                self.answer_status(caller, 0);
            }
            Request::ContinueNode => {
                error!("Continue node");
                self.change_my_flag(caller, NodeFlags::STOPPED, false, now);
            }
            Request::DisableNode => {
                error!("Disable node");
                self.change_my_flag(caller, NodeFlags::PERMANENTLY_DISABLED, true, now);
            }
            Request::EnableNode => {
                error!("Enable node");
                self.change_my_flag(caller, NodeFlags::PERMANENTLY_DISABLED, false, now);
            }
            Request::SetBanState(ban) => self.set_ban(caller, ban, now),
            Request::GetBanState => {
                let seconds = self.ban.map_or(Duration::ZERO, |ban| ban.length);
                let state = BanState {
                    pnn: self.cluster.me,
                    time: seconds,
                };
                self.answer_data(caller, &state);
            }
            Request::GetReclockFile => match self.config.cluster_lock.clone() {
                Some(lock) => self.answer_text(caller, &lock),
                None => self.answer_status(caller, 0),
            },
            Request::Shutdown => self.shutdown_requested(caller, now),
            Request::GetDebug => {
                let level = self.debug_level;
                self.answer_data(caller, &level);
            }
            Request::SetDebug(level) => {
                self.debug_level = level;
                self.cluster.effect(Effect::SetDebugLevel(level));
                self.answer_status(caller, 0);
            }
            Request::SetTunable(set) => self.set_tunable(caller, &set.name, set.value),
            Request::GetTunable(get) => self.get_tunable(caller, &get.name),
            Request::ListTunables => self.list_tunables(caller),
            Request::GetAllTunables => {
                let tunables = TunableList {
                    values: *self.cluster.tunables.values(),
                };
                self.answer_data(caller, &tunables);
            }
            Request::RecdReclockLatency(seconds) => {
                self.cluster.statistics.reclock_recd.record(seconds);
                self.answer_status(caller, 0);
            }
            // The recovery daemon's part lives in this process: there is nothing to watch. And
            // nothing is remembered of public addresses, so there is nothing to send again.
            Request::RecdPing | Request::Startup => self.answer_status(caller, 0),
            Request::GetPublicIps => {
                self.answer_data(caller, &PublicIpList::default());
            }
            Request::GetPublicIpInfo(_) => self.answer_status(caller, -1),
            Request::GetIfaces => self.answer_data(caller, &IfaceList::default()),
            Request::GetTcpTickleList(_) | Request::SetTcpTickleList(_) => {
                self.answer_status(caller, NOT_PUBLIC);
            }
            Request::IpReallocated => self.ip_reallocated(caller, false),
            Request::StartIpReallocate => self.ip_reallocated(caller, true),
            other => return Err(other),
        }
        Ok(())
    }

    fn node_map(&self) -> NodeMap {
        let nodes = self.cluster.pnns().zip(&self.cluster.nodes);
        let nodes = nodes.map(|(pnn, node)| NodeAndFlags {
            pnn,
            flags: node.flags,
            addr: SockAddr(node.addr),
        });
        NodeMap {
            nodes: nodes.collect(),
        }
    }

    /// `MODIFY_FLAGS`: the leader tells what a node says of itself (cluster.md 2.2). Whether a node
    /// is connected, each node knows by itself.
    fn modify_flags(&mut self, caller: Caller, change: &NodeFlagChange, now: Instant) {
        let pnn = change.pnn;
        if self.cluster.node(pnn).is_none() {
            return self.answer_status(caller, -1);
        }
        if pnn == self.cluster.me || !self.cluster.is_connected(pnn) {
            return self.answer_status(caller, 0);
        }
        let starting = self.cluster.run_state.raw() <= RunState::Startup.raw();
        let Some(node) = self.cluster.node_mut(pnn) else {
            return;
        };
        let old = node.flags;
        let new = change.new_flags & !NodeFlags::DISCONNECTED;
        node.flags = new;
        if new.is_inactive() && !old.is_inactive() {
            self.share_of_traverses_is_lost(pnn);
        }
        if new != old {
            warn!(
                "Node {pnn} has changed flags - {:#x} -> {:#x}",
                old.bits(),
                new.bits()
            );
        }
        if new != old && new.is_empty() && starting {
            let why = format!("Node {pnn} became healthy - force recovery for startup");
            warn!("{why}");
            self.cluster.force_recovery(&why);
        }
        self.answer_status(caller, 0);
        if new != old {
            self.wake_recoverd(now);
        }
    }

    fn set_role(&mut self, caller: Caller, role: Capabilities, on: bool, now: Instant) {
        self.set_capability(role, on);
        self.answer_status(caller, 0);
        self.wake_recoverd(now);
    }

    fn change_my_flag(&mut self, caller: Caller, flag: NodeFlags, on: bool, now: Instant) {
        self.set_my_flag(flag, on);
        self.answer_status(caller, 0);
        self.wake_recoverd(now);
    }

    /// `SET_BAN_STATE` (cluster.md 9.1).
    fn set_ban(&mut self, caller: Caller, ban: BanState, now: Instant) {
        if ban.pnn != self.cluster.me {
            error!("SET_BAN_STATE control for PNN {} ignored", ban.pnn);
            return self.answer_status(caller, -1);
        }
        let by = if caller.client == ClientId::NONE {
            Banner::Leader(caller.node)
        } else {
            Banner::Client(caller.node)
        };
        if self.keeps_ban(by) {
            warn!("Another ban of this node stays: somebody asked for it");
            return self.answer_status(caller, 0);
        }
        if ban.time.is_zero() {
            error!("Unbanning this node");
            self.ban = None;
            self.memory.unbanned("it was asked for", now);
            return self.change_my_flag(caller, NodeFlags::BANNED, false, now);
        }
        if self.cluster.tunables.get(Tunable::EnableBans) == 0 {
            error!("Bans are disabled - ignoring ban of node {}", ban.pnn);
            return self.answer_status(caller, 0);
        }
        self.ban_for(ban.time, by, now);
        self.answer_status(caller, 0);
    }

    /// A leader of our kind excludes a node for a short time, and takes it back: that changes nothing
    /// about the ban of an administrator.
    fn keeps_ban(&self, by: Banner) -> bool {
        let asked_for = |ban: Ban| matches!(ban.by, Banner::Client(_));
        matches!(by, Banner::Leader(_)) && self.ban.is_some_and(asked_for)
    }

    fn ban_for(&mut self, length: Duration, by: Banner, now: Instant) {
        error!("Banning this node for {} seconds", length.as_secs());
        let was_banned = self.ban.is_some();
        let (since, until) = (now, now + length);
        self.memory.banned(self.cluster.me, until, by, now);
        self.ban = Some(Ban {
            length,
            since,
            until,
            by,
        });
        self.set_my_flag(NodeFlags::BANNED, true);
        if !was_banned {
            self.become_inactive(now);
        }
    }

    pub(crate) fn ban_over(&mut self, now: Instant) {
        let is_over = |ban: Ban| ban.until <= now || mutation::is_on(Mutation::BanForgotten);
        if !self.ban.is_some_and(is_over) {
            return;
        }
        let databases = !self.cluster.databases.is_empty();
        if databases && !self.cluster.everything_is_frozen() {
            error!(
                "Banning timed out, but not all databases frozen yet - banning this node again."
            );
            let length = self.cluster.tunables.seconds(Tunable::RecoveryBanPeriod);
            return self.ban_for(length, Banner::Itself, now);
        }
        error!("Banning timed out");
        self.memory.unbanned("its time is over", now);
        self.ban = None;
        self.set_my_flag(NodeFlags::BANNED, false);
        self.wake_recoverd(now);
    }

    fn shutdown_requested(&mut self, caller: Caller, now: Instant) {
        warn!("Received SHUTDOWN command.");
        if self.cluster.run_state == RunState::Shutdown {
            warn!("Already shutting down so will not proceed.");
            return self.answer_status(caller, 0);
        }
        self.shut_down(0, "SHUTDOWN control".into(), now);
    }

    fn set_tunable(&mut self, caller: Caller, name: &str, value: u32) {
        let Some(tunable) = Tunable::from_name(name) else {
            return self.answer_status(caller, -1);
        };
        self.cluster.tunables.set(tunable, value);
        let status = if tunable.is_obsolete() { OBSOLETE } else { 0 };
        self.answer_status(caller, status);
    }

    fn get_tunable(&mut self, caller: Caller, name: &str) {
        match Tunable::from_name(name) {
            Some(tunable) => {
                let value = self.cluster.tunables.get(tunable);
                self.answer_data(caller, &value);
            }
            None => self.answer_status(caller, -EINVAL),
        }
    }

    fn list_tunables(&mut self, caller: Caller) {
        let names = Tunable::current()
            .map(|tunable| tunable.name().to_owned())
            .collect();
        self.answer_data(caller, &TunableNames { names });
    }
}
