//! What must come true once all faults have ended.

use std::time::Duration;

use ctdb_core::Node;

use crate::workload::Workload;
use crate::world::World;

/// How long a cluster may take to be whole again.
pub const HEALTHY_WITHIN: Duration = Duration::from_secs(90);
/// How long a client may wait for an answer while nothing goes wrong.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// Whether there is one leader that all agree about, no recovery is pending, and all nodes take
/// part; what is wrong otherwise.
pub fn is_whole(world: &World) -> Result<(), String> {
    let leaders: Vec<_> = world
        .running()
        .filter(|n| n.leads())
        .map(Node::pnn)
        .collect();
    let [leader] = leaders.as_slice() else {
        return Err(format!("leaders are {leaders:?}"));
    };
    if let Some(other) = world.running().find(|n| n.leader() != Some(*leader)) {
        return Err(format!(
            "node {} does not follow node {leader}",
            other.pnn()
        ));
    }
    if !world.is_healthy() {
        return Err("not all nodes are healthy members of one generation".to_owned());
    }
    Ok(())
}

/// Whether every request that was made before `since` is answered; who waits otherwise.
pub fn all_answered(since: Duration, workload: &Workload, world: &World) -> Result<(), String> {
    let waiting = workload.waiting(world);
    match waiting.into_iter().find(|(_, began, _)| *began <= since) {
        Some((node, began, what)) => Err(format!(
            "a client of node {node} waits {what} since {began:?}"
        )),
        None => Ok(()),
    }
}
