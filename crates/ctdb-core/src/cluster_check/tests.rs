use ctdb_proto::{Generation, NodeAndFlags};

use super::*;
use crate::recoverd::tests::{FakeNode, epoch, pnn};

/// What a leader of 3 nodes knows: node 0, with reports of 1 and 2 that agree with it.
struct Known {
    node: FakeNode,
    reports: BTreeMap<Pnn, Report>,
    capabilities: BTreeMap<Pnn, Capabilities>,
    lock_permits: bool,
}

impl Known {
    fn new() -> Self {
        let node = FakeNode::new(0, 3);
        let entry = |view: &NodeView| NodeAndFlags {
            pnn: view.pnn,
            flags: view.flags,
            addr: view.addr,
        };
        let report = Report {
            nodes: Some(NodeMap {
                nodes: node.nodes.iter().map(entry).collect(),
            }),
            rec_mode: Some(RecMode::Normal),
            vnn_map: Some(node.vnn_map.clone()),
        };
        let others = [pnn(1), pnn(2)];
        Self {
            node,
            reports: others.map(|pnn| (pnn, report.clone())).into(),
            capabilities: others.map(|pnn| (pnn, Capabilities::DEFAULT)).into(),
            lock_permits: true,
        }
    }

    fn judge(&self) -> Verdict {
        judge(&Facts {
            view: &self.node.view(),
            reports: &self.reports,
            capabilities: &self.capabilities,
            lock_permits: self.lock_permits,
        })
    }

    fn report(&mut self, raw: u32) -> &mut Report {
        self.reports.get_mut(&pnn(raw)).unwrap()
    }

    /// The flags that node `raw` believes node `about` to have.
    fn word(&mut self, raw: u32, about: u32) -> &mut NodeFlags {
        let map = self.report(raw).nodes.as_mut().unwrap();
        &mut map.nodes[about as usize].flags
    }

    fn map(&mut self, raw: u32) -> &mut VnnMap {
        self.report(raw).vnn_map.as_mut().unwrap()
    }
}

#[test]
fn when_all_agree_nothing_is_wrong() {
    assert_eq!(Known::new().judge(), Verdict::default());
}

/// A way to make something wrong, what should be found then, and who gets credits for it.
type Case = (fn(&mut Known), RecoveryReason, Option<u32>);

#[test]
fn each_disagreement_is_found_and_blamed_as_the_original_does() {
    let node = pnn(2);
    let table: [Case; 12] = [
        (
            |k| k.node.rec_mode = RecMode::Active,
            RecoveryReason::NodeInRecovery(pnn(0)),
            None,
        ),
        (
            |k| k.report(2).rec_mode = Some(RecMode::Active),
            RecoveryReason::NodeInRecovery(node),
            None,
        ),
        (
            |k| k.lock_permits = false,
            RecoveryReason::ClusterLockNotHeld,
            Some(0),
        ),
        (
            |k| k.report(2).nodes.as_mut().unwrap().nodes.truncate(2),
            RecoveryReason::NodeCount {
                node,
                theirs: 2,
                ours: 3,
            },
            Some(2),
        ),
        (
            |k| k.report(2).nodes.as_mut().unwrap().nodes[1].pnn = pnn(7),
            RecoveryReason::NodemapPnn { node, index: 1 },
            Some(2),
        ),
        (
            |k| k.node.set_flags(node_2(), NodeFlags::DISCONNECTED),
            RecoveryReason::MemberLost(node),
            None,
        ),
        (
            |k| *k.word(2, 2) = NodeFlags::BANNED,
            RecoveryReason::MemberLost(node),
            None,
        ),
        (
            |k| {
                let short = VnnMap {
                    generation: Generation(1000),
                    map: vec![pnn(0), pnn(1)],
                };
                k.node.vnn_map = short.clone();
                *k.map(1) = short.clone();
                *k.map(2) = short;
            },
            RecoveryReason::MemberMissing(node),
            Some(2),
        ),
        (
            |k| {
                k.capabilities.insert(node_2(), Capabilities::LEADER);
            },
            RecoveryReason::MemberResigned(node),
            Some(0),
        ),
        (
            |k| k.map(2).generation = Generation(999),
            RecoveryReason::MapGeneration {
                node,
                theirs: Generation(999),
                ours: Generation(1000),
            },
            Some(2),
        ),
        (
            |k| k.map(2).map.truncate(1),
            RecoveryReason::MapSize {
                node,
                theirs: 1,
                ours: 3,
            },
            Some(2),
        ),
        (
            |k| k.map(2).map.reverse(),
            RecoveryReason::MapContent { node },
            Some(2),
        ),
    ];
    for (change, reason, culprit) in table {
        let mut known = Known::new();
        change(&mut known);
        assert_eq!(
            known.judge().recover,
            Some((reason, culprit.map(pnn))),
            "{reason}"
        );
    }
}

fn node_2() -> Pnn {
    pnn(2)
}

#[test]
fn a_cluster_without_lmasters_is_content_with_its_leader() {
    let mut known = Known::new();
    known.node.capabilities = Capabilities::LEADER;
    known
        .capabilities
        .values_mut()
        .for_each(|c| *c = Capabilities::LEADER);
    let alone = VnnMap {
        generation: Generation(1000),
        map: vec![pnn(0)],
    };
    known.node.vnn_map = alone.clone();
    *known.map(1) = alone.clone();
    *known.map(2) = alone;
    assert_eq!(known.judge(), Verdict::default());
}

#[test]
fn a_node_that_has_not_answered_counts_as_it_was_last_seen() {
    let mut known = Known::new();
    known.reports.remove(&pnn(2));
    assert_eq!(known.judge(), Verdict::default());
    known.capabilities.remove(&pnn(2));
    assert_eq!(known.judge(), Verdict::default());
}

#[test]
fn the_word_of_a_node_about_itself_is_told_to_who_has_it_wrong() {
    let unhealthy = NodeFlags::UNHEALTHY;
    let push = |raw, new_flags, old_flags| NodeFlagChange {
        pnn: pnn(raw),
        new_flags,
        old_flags,
    };

    let mut known = Known::new();
    *known.word(2, 2) = unhealthy;
    let expected = [push(2, unhealthy, NodeFlags::empty())];
    assert_eq!(known.judge().pushes, expected, "1 and we have it wrong");

    known.node.set_flags(pnn(2), unhealthy);
    assert_eq!(
        known.judge().pushes,
        [push(2, unhealthy, unhealthy)],
        "only 1 has it wrong"
    );

    *known.word(1, 2) = unhealthy;
    assert_eq!(known.judge().pushes, []);

    known.node.set_flags(pnn(0), unhealthy);
    assert_eq!(
        known.judge().pushes,
        [push(0, unhealthy, unhealthy)],
        "our own word"
    );
}

#[test]
fn a_node_that_lost_its_own_connection_is_not_told() {
    let mut known = Known::new();
    *known.word(1, 2) = NodeFlags::DISCONNECTED | NodeFlags::UNHEALTHY;
    let verdict = known.judge();
    assert_eq!(
        verdict.pushes,
        [],
        "the original pushes every second, for ever"
    );
    assert_eq!(verdict.recover, None);
    assert_eq!(verdict.broken_links, BTreeSet::from([(pnn(1), pnn(2))]));
}

/// A round of node 0, driven by hand.
struct Round {
    node: FakeNode,
    check: ClusterCheck,
    out: Outbox,
}

impl Round {
    fn new() -> Self {
        let (node, check) = (FakeNode::new(0, 3), ClusterCheck::new(epoch()));
        Self {
            node,
            check,
            out: Outbox::default(),
        }
    }

    fn look(&mut self, at: Duration) -> Option<Verdict> {
        self.check
            .on_timeout(&self.node.view(), true, &mut self.out, epoch() + at)
    }

    /// The questions that went out, with their tokens.
    fn questions(&mut self) -> Vec<(Pnn, Opcode, Token)> {
        let mut questions = Vec::new();
        while let Some(effect) = self.out.pop() {
            let crate::recoverd::RecoverdEffect::Control {
                token, to, request, ..
            } = effect
            else {
                panic!("{effect:?}");
            };
            questions.push((to, request.opcode, token));
        }
        questions
    }
}

#[test]
fn a_round_asks_each_connected_node_everything_at_once() {
    let mut round = Round::new();
    round.node.set_flags(pnn(1), NodeFlags::STOPPED);
    assert_eq!(round.look(Duration::ZERO), None);
    let asked: Vec<_> = round
        .questions()
        .iter()
        .map(|(to, op, _)| (to.get(), *op))
        .collect();
    let expected = [
        (1, Opcode::GET_NODEMAP),
        (2, Opcode::GET_NODEMAP),
        (2, Opcode::GET_CAPABILITIES),
        (2, Opcode::GET_RECMODE),
        (2, Opcode::GETVNNMAP),
    ];
    assert_eq!(
        asked, expected,
        "a stopped node is only asked for its flags"
    );
}

#[test]
fn a_round_ends_although_a_node_does_not_answer() {
    let mut round = Round::new();
    round.look(Duration::ZERO);
    let first = round.questions().len();
    assert_eq!(round.look(Duration::from_millis(999)), None);
    assert!(round.look(Duration::from_secs(1)).is_some());
    round.look(Duration::from_secs(1));
    assert_eq!(
        (first, round.questions().len()),
        (8, 0),
        "open questions are not repeated"
    );
}

#[test]
fn answers_of_the_time_before_a_reset_are_ignored() {
    let mut round = Round::new();
    round.look(Duration::ZERO);
    let old = round.questions();
    round.check.reset();
    round.check.hurry(epoch());
    round.look(Duration::from_millis(20));
    for (_, _, token) in old {
        round.check.on_reply(token, Err(ControlFailure::Timeout));
    }
    assert_eq!(round.check.take_silent(), [].into());
    assert_eq!(
        round.look(Duration::from_millis(30)),
        None,
        "the new questions are open"
    );
}

#[test]
fn who_times_out_is_named_once() {
    let mut round = Round::new();
    round.look(Duration::ZERO);
    for (to, _, token) in round.questions() {
        if to == pnn(2) {
            round.check.on_reply(token, Err(ControlFailure::Timeout));
        } else {
            round
                .check
                .on_reply(token, Err(ControlFailure::Disconnected));
        }
    }
    assert_eq!(
        round.check.take_silent(),
        [pnn(2)].into(),
        "a lost connection is no fault"
    );
    assert_eq!(round.check.take_silent(), [].into());
}
