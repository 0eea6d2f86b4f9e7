//! The links to the other nodes: which peers are connected, and when one is dead
//! (wire.md 1.2, cluster.md 3).
//!
//! Between two nodes there are two connections, one made by each side; a node sends on the one
//! it made. A peer counts as connected while both stand.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::{Body, NodeFlags, Pnn, ReqId, ReqKeepalive, SambaVersion};
use tracing::{error, info, warn};

use crate::cluster::Cluster;
use crate::config::NodeConfig;
use crate::effect::{Effect, PeerLoss};

/// Keepalives with a wrong version in a row that are taken for a cluster of mixed versions. More
/// than one, since a peer that has just learned the version of the cluster may have an old one
/// under way.
const MISMATCHES_TOLERATED: u32 = 3;

/// Keepalive ticks for which a peer of unknown version is not told ours: a daemon of the original
/// leaves when it hears another version from an older process, so it is heard first.
const TICKS_TO_LISTEN: u32 = 2;

/// Looks at each peer in a keepalive interval. The original looks once, so that it takes up to an
/// interval longer to find a silent peer.
const LOOKS: u32 = 5;

/// Why a connection from a peer is closed again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("Refused connection from unknown node {0}")]
    UnknownNode(IpAddr),
    #[error("Incoming queue active, rejecting connection from {0}")]
    AlreadyConnected(IpAddr),
}

/// What became of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerChange {
    None,
    Connected,
    Disconnected,
}

/// A keepalive that this node must not live with: it is the younger one of two versions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MixedVersions;

#[derive(Clone, Debug, Default)]
struct Link {
    outgoing: bool,
    incoming: bool,
    /// Packets since the last look.
    received: u32,
    /// Looks in a row without a packet.
    silent: u32,
    /// Ticks since the peer was connected.
    ticks: u32,
    version: Option<SambaVersion>,
    mismatches: u32,
    /// The peer ended the connection that was lost last.
    closed: bool,
}

/// Which version of Samba this node presents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presented {
    /// The operator said so.
    Pinned(SambaVersion),
    /// Our own, until a peer shows another one.
    Default(SambaVersion),
    /// That of the cluster we joined.
    Learned(SambaVersion),
}

/// All links, by pnn.
#[derive(Debug)]
pub(crate) struct Peers {
    links: Vec<Link>,
    presented: Presented,
    started: Instant,
    next_look: Option<Instant>,
    /// Looks since the last keepalive.
    looks: u32,
    /// In place of the tunable `KeepaliveInterval`.
    interval: Option<Duration>,
}

impl Peers {
    pub(crate) fn new(config: &NodeConfig, started: Instant) -> Self {
        let version = config.version;
        let presented = if config.version_pinned {
            Presented::Pinned(version)
        } else {
            Presented::Default(version)
        };
        Self {
            links: vec![Link::default(); config.nodes.len()],
            presented,
            started,
            next_look: None,
            looks: 0,
            interval: config.keepalive_interval,
        }
    }

    /// The nodes list has grown to this many nodes.
    pub(crate) fn resize(&mut self, count: usize) {
        self.links.resize_with(count, Link::default);
    }

    /// Starts the keepalives; done once the `setup` event has run.
    pub(crate) fn start_keepalives(&mut self, cluster: &Cluster, now: Instant) {
        self.next_look = Some(now + self.interval(cluster) / LOOKS);
    }

    /// Version that the peer presented last.
    pub(crate) fn version(&self, pnn: Pnn) -> Option<SambaVersion> {
        self.links.get(pnn.index())?.version
    }

    /// Whether the peer is lost and has ended the connection itself.
    pub(crate) fn has_closed(&self, pnn: Pnn) -> bool {
        self.links.get(pnn.index()).is_some_and(|link| link.closed)
    }

    pub(crate) fn outgoing_up(&mut self, pnn: Pnn, cluster: &mut Cluster) -> PeerChange {
        let Some(link) = self.links.get_mut(pnn.index()) else {
            return PeerChange::None;
        };
        link.outgoing = true;
        self.connect_if_both_stand(pnn, cluster)
    }

    /// Decides about a connection from `from`, and takes it for the incoming link of that node.
    pub(crate) fn accept(
        &mut self,
        from: IpAddr,
        cluster: &mut Cluster,
    ) -> Result<(Pnn, PeerChange), Refusal> {
        let is_peer = |pnn: &Pnn| {
            *pnn != cluster.me
                && cluster
                    .node(*pnn)
                    .is_some_and(|n| n.addr.ip() == from && !n.flags.contains(NodeFlags::DELETED))
        };
        let pnn = cluster
            .pnns()
            .find(is_peer)
            .ok_or(Refusal::UnknownNode(from))?;
        let link = self
            .links
            .get_mut(pnn.index())
            .ok_or(Refusal::UnknownNode(from))?;
        if link.incoming {
            return Err(Refusal::AlreadyConnected(from));
        }
        link.incoming = true;
        Ok((pnn, self.connect_if_both_stand(pnn, cluster)))
    }

    fn connect_if_both_stand(&mut self, pnn: Pnn, cluster: &mut Cluster) -> PeerChange {
        let Some(link) = self.links.get_mut(pnn.index()) else {
            return PeerChange::None;
        };
        let Some(node) = cluster.nodes.get_mut(pnn.index()) else {
            return PeerChange::None;
        };
        if !(link.outgoing && link.incoming && node.flags.contains(NodeFlags::DISCONNECTED)) {
            return PeerChange::None;
        }
        node.flags.remove(NodeFlags::DISCONNECTED);
        *link = Link {
            outgoing: true,
            incoming: true,
            ..Link::default()
        };
        let (peer, me) = (node.addr, cluster.node(cluster.me).map(|n| n.addr));
        if let Some(me) = me {
            error!(
                "{me}: connected to {peer} - {} connected",
                cluster.connected_count()
            );
        }
        PeerChange::Connected
    }

    /// Both links are gone: the shell has closed them, or is about to.
    pub(crate) fn lost(&mut self, pnn: Pnn, by_peer: bool, cluster: &mut Cluster) -> PeerChange {
        let Some(link) = self.links.get_mut(pnn.index()) else {
            return PeerChange::None;
        };
        let was_closed = link.closed;
        *link = Link::default();
        let Some(node) = cluster.nodes.get_mut(pnn.index()) else {
            return PeerChange::None;
        };
        if node.flags.contains(NodeFlags::DISCONNECTED) {
            // A try to connect again that came to nothing says nothing new.
            link.closed = was_closed;
            return PeerChange::None;
        }
        link.closed = by_peer;
        node.flags |= NodeFlags::DISCONNECTED | NodeFlags::UNHEALTHY;
        let (peer, me) = (node.addr, cluster.node(cluster.me).map(|n| n.addr));
        if let Some(me) = me {
            error!(
                "{me}: node {peer} is dead: {} connected",
                cluster.connected_count()
            );
        }
        PeerChange::Disconnected
    }

    /// A valid packet came from the peer: it lives.
    pub(crate) fn heard(&mut self, pnn: Pnn) {
        if let Some(link) = self.links.get_mut(pnn.index()) {
            link.received = link.received.saturating_add(1);
        }
    }

    /// Checks the version of a peer (wire.md 1.2). The younger of two daemons with different
    /// versions must leave the cluster.
    pub(crate) fn keepalive(
        &mut self,
        from: Pnn,
        keepalive: ReqKeepalive,
        cluster: &mut Cluster,
        now: Instant,
    ) -> Result<(), MixedVersions> {
        let statistics = &mut cluster.statistics;
        statistics.keepalive_packets_recv = statistics.keepalive_packets_recv.wrapping_add(1);
        let Some(link) = self.links.get_mut(from.index()) else {
            return Ok(());
        };
        link.version = keepalive.version;
        if cluster.tunables.get(Tunable::AllowMixedVersions) == 1 {
            return Ok(());
        }
        let mine = self.presented.version();
        let Some(theirs) = keepalive.version else {
            error!("Keepalive version missing from node {from}");
            return Err(MixedVersions);
        };
        if theirs == mine {
            link.mismatches = 0;
            return Ok(());
        }
        if let Presented::Default(_) = self.presented {
            info!(pnn = %from, version = %theirs, "presenting the version of the cluster");
            self.presented = Presented::Learned(theirs);
            return Ok(());
        }
        link.mismatches += 1;
        let uptime = uptime(self.started, now);
        let older = keepalive.uptime > uptime || (keepalive.uptime == uptime && theirs > mine);
        if !older || link.mismatches < MISMATCHES_TOLERATED {
            return Ok(());
        }
        error!(
            "Keepalive version mismatch {:#010x} != {:#010x} from node {from}",
            mine.0, theirs.0
        );
        Err(MixedVersions)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_look
    }

    /// Sends the keepalives that are due, and finds the peers that are silent for too long.
    /// With each, for how many intervals.
    pub(crate) fn handle_timeout(
        &mut self,
        cluster: &mut Cluster,
        now: Instant,
    ) -> Vec<(Pnn, u32)> {
        let Some(due) = self.next_look.filter(|due| *due <= now) else {
            return Vec::new();
        };
        let pause = self.interval(cluster) / LOOKS;
        let next = due + pause;
        // After a long sleep: one look now, not all that were missed.
        self.next_look = Some(if next > now { next } else { now + pause });
        self.looks = (self.looks + 1) % LOOKS;
        let mut dead = Vec::new();
        let me = cluster.me;
        for pnn in cluster.pnns().filter(|pnn| *pnn != me) {
            if !cluster.is_connected(pnn) {
                continue;
            }
            if let Some(intervals) = self.find_silent(pnn, cluster) {
                dead.push((pnn, intervals));
            } else if self.looks == 0 {
                self.tick_one(pnn, cluster, now);
            }
        }
        dead
    }

    /// Looks at a peer; if it is dead, for how many intervals it was silent (cluster.md 3.2).
    fn find_silent(&mut self, pnn: Pnn, cluster: &mut Cluster) -> Option<u32> {
        let link = self.links.get_mut(pnn.index())?;
        link.silent = if link.received == 0 {
            link.silent + 1
        } else {
            0
        };
        link.received = 0;
        let intervals = link.silent / LOOKS;
        if intervals < cluster.tunables.get(Tunable::KeepaliveLimit).max(1) {
            return None;
        }
        warn!("dead count reached for node {pnn}");
        let reason = PeerLoss::Silent { intervals };
        cluster.effect(Effect::DropPeer { pnn, reason });
        Some(intervals)
    }

    /// A keepalive is due.
    fn tick_one(&mut self, pnn: Pnn, cluster: &mut Cluster, now: Instant) {
        if let Some(link) = self.links.get_mut(pnn.index()) {
            link.ticks = link.ticks.saturating_add(1);
        }
        if self.may_speak(pnn) {
            self.send_keepalive(pnn, cluster, now);
        }
    }

    fn interval(&self, cluster: &Cluster) -> Duration {
        let tunable = cluster.tunables.seconds(Tunable::KeepaliveInterval);
        self.interval.unwrap_or(tunable.max(Duration::from_secs(1)))
    }

    fn may_speak(&self, pnn: Pnn) -> bool {
        let Some(link) = self.links.get(pnn.index()) else {
            return false;
        };
        !matches!(self.presented, Presented::Default(_))
            || link.version.is_some()
            || link.ticks > TICKS_TO_LISTEN
    }

    fn send_keepalive(&self, pnn: Pnn, cluster: &mut Cluster, now: Instant) {
        let statistics = &mut cluster.statistics;
        statistics.keepalive_packets_sent = statistics.keepalive_packets_sent.wrapping_add(1);
        let keepalive = self.keepalive_for(pnn, now);
        cluster.send(pnn, ReqId(0), Body::ReqKeepalive(keepalive));
    }

    /// The younger of two versions leaves. One that we only assume makes nobody leave: the peer may
    /// be one of the original that still runs its `setup` event, and does not tell its own.
    fn keepalive_for(&self, pnn: Pnn, now: Instant) -> ReqKeepalive {
        let link = self.links.get(pnn.index());
        let known = link.is_some_and(|link| link.version.is_some());
        let assumed = matches!(self.presented, Presented::Default(_)) && !known;
        ReqKeepalive {
            version: Some(self.presented.version()),
            uptime: if assumed {
                0
            } else {
                uptime(self.started, now)
            },
        }
    }
}

impl Presented {
    const fn version(self) -> SambaVersion {
        match self {
            Self::Pinned(version) | Self::Default(version) | Self::Learned(version) => version,
        }
    }
}

fn uptime(started: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(started).as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::config;
    use crate::recoverd::tests::{epoch, pnn};

    const VERSION: SambaVersion = SambaVersion::new(4, 24);
    const HOUR: Duration = Duration::from_secs(3600);

    fn uptime_told(peers: &Peers) -> u32 {
        peers.keepalive_for(pnn(1), epoch() + HOUR).uptime
    }

    #[test]
    fn an_assumed_version_makes_nobody_leave() {
        let mut config = config(0, &[1, 2]);
        config.version_pinned = false;
        let mut peers = Peers::new(&config, epoch());
        assert_eq!(uptime_told(&peers), 0);
        peers.links[1].version = Some(VERSION);
        assert_eq!(uptime_told(&peers), 3600, "the peer has the same");
        peers.links[1].version = None;
        peers.presented = Presented::Learned(SambaVersion::new(4, 17));
        assert_eq!(uptime_told(&peers), 3600, "another peer has it");
        config.version_pinned = true;
        let set = Peers::new(&config, epoch());
        assert_eq!(uptime_told(&set), 3600, "the operator has said so");
    }
}
