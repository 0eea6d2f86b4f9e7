use ctdb_proto::NodeFlags;

use super::*;
use crate::recoverd::outbox::{ControlFailure, LockAttempt, RecoverdEffect};
use crate::recoverd::tests::{FakeNode, epoch, pnn};

const ME: u32 = 1;
/// Unix time at which the recovery daemon under test was started.
const BORN: u64 = 1000;

/// An election of node 1 of 3, with all it works on.
struct Bench {
    node: FakeNode,
    election: Election,
    leader: LeaderWatch,
    lock: ClusterLock,
    out: Outbox,
    history: History,
    now: Instant,
}

impl Bench {
    fn new(lock: Option<&str>) -> Self {
        let wall = Duration::from_secs(BORN);
        Self {
            node: FakeNode::new(ME, 3),
            election: Election::new(false, wall, fastrand::Rng::with_seed(1)),
            leader: LeaderWatch::new(Duration::from_secs(5), epoch()),
            lock: ClusterLock::new(lock.map(str::to_owned)),
            out: Outbox::default(),
            history: History::default(),
            now: epoch(),
        }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Election, &mut ElectionCtx<'_, '_>) -> T) -> T {
        let view = self.node.view();
        let mut ctx = ElectionCtx {
            view: &view,
            now: self.now,
            wall: Duration::from_secs(BORN + 500),
            leader: &mut self.leader,
            lock: &mut self.lock,
            out: &mut self.out,
            history: &mut self.history,
        };
        call(&mut self.election, &mut ctx)
    }

    /// All effects since the last call: sent messages, decoded, and the tokens of controls.
    fn effects(&mut self) -> (Vec<(Dest, Message)>, Vec<Token>, Vec<RecoverdEffect>) {
        let (mut messages, mut tokens, mut others) = Default::default();
        while let Some(effect) = self.out.pop() {
            match effect {
                RecoverdEffect::Message { to, srvid, data } => {
                    Vec::push(&mut messages, (to, Message::decode(srvid, data).unwrap()));
                }
                RecoverdEffect::Control { token, .. } => Vec::push(&mut tokens, token),
                other => Vec::push(&mut others, other),
            }
        }
        (messages, tokens, others)
    }

    /// Starts an election, and lets all nodes enter recovery mode.
    fn start(&mut self) {
        self.with(|election, ctx| election.start(ElectionReason::LeaderSilent, ctx));
        let (_, tokens, _) = self.effects();
        for token in tokens {
            let reply = Ok(ctdb_proto::ReplyControl::status(0));
            self.with(|election, ctx| election.on_reply(token, reply, ctx));
        }
    }
}

fn candidate(raw: u32, born: i64, flags: NodeFlags) -> ElectionMessage {
    let priority_time = TimeVal { sec: born, usec: 0 };
    ElectionMessage {
        num_connected: 9,
        priority_time,
        pnn: pnn(raw),
        node_flags: flags,
    }
}

#[test]
fn the_oldest_active_candidate_wins() {
    let active = NodeFlags::empty();
    // Their start, their flags, their pnn, whether I can lead; whether I win.
    let table = [
        (1001, active, 2, true, true),
        (999, active, 2, true, false),
        (1000, active, 2, true, false),
        (1000, active, 0, true, true),
        (999, NodeFlags::STOPPED, 2, true, true),
        (999, NodeFlags::BANNED, 2, true, true),
        (999, NodeFlags::UNHEALTHY, 2, true, false),
        (1001, active, 2, false, false),
        (1001, NodeFlags::STOPPED, 2, false, false),
    ];
    for (born, flags, raw, can_lead, expected) in table {
        let mine = TimeVal { sec: 1000, usec: 0 };
        let wins = wins_against(&candidate(raw, born, flags), can_lead, mine, pnn(ME));
        assert_eq!(wins, expected, "{born} {flags:?} {raw} {can_lead}");
    }
}

#[test]
fn an_election_begins_with_recovery_mode_on_all_active_nodes() {
    let mut bench = Bench::new(None);
    bench.node.set_flags(pnn(2), NodeFlags::DISCONNECTED);
    bench.with(|election, ctx| election.start(ElectionReason::LeaderSilent, ctx));
    let mut targets = Vec::new();
    while let Some(effect) = bench.out.pop() {
        let RecoverdEffect::Control {
            to,
            request,
            timeout,
            ..
        } = effect
        else {
            panic!("{effect:?}");
        };
        assert_eq!(
            Request::from_control(&request),
            Ok(Request::SetRecMode(RecMode::Active))
        );
        assert_eq!(timeout, PREPARE_TIMEOUT);
        targets.push(to);
    }
    assert_eq!(targets, [pnn(0), pnn(ME)]);
}

#[test]
fn a_node_that_does_not_answer_does_not_prevent_the_election() {
    let mut bench = Bench::new(None);
    bench.with(|election, ctx| election.start(ElectionReason::LeaderSilent, ctx));
    let (_, tokens, _) = bench.effects();
    for token in tokens {
        assert!(!bench.election.in_progress());
        let result = Err(ControlFailure::Timeout);
        bench.with(|election, ctx| election.on_reply(token, result, ctx));
    }
    assert!(bench.election.in_progress());
}

#[test]
fn a_candidate_tells_all_and_assumes_victory() {
    let mut bench = Bench::new(None);
    bench.start();
    let (messages, _, _) = bench.effects();
    assert_eq!(messages[0], (Dest::Connected, Message::Leader(None)));
    let (Dest::All, Message::Election(mine)) = &messages[1] else {
        panic!("{messages:?}")
    };
    assert_eq!((mine.pnn, mine.num_connected), (pnn(ME), 3));
    assert_eq!(mine.priority_time, TimeVal { sec: 1000, usec: 0 });
    assert!(bench.leader.is_me(pnn(ME)));
}

#[test]
fn without_objections_the_election_ends_after_its_time() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.effects();
    bench.now = bench.election.poll_timeout().unwrap();
    assert_eq!(bench.now, epoch() + Duration::from_secs(3));
    bench.with(Election::on_timeout);
    assert!(bench.election.is_idle());
    let (messages, _, _) = bench.effects();
    assert_eq!(
        messages,
        [(Dest::Connected, Message::Leader(Some(pnn(ME))))]
    );
}

#[test]
fn when_all_concede_the_election_is_over() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.with(|election, ctx| election.on_concession(pnn(0), ctx));
    assert!(bench.election.in_progress());
    bench.with(|election, ctx| election.on_concession(pnn(2), ctx));
    assert!(bench.election.is_idle());
    assert!(bench.leader.is_me(pnn(ME)));
}

#[test]
fn the_departure_of_the_last_who_has_not_conceded_ends_it_too() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.with(|election, ctx| election.on_concession(pnn(0), ctx));
    bench.node.set_flags(pnn(2), NodeFlags::DISCONNECTED);
    bench.with(Election::on_timeout);
    assert!(bench.election.is_idle());
}

#[test]
fn a_weaker_candidate_is_answered_after_a_moment_and_once() {
    let mut bench = Bench::new(None);
    for raw in [0, 2] {
        let theirs = candidate(raw, 2000, NodeFlags::empty());
        bench.with(|election, ctx| election.on_election(&theirs, ctx));
    }
    assert_eq!(bench.effects().0, []);
    bench.now = bench.election.poll_timeout().unwrap();
    assert!(bench.now < epoch() + Duration::from_millis(51));
    bench.with(Election::on_timeout);
    bench.with(Election::on_timeout);
    let (messages, _, _) = bench.effects();
    assert!(
        matches!(messages[..], [(Dest::All, Message::Election(_))]),
        "{messages:?}"
    );
}

#[test]
fn to_a_stronger_candidate_this_node_concedes() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.effects();
    let theirs = candidate(2, 1, NodeFlags::empty());
    bench.with(|election, ctx| election.on_election(&theirs, ctx));
    assert_eq!(bench.leader.leader(), Some(pnn(2)));
    let (messages, _, _) = bench.effects();
    assert_eq!(
        messages,
        [(Dest::Node(pnn(2)), Message::Leader(Some(pnn(2))))]
    );
    // The winner says that it leads: this is the end.
    bench.with(|election, ctx| election.on_leader(pnn(2), ctx));
    assert!(bench.election.is_idle());
}

#[test]
fn an_announced_election_in_which_nobody_stands_is_started_by_us() {
    let mut bench = Bench::new(None);
    bench.with(Election::on_no_leader);
    bench.now = bench
        .election
        .poll_timeout()
        .expect("it does not wait for ever");
    assert_eq!(bench.now, epoch() + CANDIDATE_TIMEOUT);
    bench.with(Election::on_timeout);
    let (_, tokens, _) = bench.effects();
    assert_eq!(tokens.len(), 3, "recovery mode for all");
}

#[test]
fn a_node_that_cannot_lead_starts_no_election() {
    let mut bench = Bench::new(None);
    bench.node.set_flags(pnn(ME), NodeFlags::STOPPED);
    bench.with(|election, ctx| election.start(ElectionReason::LeaderSilent, ctx));
    assert_eq!(bench.out.pop(), None);
}

#[test]
fn a_leader_that_resigns_makes_the_others_stand() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.with(|election, ctx| election.on_concession(pnn(0), ctx));
    bench.with(|election, ctx| election.on_concession(pnn(2), ctx));
    bench.effects();
    bench.node.set_flags(pnn(ME), NodeFlags::STOPPED);
    bench.with(Election::resign);
    let (messages, _, _) = bench.effects();
    assert_eq!(messages[0], (Dest::Connected, Message::Leader(None)));
    let (Dest::All, Message::Election(mine)) = &messages[1] else {
        panic!("{messages:?}")
    };
    assert_eq!(
        (mine.num_connected, mine.node_flags),
        (0, NodeFlags::STOPPED)
    );
    assert_eq!(
        mine.priority_time,
        TimeVal { sec: 1500, usec: 0 },
        "as young as can be"
    );
    bench.with(Election::resign);
    assert_eq!(bench.out.pop(), None, "said once");
}

#[test]
fn with_a_lock_the_race_decides() {
    let mut bench = Bench::new(Some("/cluster/lock"));
    bench.start();
    let (messages, _, effects) = bench.effects();
    assert_eq!(messages, [(Dest::Connected, Message::Leader(None))]);
    assert_eq!(effects, [RecoverdEffect::TakeClusterLock(LockAttempt(1))]);
    assert_eq!(bench.leader.leader(), None);
    bench
        .lock
        .on_event(LockAttempt(1), crate::cluster_lock::ClusterLockEvent::Taken);
    bench.with(|election, ctx| election.on_lock(LockOutcome::Taken, ctx));
    assert!(bench.leader.is_me(pnn(ME)) && bench.election.is_idle());
    let (messages, _, _) = bench.effects();
    assert_eq!(
        messages,
        [(Dest::Connected, Message::Leader(Some(pnn(ME))))]
    );
}

#[test]
fn a_lost_race_is_repeated_unless_a_leader_is_heard() {
    for leader_heard in [false, true] {
        let mut bench = Bench::new(Some("/cluster/lock"));
        bench.start();
        bench.effects();
        bench.lock.on_event(
            LockAttempt(1),
            crate::cluster_lock::ClusterLockEvent::Contention,
        );
        bench.with(|election, ctx| election.on_lock(LockOutcome::NotTaken, ctx));
        assert!(bench.election.is_idle());
        if leader_heard {
            bench.with(|election, ctx| election.on_leader(pnn(2), ctx));
        }
        bench.now += Duration::from_secs(1);
        bench.with(Election::on_timeout);
        let again = [RecoverdEffect::TakeClusterLock(LockAttempt(2))];
        let expected: &[_] = if leader_heard { &[] } else { &again };
        assert_eq!(bench.effects().2, expected);
    }
}

#[test]
fn with_a_lock_candidates_mean_nothing() {
    let mut bench = Bench::new(Some("/cluster/lock"));
    let theirs = candidate(2, 1, NodeFlags::empty());
    bench.with(|election, ctx| election.on_election(&theirs, ctx));
    assert!(bench.election.is_idle());
    assert_eq!(bench.out.pop(), None);
}
