//! One recovery: brings all active nodes to the same vnn map and the same databases.
//!
//! The leader runs it (`cluster.md 6`): it goes through the [`Phase`]s one by one, each the same
//! control to each node of the recovery, and in the middle recovers all databases at once
//! ([`database`]). A phase that fails at any node ends the recovery; the leader tries again later,
//! and bans a node at which recoveries fail again and again.
//!
//! The generation is the name of the recovery: transactions are opened under it, and the vnn map
//! that it installs carries it. An answer to an older recovery cannot be mistaken for one to this,
//! because its token is not known here.

pub mod collate;
pub(crate) mod database;
pub mod phases;
pub(crate) mod vnnmap;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::{
    Capabilities, DbFlags, DbId, DbidMap, Generation, NodeFlagChange, NodeFlags, NodeMap, Opcode,
    Pnn, Request, Srvid, VnnMap,
};
use tracing::{error, info};

use crate::recoverd::outbox::{Asker, Batch, ControlFailure, ControlResult, Outbox, Token};
use crate::recoverd::view::View;
use crate::recovery::database::{DbCtx, DbRecovery, Shared};
use crate::recovery::phases::Phase;

/// The name under which the original logs its recoveries.
pub const LOG: &str = "ctdb-recovery";

/// A step of a recovery that did not work at one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub pnn: Pnn,
    pub opcode: Opcode,
    /// The database, if the step was about one.
    pub db: Option<DbId>,
    pub cause: ControlFailure,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "control {} failed", self.opcode)?;
        if let Some(db) = self.db {
            write!(f, " for db {db}")?;
        }
        write!(
            f,
            " on node {}, ret={}: {}",
            self.pnn,
            self.cause.ret(),
            self.cause
        )
    }
}

/// How a recovery ended.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Complete,
    /// Where it failed. Empty if it was nobody's fault: the cluster changed meanwhile.
    Failed(Vec<Failure>),
    /// It met the recovery of another node, or so says a node.
    GaveWay(Pnn),
}

/// How often each node is to blame. A node that was lost is not: the cluster changed. Of a
/// database, each attempt counts, and of several databases the one that failed most often.
pub(crate) fn blamed(failures: &[Failure]) -> BTreeMap<Pnn, u32> {
    let mut counts: BTreeMap<(Pnn, Option<DbId>), u32> = BTreeMap::new();
    for failure in failures
        .iter()
        .filter(|failure| failure.cause.blames_node())
    {
        *counts.entry((failure.pnn, failure.db)).or_default() += 1;
    }
    let mut blamed = BTreeMap::new();
    for ((pnn, _), count) in counts {
        let most: &mut u32 = blamed.entry(pnn).or_default();
        *most = count.max(*most);
    }
    blamed
}

/// A recovery that runs.
#[derive(Debug)]
pub(crate) struct Recovery {
    shared: Shared,
    pub(crate) started: Instant,
    phase: Phase,
    batch: Batch,
    /// What each connected node says of its own flags.
    words: BTreeMap<Pnn, NodeFlags>,
    /// What each connected node says of all.
    copies: BTreeMap<Pnn, NodeMap>,
    map: VnnMap,
    databases: BTreeMap<DbId, DbRecovery>,
}

impl Recovery {
    /// Begins a recovery under a new generation.
    pub(crate) fn start(
        generation: Generation,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Self {
        let limit = view.tunables.get(Tunable::RecBufferSizeLimit);
        let mut recovery = Self {
            shared: Shared {
                me: view.me,
                generation,
                nodes: view.connected().collect(),
                timeout: view.recover_timeout(),
                batch_limit: usize::try_from(limit).unwrap_or(usize::MAX),
                streams: 0,
            },
            started: now,
            phase: Phase::ReadFlags,
            batch: Batch::default(),
            words: BTreeMap::new(),
            copies: BTreeMap::new(),
            map: VnnMap {
                generation,
                map: Vec::new(),
            },
            databases: BTreeMap::new(),
        };
        recovery.enter(Phase::ReadFlags, view, out, now);
        recovery
    }

    pub(crate) fn generation(&self) -> Generation {
        self.shared.generation
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// A node of the recovery to which the connection is gone: without it the recovery cannot
    /// succeed.
    pub(crate) fn lost_node(&self, view: &View<'_>) -> Option<Pnn> {
        self.shared
            .nodes
            .iter()
            .copied()
            .find(|pnn| !view.is_connected(*pnn))
    }

    /// Takes a reply. The recovery's outcome, if it is over.
    pub(crate) fn on_reply(
        &mut self,
        token: Token,
        result: ControlResult,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Option<Outcome> {
        if self.batch.awaits(token) {
            self.batch.on_reply(token, result, now);
        } else {
            let mut ctx = DbCtx {
                shared: &mut self.shared,
                out,
                now,
            };
            let mut databases = self.databases.values_mut();
            databases.any(|db| db.on_reply(token, &result, &mut ctx));
        }
        self.go_on(view, out, now)
    }

    /// Takes records that a node sends on one of our streams.
    pub(crate) fn on_records(
        &mut self,
        srvid: Srvid,
        from: Option<Pnn>,
        data: &Bytes,
        out: &mut Outbox,
        now: Instant,
    ) {
        let shared = &mut self.shared;
        let mut ctx = DbCtx { shared, out, now };
        let mut databases = self.databases.values_mut();
        databases.any(|db| db.on_records(srvid, from, data.clone(), &mut ctx));
    }

    /// Takes records that were merged, to be sent to all nodes.
    pub(crate) fn on_merged(
        &mut self,
        token: Token,
        records: &Bytes,
        out: &mut Outbox,
        now: Instant,
    ) {
        let shared = &mut self.shared;
        let mut ctx = DbCtx { shared, out, now };
        let mut databases = self.databases.values_mut();
        databases.any(|db| db.on_merged(token, records, &mut ctx));
    }

    /// Looks whether there is nothing more to wait for. The recovery's outcome, if it is over.
    pub(crate) fn go_on(
        &mut self,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Option<Outcome> {
        loop {
            if self.phase == Phase::Databases {
                let mut ctx = DbCtx {
                    shared: &mut self.shared,
                    out,
                    now,
                };
                self.databases
                    .values_mut()
                    .for_each(|db| db.go_on(&mut ctx));
                if !self.databases.values().all(DbRecovery::is_over) {
                    return None;
                }
            } else if !self.batch.is_settled(now) {
                return None;
            }
            let failures = self.finish_phase(view);
            if let Some(met) = failures.iter().find(|f| f.cause.is_another_recovery()) {
                return Some(Outcome::GaveWay(met.pnn));
            }
            if !failures.is_empty() {
                return Some(Outcome::Failed(failures));
            }
            let Some(next) = self.phase.next() else {
                return Some(Outcome::Complete);
            };
            self.enter(next, view, out, now);
        }
    }

    /// Stops listening to streams that are still open, and forgets what was merged.
    pub(crate) fn abandon(mut self, out: &mut Outbox) {
        self.databases.values_mut().for_each(|db| db.abandon(out));
    }

    fn enter(&mut self, phase: Phase, view: &View<'_>, out: &mut Outbox, now: Instant) {
        self.phase = phase;
        self.batch = Batch::default();
        if let Some(request) = phase.request(&self.map) {
            let nodes = self.shared.nodes.iter().copied();
            self.batch = Batch::send(out, Asker::Recovery, nodes, &request, phase.timeout(view));
        } else if phase == Phase::PushFlags {
            self.push_flags(view, out);
        } else {
            let mut ctx = DbCtx {
                shared: &mut self.shared,
                out,
                now,
            };
            self.databases
                .values_mut()
                .for_each(|db| db.start(&mut ctx));
        }
    }

    /// Tells each connected node each connected node's own word, as far as it does not know it.
    fn push_flags(&mut self, view: &View<'_>, out: &mut Outbox) {
        for (pnn, word) in &self.words {
            let change = NodeFlagChange {
                pnn: *pnn,
                new_flags: *word,
                old_flags: view.flags(*pnn),
            };
            let request = Request::ModifyFlags(change);
            let knows = |map: &NodeMap| map.nodes.iter().any(|n| n.pnn == *pnn && n.flags == *word);
            let unaware = self.copies.iter().filter(|(_, map)| !knows(map));
            for (to, _) in unaware {
                let token = out.ask(Asker::Recovery, *to, &request, self.shared.timeout);
                self.batch.add(*to, token);
            }
        }
    }

    /// Takes in what the phase has brought, and names what went wrong.
    fn finish_phase(&mut self, view: &View<'_>) -> Vec<Failure> {
        match self.phase {
            Phase::ReadFlags => {
                // A node that takes no part need not answer.
                self.batch.failures.retain(|(pnn, _)| view.is_active(*pnn));
                self.learn_flags();
            }
            Phase::PushFlags => {
                // And it may refuse.
                let nodes = &self.shared.nodes;
                self.batch.failures.retain(|(pnn, _)| nodes.contains(pnn));
            }
            Phase::ReadCapabilities => self.learn_lmasters(view.me),
            Phase::ReadDatabases => self.learn_databases(),
            Phase::Databases => return self.finish_databases(),
            _ => {}
        }
        let opcode = self.phase.opcode(&self.map);
        let failures = std::mem::take(&mut self.batch.failures);
        let failures: Vec<_> = failures
            .into_iter()
            .map(|(pnn, cause)| Failure {
                pnn,
                opcode,
                db: None,
                cause,
            })
            .collect();
        self.log_end(&failures);
        failures
    }

    /// Only nodes that call themselves active take part.
    fn learn_flags(&mut self) {
        let maps: BTreeMap<Pnn, NodeMap> = self.batch.decode();
        for (pnn, map) in &maps {
            let pnn = *pnn;
            if let Some(node) = map.nodes.iter().find(|node| node.pnn == pnn) {
                self.words.insert(pnn, node.flags);
            } else {
                let problem = "it does not know itself".to_owned();
                self.batch
                    .failures
                    .push((pnn, ControlFailure::Unacceptable(problem)));
            }
        }
        let words = self.words.iter();
        let active = words
            .filter(|(_, word)| !word.is_inactive())
            .map(|(pnn, _)| *pnn);
        self.shared.nodes = active.collect();
        self.copies = maps;
    }

    fn learn_lmasters(&mut self, me: Pnn) {
        let capabilities: BTreeMap<Pnn, Capabilities> = self.batch.decode();
        let lmasters = capabilities
            .into_iter()
            .filter(|(_, capabilities)| capabilities.contains(Capabilities::LMASTER))
            .map(|(pnn, _)| pnn)
            .collect();
        self.map = vnnmap::new_map(self.shared.generation, lmasters, me);
    }

    /// All databases that any node has. Nodes must agree on the kind of each.
    fn learn_databases(&mut self) {
        let maps: BTreeMap<Pnn, DbidMap> = self.batch.decode();
        let mut found: BTreeMap<DbId, (DbFlags, BTreeSet<Pnn>)> = BTreeMap::new();
        for (pnn, map) in maps {
            for db in map.dbs {
                let kind = db.flags - (DbFlags::READONLY | DbFlags::STICKY);
                let (known, holders) = found.entry(db.db_id).or_insert((kind, BTreeSet::new()));
                if *known != kind {
                    let (id, known, kind) = (db.db_id, known.bits(), kind.bits());
                    let problem =
                        format!("Incompatible database flags for {id} ({known:#x} != {kind:#x})");
                    self.batch
                        .failures
                        .push((pnn, ControlFailure::Unacceptable(problem)));
                }
                holders.insert(pnn);
            }
        }
        self.databases = found
            .into_iter()
            .map(|(db, (flags, holders))| (db, DbRecovery::new(db, flags, holders)))
            .collect();
    }

    fn finish_databases(&mut self) -> Vec<Failure> {
        let all = self.databases.len();
        let recovered = self
            .databases
            .values()
            .filter(|db| db.is_recovered())
            .count();
        info!(target: LOG, "{recovered} of {all} databases recovered");
        if recovered == all {
            return Vec::new();
        }
        self.databases
            .values_mut()
            .flat_map(|db| std::mem::take(&mut db.failures))
            .collect()
    }

    fn log_end(&self, failures: &[Failure]) {
        for failure in failures {
            match self.phase {
                Phase::StartRecovery => error!(
                    target: LOG,
                    "failed to run start_recovery event on node {}, ret={}",
                    failure.pnn,
                    failure.cause.ret()
                ),
                Phase::EndRecovery => error!(
                    target: LOG,
                    "failed to run recovered event on node {}, ret={}",
                    failure.pnn,
                    failure.cause.ret()
                ),
                _ => error!(target: LOG, "{failure}"),
            }
        }
        if !failures.is_empty() {
            return;
        }
        match self.phase {
            Phase::PushFlags => info!(target: crate::recoverd::LOG, "Recovery - updated flags"),
            Phase::EnterRecovery => error!(target: LOG, "Set recovery mode to ACTIVE"),
            Phase::StartRecovery => error!(target: LOG, "start_recovery event finished"),
            Phase::SetVnnMap => info!(target: LOG, "updated VNNMAP"),
            Phase::LeaveRecovery => error!(target: LOG, "Set recovery mode to NORMAL"),
            Phase::EndRecovery => error!(target: LOG, "recovered event finished"),
            _ => {}
        }
    }

    /// When to look again although no reply came.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let databases = self
            .databases
            .values()
            .filter_map(DbRecovery::poll_timeout)
            .min();
        if self.phase == Phase::Databases {
            databases
        } else {
            self.batch.poll_timeout()
        }
    }
}

#[cfg(test)]
mod tests;
