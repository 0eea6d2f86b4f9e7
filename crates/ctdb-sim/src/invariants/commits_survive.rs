//! A commit that was acknowledged is on all nodes that take part, and stays in the database as
//! long as one of the nodes that have it takes part in each recovery.
//!
//! If none of them does, the cluster goes on without the commit: it is *orphaned*, and the database
//! is forked. When a node of the other branch
//! comes back, the higher sequence number wins (`cluster.md` 6.4), and nothing is promised about
//! the commits of the branch that loses. Without a cluster lock nothing at all is promised once two
//! nodes have led at the same time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ctdb_core::Node;
use ctdb_proto::{DbId, Pnn};

use super::{Broken, Invariant};
use crate::observed::Observed;
use crate::workload::COMMITS;
use crate::world::World;

type Holders = BTreeMap<Bytes, BTreeSet<Pnn>>;

/// Who has each commit that was acknowledged.
#[derive(Default)]
pub(super) struct CommitsSurvive {
    promised: Holders,
    orphaned: Holders,
    /// There was more than one cluster, without a lock.
    split: bool,
}

impl CommitsSurvive {
    fn acknowledged(&mut self, by: Pnn, key: &Bytes, world: &World) -> Result<(), Broken> {
        let holders: BTreeSet<_> = world.pnns().filter(|pnn| has(*pnn, key, world)).collect();
        let members = members_with(by, world);
        if let Some(lacks) = members.iter().find(|pnn| !holders.contains(pnn)) {
            let key = key.escape_ascii();
            return Err(format!(
                "node {by} acknowledged {key}, which node {lacks} lacks"
            ));
        }
        self.promised.insert(key.clone(), holders);
        Ok(())
    }

    fn recovered(&mut self, node: Pnn, members: &[Pnn], world: &World) -> Result<(), Broken> {
        let takes_part = |holders: &BTreeSet<Pnn>| members.iter().any(|pnn| holders.contains(pnn));
        let forked = self.split || self.orphaned.values().any(takes_part);
        // A commit that is kept, and that no node has which has the lost one: of another branch.
        let kept = self
            .promised
            .iter()
            .filter(|(key, _)| has(node, key, world));
        let kept: Vec<_> = kept.map(|(_, holders)| holders.clone()).collect();
        let lost_to = |holders: &BTreeSet<Pnn>| kept.iter().any(|k| k.is_disjoint(holders));
        for (key, mut holders) in std::mem::take(&mut self.promised) {
            if has(node, &key, world) {
                holders.insert(node);
                self.promised.insert(key, holders);
            } else if forked || !takes_part(&holders) || lost_to(&holders) {
                self.orphaned.insert(key, holders);
            } else {
                let key = key.escape_ascii();
                return Err(format!(
                    "{key} is gone on node {node} after a recovery of {members:?}; {holders:?} had it"
                ));
            }
        }
        self.forget_copies(node, world);
        Ok(())
    }

    /// The node has no copy of what it lost in a recovery.
    fn forget_copies(&mut self, node: Pnn, world: &World) {
        for (key, holders) in &mut self.orphaned {
            if !has(node, key, world) {
                holders.remove(&node);
            }
        }
        self.orphaned.retain(|_, holders| !holders.is_empty());
    }
}

fn has(node: Pnn, key: &Bytes, world: &World) -> bool {
    world
        .disk(node)
        .record(DbId::of_name(COMMITS), key)
        .is_some()
}

/// Nodes that work in the same generation.
fn members_with(node: Pnn, world: &World) -> Vec<Pnn> {
    let Some(this) = world.node(node) else {
        return Vec::new();
    };
    let generation = this.vnn_map().generation;
    let same = |other: &&Node| !other.is_in_recovery() && other.vnn_map().generation == generation;
    world.running().filter(same).map(Node::pnn).collect()
}

impl Invariant for CommitsSurvive {
    fn rule(&self) -> &'static str {
        "no acknowledged commit is lost"
    }

    fn see(&mut self, event: &Observed, world: &World) -> Result<(), Broken> {
        let commits = DbId::of_name(COMMITS);
        match event {
            Observed::Committed { node, key, .. } => self.acknowledged(*node, key, world),
            Observed::Recovered {
                node, db, members, ..
            } if *db == commits => self.recovered(*node, members, world),
            _ => Ok(()),
        }
    }

    fn look_at(&mut self, node: Pnn, world: &World) -> Result<(), Broken> {
        let leads = |node: &&Node| node.leads();
        if !world.has_cluster_lock() && world.node(node).is_some_and(Node::leads) {
            self.split |= world.running().filter(leads).count() > 1;
        }
        Ok(())
    }
}
