use std::time::Duration;

use super::*;

/// A history that is told as a story: each change says after which one, where, and its rsn.
struct Story {
    history: History,
    values: Vec<Value>,
    start: Instant,
}

impl Story {
    fn new() -> Self {
        Self {
            history: History::default(),
            values: Vec::new(),
            start: Instant::now(),
        }
    }

    fn change(&mut self, after: Option<usize>, node: usize, rsn: u64) -> usize {
        self.part(after, node, rsn, "key", None)
    }

    fn delete(&mut self, after: usize, node: usize, rsn: u64) -> usize {
        let deletion = self.change(Some(after), node, rsn);
        let value = self.values[deletion];
        let entry = self.history.entry_mut(value.change).unwrap();
        entry.change.deletes = true;
        self.history.deletions.insert("key".to_owned(), value);
        deletion
    }

    fn part(
        &mut self,
        after: Option<usize>,
        node: usize,
        rsn: u64,
        key: &str,
        transaction: Option<u64>,
    ) -> usize {
        let seconds = self.values.len() as u64;
        let value = self.history.begin(Change {
            key: key.to_owned(),
            parent: after.map(|after| self.values[after]),
            deletes: false,
            rsn,
            node,
            transaction,
            begun: self.at(seconds),
        });
        self.history.end(value.change, Outcome::Made);
        let ended = self.at(seconds);
        self.history.entry_mut(value.change).unwrap().ended = Some(ended);
        self.values.push(value);
        self.values.len() - 1
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn outage(&self, node: usize, from: u64, to: u64) -> Outage {
        Outage {
            node,
            from: self.at(from),
            to: self.at(to),
        }
    }

    fn check(&self, last: usize, outages: &[Outage], durability: Durability) -> Findings {
        let last = BTreeMap::from([("key".to_owned(), self.values[last])]);
        self.history.check(&last, outages, durability)
    }

    fn wrong(&self, last: usize, outages: &[Outage]) -> Vec<String> {
        self.check(last, outages, Durability::WhileTheNodeLives)
            .wrong
    }
}

fn assert_one(wrong: &[String], text: &str) {
    assert!(wrong.len() == 1 && wrong[0].contains(text), "{wrong:#?}");
}

#[test]
fn a_line_of_changes_is_right() {
    let mut story = Story::new();
    let first = story.change(None, 0, 1);
    let second = story.change(Some(first), 0, 1);
    let third = story.change(Some(second), 1, 3);
    let findings = story.check(third, &[], Durability::Always);
    assert!(
        findings.wrong.is_empty() && findings.lost == 0,
        "{findings:?}"
    );
}

#[test]
fn a_lost_change_needs_an_outage_of_its_node() {
    let mut story = Story::new();
    let first = story.change(None, 0, 1);
    let _lost = story.change(Some(first), 1, 3);
    let second = story.change(Some(first), 0, 4);
    assert_one(&story.wrong(second, &[]), "no outage");
    assert_one(&story.wrong(second, &[story.outage(0, 1, 2)]), "no outage");
    assert!(story.wrong(second, &[story.outage(1, 1, 2)]).is_empty());
    let durable = story.check(second, &[story.outage(1, 1, 2)], Durability::Always);
    assert_one(&durable.wrong, "nothing may be lost");
    assert_eq!(durable.lost, 1);
}

#[test]
fn an_outage_explains_only_what_came_before_its_end_and_was_replaced_after_its_begin() {
    let mut story = Story::new();
    let first = story.change(None, 0, 1);
    let _lost = story.change(Some(first), 1, 3);
    let second = story.change(Some(first), 0, 4);
    assert_one(&story.wrong(second, &[story.outage(1, 3, 4)]), "no outage");
    assert_one(&story.wrong(second, &[story.outage(1, 0, 0)]), "no outage");
}

#[test]
fn what_another_node_has_had_cannot_be_lost() {
    let mut story = Story::new();
    let first = story.change(None, 1, 1);
    let _second = story.change(Some(first), 0, 3);
    let third = story.change(None, 2, 5);
    let outages = [story.outage(1, 1, 2), story.outage(0, 1, 2)];
    assert_one(&story.wrong(third, &outages), "another node had it");
}

#[test]
fn a_deleted_record_begins_anew() {
    let mut story = Story::new();
    let first = story.change(None, 0, 7);
    story.delete(first, 1, 9);
    let again = story.change(None, 0, 0);
    assert!(story.wrong(again, &[]).is_empty());
    let deletion = story.delete(again, 0, 1);
    let empty = story
        .history
        .check(&BTreeMap::new(), &[], Durability::Always);
    assert!(empty.wrong.is_empty() && empty.lost == 0, "{empty:?}");
    assert_eq!(story.history.deletions(), 2);
    assert_eq!(story.values[deletion].count, 4);
}

#[test]
fn what_comes_back_after_its_deletion_is_found() {
    let mut story = Story::new();
    let first = story.change(None, 0, 7);
    let _deletion = story.delete(first, 1, 9);
    assert_one(&story.wrong(first, &[]), "lost, but no outage");
    let next = story.change(Some(first), 2, 11);
    assert_one(&story.wrong(next, &[]), "lost, but no outage");
    assert!(story.wrong(next, &[story.outage(1, 1, 2)]).is_empty());
}

#[test]
fn what_is_gone_without_a_deletion_is_found() {
    let mut story = Story::new();
    let first = story.change(None, 0, 7);
    story.delete(first, 1, 9);
    let _lost = story.change(None, 2, 0);
    let gone = story
        .history
        .check(&BTreeMap::new(), &[], Durability::WhileTheNodeLives);
    assert_one(&gone.wrong, "lost, but no outage");
}

#[test]
fn rsns_that_go_back_or_stand_still_in_a_move_are_found() {
    for (node, rsn) in [(0, 4), (1, 5)] {
        let mut story = Story::new();
        let first = story.change(None, 0, 5);
        let second = story.change(Some(first), node, rsn);
        assert_one(&story.wrong(second, &[]), "rsn went back");
    }
}

#[test]
fn half_of_a_transaction_is_found() {
    let mut story = Story::new();
    let here = story.part(None, 0, 1, "key", Some(7));
    let _other = story.part(None, 0, 1, "other", Some(7));
    let wrong = story.check(here, &[], Durability::Always).wrong;
    assert!(wrong.iter().any(|text| text.contains("half")), "{wrong:#?}");
}

#[test]
fn a_change_that_should_not_be_made_is_found() {
    let mut story = Story::new();
    let first = story.change(None, 0, 1);
    let id = story.values[first].change;
    story.history.end(id, Outcome::NotMade);
    assert_one(&story.wrong(first, &[]), "told otherwise");
}

#[test]
fn values_that_nobody_wrote_are_found() {
    let mut story = Story::new();
    let first = story.change(None, 0, 1);
    story.values[first].count = 2;
    assert!(!story.wrong(first, &[]).is_empty());
    assert!(Value::parse(b"17 bytes of noise").is_err());
    let value = story.values[first];
    assert_eq!(Value::parse(&value.to_bytes()), Ok(Some(value)));
}
