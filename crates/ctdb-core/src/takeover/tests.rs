use ctdb_proto::{NodeFlags, Opcode, PublicIp, Reply, ReplyControl, SockAddr};

use super::*;
use crate::recoverd::tests::{FakeNode, epoch, pnn};
use crate::recoverd::{ControlFailure, RecoverdEffect};

/// A takeover run of node 0 of 3; node 2 presents itself as a 4.17.
struct Bench {
    node: FakeNode,
    out: Outbox,
    run: Option<TakeoverRun>,
    outcome: Option<Outcome>,
    /// Controls sent, in their order.
    sent: Vec<(u32, Opcode)>,
    messages: Vec<Message>,
}

impl Bench {
    fn start() -> Self {
        Self::start_with(BTreeSet::new())
    }

    /// `ours`: nodes that run this daemon.
    fn start_with(ours: BTreeSet<Pnn>) -> Self {
        let mut node = FakeNode::new(0, 3);
        node.nodes[2].keepalive_version = Some(SambaVersion::new(4, 17));
        let mut out = Outbox::default();
        let requests = Vec::new();
        let view = node.view();
        let run = TakeoverRun::start(requests, false, false, ours, &view, &mut out, epoch());
        let (sent, messages) = (Vec::new(), Vec::new());
        Self {
            node,
            out,
            run: Some(run),
            outcome: None,
            sent,
            messages,
        }
    }

    /// Answers all controls until the run is over.
    fn run(&mut self, answer: impl Fn(u32, Opcode) -> ControlResult) -> Outcome {
        while let Some(effect) = self.out.pop() {
            match effect {
                RecoverdEffect::Control {
                    token, to, request, ..
                } => {
                    self.sent.push((to.get(), request.opcode));
                    let result = answer(to.get(), request.opcode);
                    let run = self.run.as_mut().unwrap();
                    let view = self.node.view();
                    let outcome = run.on_reply(token, result, &view, &mut self.out, epoch());
                    self.outcome = self.outcome.or(outcome);
                }
                RecoverdEffect::Message { srvid, data, .. } => {
                    self.messages.push(Message::decode(srvid, data).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        self.outcome.expect("the run is over")
    }

    fn sent(&self, opcode: Opcode) -> Vec<u32> {
        self.sent
            .iter()
            .filter(|(_, op)| *op == opcode)
            .map(|(to, _)| *to)
            .collect()
    }
}

fn ips(count: usize) -> ReplyControl {
    let ip = PublicIp {
        pnn: None,
        addr: SockAddr(([10, 0, 0, 1], 0).into()),
    };
    Reply::PublicIps(PublicIpList {
        ips: vec![ip; count],
    })
    .to_control()
}

#[test]
fn without_public_addresses_only_the_end_is_announced() {
    let mut bench = Bench::start();
    let outcome = bench.run(|_, opcode| match opcode {
        Opcode::GET_PUBLIC_IPS => Ok(ips(0)),
        _ => Ok(ReplyControl::status(0)),
    });
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(bench.sent(Opcode::GET_PUBLIC_IPS), [0, 1, 2]);
    assert_eq!(bench.sent(Opcode::IPREALLOCATED), [0, 1, 2]);
    assert_eq!(bench.sent.len(), 6);
    let timeouts = bench.messages.iter().map(|message| match message {
        Message::DisableTakeoverRuns(disable) => disable.timeout.as_secs(),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        timeouts.collect::<Vec<_>>(),
        [60, 60, 0, 0],
        "to both peers, before and after"
    );
}

#[test]
fn old_nodes_are_not_told_that_addresses_may_move_and_may_not_know() {
    let mut bench = Bench::start();
    let outcome = bench.run(|to, opcode| match opcode {
        Opcode::GET_PUBLIC_IPS => Ok(ips(1)),
        // Node 1 is as old, but its version is not known.
        Opcode::START_IPREALLOCATE if to == 1 => Ok(ReplyControl::status(-1)),
        _ => Ok(ReplyControl::status(0)),
    });
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(bench.sent(Opcode::START_IPREALLOCATE), [0, 1]);
}

#[test]
fn a_node_of_ours_is_told_whichever_version_it_presents() {
    let mut bench = Bench::start_with([pnn(2)].into());
    bench.run(|_, opcode| match opcode {
        Opcode::GET_PUBLIC_IPS => Ok(ips(1)),
        _ => Ok(ReplyControl::status(0)),
    });
    assert_eq!(bench.sent(Opcode::START_IPREALLOCATE), [0, 1, 2]);
}

#[test]
fn the_node_that_fails_is_named_unless_it_was_lost() {
    for (failure, culprit) in [
        (ControlFailure::Timeout, Some(pnn(1))),
        (ControlFailure::Disconnected, None),
    ] {
        let mut bench = Bench::start();
        let outcome = bench.run(|to, opcode| match opcode {
            Opcode::GET_PUBLIC_IPS => Ok(ips(0)),
            _ if to == 1 => Err(failure.clone()),
            _ => Ok(ReplyControl::status(0)),
        });
        assert_eq!(outcome, Outcome::Failed { culprit });
    }
}

#[test]
fn stopped_nodes_take_part_in_the_end() {
    let mut bench = Bench::start();
    bench.node.set_flags(pnn(1), NodeFlags::STOPPED);
    bench.run(|_, opcode| match opcode {
        Opcode::GET_PUBLIC_IPS => Ok(ips(0)),
        _ => Ok(ReplyControl::status(0)),
    });
    assert_eq!(bench.sent(Opcode::IPREALLOCATED), [0, 1, 2]);
}

#[test]
fn failed_runs_are_repeated_slower_each_time() {
    let mut queue = TakeoverQueue::default();
    let pauses = (0..7).map(|_| {
        let again = queue.on_end(false, epoch()).unwrap();
        assert_eq!(queue.due(epoch()), None);
        assert_eq!(queue.due(again), Some(TakeoverReason::PreviousFailed));
        (again - epoch()).as_secs()
    });
    assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 32]);
    queue.on_end(true, epoch());
    assert_eq!(queue.due(epoch()), None);
}

#[test]
fn a_request_is_due_at_once_and_counted_once() {
    let mut queue = TakeoverQueue::default();
    let request = SrvidMessage {
        pnn: Some(pnn(2)),
        srvid: Srvid(0),
    };
    queue.add(request);
    queue.add(request);
    let reason = TakeoverReason::Requested {
        first: Some(pnn(2)),
        requests: 1,
    };
    assert_eq!(queue.due(epoch()), Some(reason));
    assert_eq!(queue.take(), [request]);
    assert_eq!(queue.due(epoch()), None);
}

#[test]
fn who_asked_is_told_how_it_ended() {
    let mut out = Outbox::default();
    let silent = SrvidMessage {
        pnn: Some(pnn(1)),
        srvid: Srvid(0),
    };
    let tool = SrvidMessage {
        pnn: Some(pnn(2)),
        srvid: Srvid(0xCE01),
    };
    answer(&[silent, tool], pnn(0), true, &mut out);
    answer(&[tool], pnn(0), false, &mut out);
    for expected in [0_i32, -1] {
        let Some(RecoverdEffect::Message { to, srvid, data }) = out.pop() else {
            panic!()
        };
        assert_eq!((to, srvid), (pnn(2).into(), Srvid(0xCE01)));
        assert_eq!(i32::decode(&mut data.clone()), Ok(expected));
    }
    assert_eq!(out.pop(), None);
}
