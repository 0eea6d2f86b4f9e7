//! A whole node for tests, without a shell around it.

use std::net::SocketAddr;
use std::time::Duration;

use ctdb_conf::Tunables;
use ctdb_proto::SambaVersion;

use super::*;
use crate::config::ConfiguredNode;
use crate::effect::EventOutcome;
use crate::recoverd::tests::epoch;

pub(crate) fn pnn(raw: u32) -> Pnn {
    Pnn::new(raw).unwrap()
}

/// Node `me` of a cluster with these last bytes of addresses.
pub(crate) fn config(me: u32, hosts: &[u8]) -> NodeConfig {
    let line = |host: &u8| ConfiguredNode {
        addr: SocketAddr::from(([10, 0, 0, *host], 4379)),
        deleted: false,
    };
    NodeConfig {
        pnn: pnn(me),
        nodes: hosts.iter().map(line).collect(),
        tunables: Tunables::default(),
        capabilities: Capabilities::DEFAULT,
        start_flags: NodeFlags::empty(),
        cluster_lock: None,
        leader_timeout: Duration::from_secs(5),
        keepalive_interval: None,
        failover_disabled: false,
        version: SambaVersion::new(4, 24),
        version_pinned: true,
        fast_start: true,
        persistent_databases: Vec::new(),
        pid: 1,
        debug_level: 3,
        started: Duration::from_secs(1_700_000_000),
        seed: 1,
    }
}

/// A node that waits for its first recovery, in a cluster with these last bytes of addresses. What
/// it wants done so far is forgotten.
pub(crate) fn node(me: u32, hosts: &[u8]) -> Node {
    let mut node = Node::new(config(me, hosts), epoch());
    for _ in 0..2 {
        // The `init` event, then the `setup` event.
        let events: Vec<Ticket> = std::iter::from_fn(|| node.poll_effect())
            .filter_map(|effect| match effect {
                Effect::RunEvent { ticket, .. } => Some(ticket),
                _ => None,
            })
            .collect();
        for ticket in events {
            let outcome = EventOutcome::Ok;
            node.handle(Input::EventDone { ticket, outcome }, epoch());
        }
    }
    assert_eq!(node.run_state(), RunState::FirstRecovery);
    while node.poll_effect().is_some() {}
    node
}
