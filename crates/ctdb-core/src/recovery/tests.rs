use ctdb_proto::{DbidEntry, NodeAndFlags, RecMode, Reply, ReplyControl, ReqControl, SockAddr};

use super::*;
use crate::recoverd::RecoverdEffect;
use crate::recoverd::tests::{FakeNode, epoch, pnn};

const GENERATION: Generation = Generation(77);

/// A recovery by node 0 of 3. Controls are answered by hand.
struct Bench {
    node: FakeNode,
    out: Outbox,
    recovery: Recovery,
    now: Instant,
    outcome: Option<Outcome>,
}

type Asked = Vec<(Token, Pnn, ReqControl)>;

impl Bench {
    fn start() -> Self {
        let node = FakeNode::new(0, 3);
        let mut out = Outbox::default();
        let recovery = Recovery::start(GENERATION, &node.view(), &mut out, epoch());
        Self {
            node,
            out,
            recovery,
            now: epoch(),
            outcome: None,
        }
    }

    fn asked(&mut self) -> Asked {
        let mut asked = Vec::new();
        while let Some(effect) = self.out.pop() {
            if let RecoverdEffect::Control {
                token, to, request, ..
            } = effect
            {
                asked.push((token, to, request));
            }
        }
        asked
    }

    fn reply(&mut self, token: Token, result: ControlResult) {
        let view = self.node.view();
        let outcome = self
            .recovery
            .on_reply(token, result, &view, &mut self.out, self.now);
        self.outcome = self.outcome.take().or(outcome);
    }

    /// Answers everything well until a control of this phase goes out, and returns these.
    fn run_to(&mut self, phase: Phase) -> Asked {
        loop {
            let asked = self.asked();
            if self.recovery.phase() == phase || asked.is_empty() {
                return asked;
            }
            for (token, to, request) in asked {
                self.reply(token, Ok(answer(&self.node, to, &request)));
            }
        }
    }
}

/// What a node says when all is well; node 2 calls itself stopped, which only it knows.
fn answer(node: &FakeNode, to: Pnn, request: &ReqControl) -> ReplyControl {
    let flags = |raw: u32| {
        if raw == 2 && to == pnn(2) {
            NodeFlags::STOPPED
        } else {
            NodeFlags::empty()
        }
    };
    let reply = match request.opcode {
        Opcode::GET_NODEMAP => {
            let addr = SockAddr(([127, 0, 0, 1], 4379).into());
            let entry = |raw| NodeAndFlags {
                pnn: pnn(raw),
                flags: flags(raw),
                addr,
            };
            Reply::NodeMap(NodeMap {
                nodes: (0..3).map(entry).collect(),
            })
        }
        Opcode::GET_CAPABILITIES => {
            let mut capabilities = node.capabilities;
            capabilities.set(Capabilities::LMASTER, to == pnn(0));
            Reply::Capabilities(capabilities)
        }
        Opcode::GET_DBMAP => Reply::DbidMap(DbidMap::default()),
        _ => Reply::DONE,
    };
    reply.to_control()
}

#[test]
fn the_phases_go_out_in_their_order_to_the_active_nodes() {
    let mut bench = Bench::start();
    let mut order = Vec::new();
    while bench.outcome.is_none() {
        let asked = bench.asked();
        let targets: Vec<u32> = asked.iter().map(|(_, to, _)| to.get()).collect();
        order.push((bench.recovery.phase(), asked[0].2.opcode, targets));
        for (token, to, request) in asked {
            bench.reply(token, Ok(answer(&bench.node, to, &request)));
        }
    }
    assert_eq!(bench.outcome, Some(Outcome::Complete));
    let expected = [
        (Phase::ReadFlags, Opcode::GET_NODEMAP, vec![0, 1, 2]),
        // About node 2, to who does not know.
        (Phase::PushFlags, Opcode::MODIFY_FLAGS, vec![0, 1]),
        (
            Phase::ReadCapabilities,
            Opcode::GET_CAPABILITIES,
            vec![0, 1],
        ),
        (Phase::ReadDatabases, Opcode::GET_DBMAP, vec![0, 1]),
        (Phase::EnterRecovery, Opcode::SET_RECMODE, vec![0, 1]),
        (Phase::StartRecovery, Opcode::START_RECOVERY, vec![0, 1]),
        (Phase::SetVnnMap, Opcode::SETVNNMAP, vec![0, 1]),
        (Phase::LeaveRecovery, Opcode::SET_RECMODE, vec![0, 1]),
        (Phase::EndRecovery, Opcode::END_RECOVERY, vec![0, 1]),
    ];
    assert_eq!(order, expected);
}

#[test]
fn the_map_holds_the_active_lmasters_under_the_new_generation() {
    let mut bench = Bench::start();
    let asked = bench.run_to(Phase::SetVnnMap);
    let map = VnnMap {
        generation: GENERATION,
        map: vec![pnn(0)],
    };
    for (_, _, request) in asked {
        assert_eq!(
            Request::from_control(&request),
            Ok(Request::SetVnnMap(map.clone()))
        );
    }
}

#[test]
fn all_failures_of_a_phase_are_named() {
    let mut bench = Bench::start();
    for (token, _, _) in bench.run_to(Phase::StartRecovery) {
        bench.reply(token, Ok(ReplyControl::status(-1)));
    }
    let Some(Outcome::Failed(failures)) = bench.outcome else {
        panic!("{:?}", bench.outcome)
    };
    let blamed = blamed(&failures);
    assert_eq!(blamed, [(pnn(0), 1), (pnn(1), 1)].into());
    let text = failures[1].to_string();
    assert_eq!(
        text,
        "control START_RECOVERY failed on node 1, ret=-1: status -1"
    );
}

#[test]
fn after_a_failure_a_slow_node_gets_little_time() {
    let mut bench = Bench::start();
    let asked = bench.run_to(Phase::StartRecovery);
    bench.reply(asked[0].0, Ok(ReplyControl::status(-1)));
    assert_eq!(bench.outcome, None);
    bench.now = bench.recovery.poll_timeout().unwrap();
    assert_eq!(bench.now, epoch() + std::time::Duration::from_secs(1));
    let view = bench.node.view();
    let outcome = bench.recovery.go_on(&view, &mut bench.out, bench.now);
    let Some(Outcome::Failed(failures)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failures.len(), 1, "who has not answered is not blamed");
}

#[test]
fn a_reply_to_an_older_recovery_is_ignored() {
    let mut bench = Bench::start();
    let old = bench.asked();
    bench.recovery = Recovery::start(Generation(78), &bench.node.view(), &mut bench.out, epoch());
    let new = bench.asked();
    for (token, to, request) in old {
        bench.reply(token, Ok(answer(&bench.node, to, &request)));
    }
    assert_eq!(bench.recovery.phase(), Phase::ReadFlags, "nothing happened");
    for (token, to, request) in new {
        bench.reply(token, Ok(answer(&bench.node, to, &request)));
    }
    assert_eq!(bench.recovery.phase(), Phase::PushFlags);
}

#[test]
fn nodes_must_agree_on_the_kind_of_a_database() {
    let mut bench = Bench::start();
    for (token, to, _) in bench.run_to(Phase::ReadDatabases) {
        let flags = if to == pnn(1) {
            DbFlags::PERSISTENT
        } else {
            DbFlags::STICKY
        };
        let dbs = vec![DbidEntry {
            db_id: DbId(7),
            flags,
        }];
        bench.reply(token, Ok(Reply::DbidMap(DbidMap { dbs }).to_control()));
    }
    let Some(Outcome::Failed(failures)) = bench.outcome else {
        panic!("{:?}", bench.outcome)
    };
    let text = failures[0].to_string();
    assert!(
        text.contains("Incompatible database flags for 0x00000007 (0x0 != 0x1)"),
        "{text}"
    );
}

#[test]
fn a_lost_node_ends_the_recovery() {
    let mut bench = Bench::start();
    assert_eq!(bench.recovery.lost_node(&bench.node.view()), None);
    bench.node.set_flags(pnn(1), NodeFlags::DISCONNECTED);
    assert_eq!(bench.recovery.lost_node(&bench.node.view()), Some(pnn(1)));
}

#[test]
fn recovery_mode_is_entered_and_left() {
    for (phase, mode) in [
        (Phase::EnterRecovery, RecMode::Active),
        (Phase::LeaveRecovery, RecMode::Normal),
    ] {
        let asked = Bench::start().run_to(phase);
        assert_eq!(
            Request::from_control(&asked[0].2),
            Ok(Request::SetRecMode(mode))
        );
    }
}

#[test]
fn of_several_databases_the_worst_counts() {
    let failure = |raw, db| Failure {
        pnn: pnn(raw),
        opcode: Opcode::DB_FREEZE,
        db: Some(DbId(db)),
        cause: ControlFailure::Timeout,
    };
    let failures = [failure(1, 7), failure(1, 7), failure(1, 8), failure(2, 8)];
    assert_eq!(blamed(&failures), [(pnn(1), 2), (pnn(2), 1)].into());
}

#[test]
fn a_node_that_takes_no_part_need_not_answer() {
    let mut bench = Bench::start();
    bench.node.set_flags(pnn(1), NodeFlags::BANNED);
    for (token, to, request) in bench.asked() {
        let reply = answer(&bench.node, to, &request);
        let result = if to == pnn(1) {
            Err(ControlFailure::Timeout)
        } else {
            Ok(reply)
        };
        bench.reply(token, result);
    }
    assert_eq!(bench.recovery.phase(), Phase::PushFlags);
}
