//! What must hold after every step, whatever happens; one file for each rule.

mod banned_stay_out;
mod commits_survive;
mod generations_do_not_mix;
mod lock_holder_leads;
mod newest_copy_survives;
mod one_dmaster;
mod one_side_writes;

use std::collections::BTreeSet;

use ctdb_proto::Pnn;

use crate::observed::Observed;
use crate::world::World;

/// How a rule was broken.
pub type Broken = String;

/// A rule, with what it remembers.
pub trait Invariant {
    /// The rule in one sentence.
    fn rule(&self) -> &'static str;

    /// Something happened to records.
    fn see(&mut self, event: &Observed, world: &World) -> Result<(), Broken> {
        let _ = (event, world);
        Ok(())
    }

    /// A step is over in which something happened to this node.
    fn look_at(&mut self, node: Pnn, world: &World) -> Result<(), Broken> {
        let _ = (node, world);
        Ok(())
    }
}

/// All rules.
pub struct Invariants {
    rules: Vec<Box<dyn Invariant>>,
}

impl Invariants {
    /// For a cluster that begins.
    pub fn new(world: &World) -> Self {
        let nodes = world.pnns().count();
        Self {
            rules: vec![
                Box::new(lock_holder_leads::LockHolderLeads),
                Box::new(one_dmaster::OneDmaster::new(nodes)),
                Box::new(newest_copy_survives::NewestCopySurvives::default()),
                Box::new(commits_survive::CommitsSurvive::default()),
                Box::new(generations_do_not_mix::GenerationsDoNotMix),
                Box::new(banned_stay_out::BannedStayOut::default()),
                Box::new(one_side_writes::OneSideWrites::new()),
            ],
        }
    }

    /// Checks all rules after a step.
    pub fn check(
        &mut self,
        events: &[Observed],
        touched: &BTreeSet<Pnn>,
        world: &World,
    ) -> Result<(), Broken> {
        for rule in &mut self.rules {
            let mut result = events.iter().try_for_each(|event| rule.see(event, world));
            if result.is_ok() {
                result = touched
                    .iter()
                    .try_for_each(|node| rule.look_at(*node, world));
            }
            result.map_err(|broken| format!("{}: {broken}", rule.rule()))?;
        }
        Ok(())
    }
}
