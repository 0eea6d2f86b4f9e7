//! What writers did to the records, and whether the records tell the same.
//!
//! A record holds the id of its last change and the count of all. Every change has read the one
//! before under a lock, so the changes of a key form a tree: a line, as long as nothing is lost. The
//! branch that ends with what the record holds at last has survived, the others were lost.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Instant;

use crate::story_time;

/// What a record holds. 16 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Value {
    pub(super) change: Id,
    /// This change and all before it.
    pub(super) count: u64,
}

/// Number of a change, over all keys.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Id(u64);

impl Value {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.change.0.to_le_bytes().to_vec();
        bytes.extend(self.count.to_le_bytes());
        bytes
    }

    /// `None` for an empty record; an error for bytes that no writer wrote.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let words: Result<[u8; 16], _> = bytes.try_into();
        let words = words.map_err(|_| format!("no writer wrote {bytes:02x?}"))?;
        let (change, count) = words.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        Ok(Some(Self {
            change: Id(word(change)),
            count: word(count),
        }))
    }
}

/// A change of one record.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: String,
    /// What the record held before.
    pub(super) parent: Option<Value>,
    /// It leaves an empty record.
    pub(super) deletes: bool,
    /// Of the record when it was read, or as it was written in a transaction.
    pub(super) rsn: u64,
    pub(super) node: usize,
    /// Changes with the same number are made together, or not at all.
    pub(super) transaction: Option<u64>,
    pub(super) begun: Instant,
}

/// How a change ended for the writer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// It was told that the change is made.
    Made,
    /// It was told that the change is not made.
    NotMade,
    /// It was told nothing.
    Unknown,
}

/// A time in which a node was not, or not always, in the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) node: usize,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// What may become of changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Durability {
    /// Whoever was told that a change is made finds it made.
    Always,
    /// A change is lost when the node that made it has an outage before another node has had the
    /// record: the newest copy left is older.
    WhileTheNodeLives,
}

#[derive(Debug)]
struct Entry {
    change: Change,
    outcome: Outcome,
    ended: Option<Instant>,
}

impl Entry {
    fn count(&self) -> u64 {
        self.change.parent.map_or(1, |parent| parent.count + 1)
    }
}

/// All changes of one database.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: Vec<Entry>,
    /// The last deletion of each key that may have been made.
    deletions: BTreeMap<String, Value>,
}

impl History {
    /// Notes a change before it is made; gives what the record has to hold.
    pub(super) fn begin(&mut self, mut change: Change) -> Value {
        change.parent = change
            .parent
            .or_else(|| self.deletions.get(&change.key).copied());
        let deleted = change.deletes.then(|| change.key.clone());
        let entry = Entry {
            change,
            outcome: Outcome::Unknown,
            ended: None,
        };
        let value = Value {
            change: Id(self.entries.len() as u64 + 1),
            count: entry.count(),
        };
        self.entries.push(entry);
        self.deletions.extend(deleted.map(|key| (key, value)));
        value
    }

    /// Notes how it ended.
    pub(super) fn end(&mut self, change: Id, outcome: Outcome) {
        if let Some(entry) = self.entry_mut(change) {
            entry.outcome = outcome;
            entry.ended = Some(Instant::now());
        }
    }

    /// Number of changes that ended so.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        let same = |entry: &&Entry| entry.outcome == outcome;
        self.entries.iter().filter(same).count()
    }

    fn entry(&self, id: Id) -> Option<&Entry> {
        let index = usize::try_from(id.0).ok()?.checked_sub(1)?;
        self.entries.get(index)
    }

    fn entry_mut(&mut self, id: Id) -> Option<&mut Entry> {
        let index = usize::try_from(id.0).ok()?.checked_sub(1)?;
        self.entries.get_mut(index)
    }

    fn entries(&self) -> impl Iterator<Item = (Id, &Entry)> {
        (1..).map(Id).zip(&self.entries)
    }

    /// Number of deletions that were made.
    pub(super) fn deletions(&self) -> usize {
        let made = |entry: &&Entry| entry.change.deletes && entry.outcome == Outcome::Made;
        self.entries.iter().filter(made).count()
    }

    fn show(&self, id: Id) -> Shown<'_> {
        Shown { history: self, id }
    }
}

/// What is wrong with the records, in the light of a history.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) wrong: Vec<String>,
    /// Changes that were lost as they may be.
    pub(super) lost: usize,
}

impl History {
    /// Compares with what all records hold at last.
    pub(super) fn check(
        &self,
        last: &BTreeMap<String, Value>,
        outages: &[Outage],
        durability: Durability,
    ) -> Findings {
        let mut check = Check {
            history: self,
            survived: vec![false; self.entries.len() + 1],
            children: HashMap::new(),
            outages,
            findings: Findings::default(),
        };
        for (id, entry) in self.entries() {
            let parent = entry.change.parent.map(|parent| parent.change);
            let place = (entry.change.key.as_str(), parent);
            check.children.entry(place).or_default().push(id);
        }
        for (key, value) in last {
            check.trace(key, *value);
        }
        for (key, deletion) in &self.deletions {
            if !last.contains_key(key) {
                check.trace(key, *deletion);
            }
        }
        for (id, entry) in self.entries() {
            check.entry(id, entry, durability);
        }
        check.transactions();
        check.findings
    }
}

struct Check<'h> {
    history: &'h History,
    /// By id.
    survived: Vec<bool>,
    /// Changes by key and what they found there.
    children: HashMap<(&'h str, Option<Id>), Vec<Id>>,
    outages: &'h [Outage],
    findings: Findings,
}

impl<'h> Check<'h> {
    fn wrong(&mut self, text: String) {
        self.findings.wrong.push(text);
    }

    fn has_survived(&self, id: Id) -> bool {
        usize::try_from(id.0).is_ok_and(|index| self.survived.get(index) == Some(&true))
    }

    /// Marks the changes that made this value.
    fn trace(&mut self, key: &str, value: Value) {
        let mut next = Some(value);
        while let Some(value) = next {
            let Some(entry) = self.history.entry(value.change) else {
                return self.wrong(format!("{key}: nobody made {value:?}"));
            };
            if entry.change.key != key || entry.count() != value.count {
                let shown = self.history.show(value.change);
                return self.wrong(format!("{key}: holds {value:?}, which is {shown}"));
            }
            if let Some(mark) = usize::try_from(value.change.0)
                .ok()
                .and_then(|index| self.survived.get_mut(index))
            {
                *mark = true;
            }
            next = entry.change.parent;
        }
    }

    fn entry(&mut self, id: Id, entry: &'h Entry, durability: Durability) {
        self.rsn(id, entry);
        match (entry.outcome, self.has_survived(id)) {
            (Outcome::NotMade, true) => {
                let shown = self.history.show(id);
                self.wrong(format!(
                    "made, though the writer was told otherwise: {shown}"
                ));
            }
            (Outcome::Made, false) => self.lost(id, entry, durability),
            _ => {}
        }
    }

    /// Along a line of changes rsns do not go back; they grow when the record moves. A record that
    /// was deleted may begin anew.
    fn rsn(&mut self, id: Id, entry: &Entry) {
        let parent = entry.change.parent.map(|parent| parent.change);
        let Some((parent, before)) = parent.and_then(|id| Some((id, self.history.entry(id)?)))
        else {
            return;
        };
        if before.change.deletes {
            return;
        }
        let moved = entry.change.node != before.change.node || entry.change.transaction.is_some();
        let least = before.change.rsn + u64::from(moved);
        if entry.change.rsn < least {
            let (before, now) = (self.history.show(parent), self.history.show(id));
            self.wrong(format!("rsn went back: from {before} to {now}"));
        }
    }

    fn lost(&mut self, id: Id, entry: &'h Entry, durability: Durability) {
        let reason = match durability {
            Durability::Always => Some("nothing may be lost here"),
            Durability::WhileTheNodeLives if self.reached_another_node(id, entry) => {
                Some("another node had it")
            }
            Durability::WhileTheNodeLives if !self.outage_explains(entry) => {
                Some("no outage of its node explains it")
            }
            Durability::WhileTheNodeLives => None,
        };
        self.findings.lost += 1;
        if let Some(reason) = reason {
            let shown = self.history.show(id);
            self.wrong(format!("lost, but {reason}: {shown}"));
        }
    }

    fn reached_another_node(&self, id: Id, entry: &'h Entry) -> bool {
        let next = self.children_of(&entry.change.key, Some(id));
        let mut next = next.iter().filter_map(|&id| self.history.entry(id));
        next.any(|next| next.change.node != entry.change.node)
    }

    /// An outage of its node after it; and what took its place came after the outage began.
    fn outage_explains(&self, entry: &'h Entry) -> bool {
        let parent = entry.change.parent.map(|parent| parent.change);
        let siblings = self.children_of(&entry.change.key, parent);
        let instead = siblings.iter().find(|&&id| self.has_survived(id));
        let instead = instead.and_then(|&id| self.history.entry(id)?.ended);
        self.outages.iter().any(|outage| {
            outage.node == entry.change.node
                && entry.change.begun <= outage.to
                && instead.is_none_or(|instead| instead >= outage.from)
        })
    }

    fn children_of(&self, key: &'h str, id: Option<Id>) -> &[Id] {
        let children = self.children.get(&(key, id));
        children.map(Vec::as_slice).unwrap_or_default()
    }

    /// All changes of a transaction have survived, or none.
    fn transactions(&mut self) {
        let mut parts: BTreeMap<u64, [Vec<Id>; 2]> = BTreeMap::new();
        for (id, entry) in self.history.entries() {
            if let Some(number) = entry.change.transaction {
                let survived = usize::from(self.has_survived(id));
                if let Some(ids) = parts.entry(number).or_default().get_mut(survived) {
                    ids.push(id);
                }
            }
        }
        for (number, [without, with]) in parts {
            if let (Some(&without), Some(&with)) = (without.first(), with.first()) {
                let (without, with) = (self.history.show(without), self.history.show(with));
                self.wrong(format!(
                    "half of transaction {number}: {with} without {without}"
                ));
            }
        }
    }
}

/// A change as people read it.
struct Shown<'h> {
    history: &'h History,
    id: Id,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entry) = self.history.entry(self.id) else {
            return write!(f, "change {}", self.id.0);
        };
        write!(
            f,
            "{} {} of {} on node {} (rsn {}, count {}, {:?}, begun at {:.3} s)",
            if entry.change.deletes {
                "deletion"
            } else {
                "change"
            },
            self.id.0,
            entry.change.key,
            entry.change.node,
            entry.change.rsn,
            entry.count(),
            entry.outcome,
            story_time(entry.change.begun),
        )
    }
}

#[cfg(test)]
mod tests;
