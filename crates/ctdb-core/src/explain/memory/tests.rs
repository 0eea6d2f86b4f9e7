use super::*;
use crate::explain::{LeaderReason, RecoveryReason};
use crate::recoverd::tests::{epoch, pnn};

const MS: Duration = Duration::from_millis(1);
const ONE: Generation = Generation(17);

fn started(history: &mut History, generation: Generation, at: Instant) {
    let why = Why::Recovery(RecoveryReason::MemberLost(pnn(2)));
    history.add(at, What::RecoveryStarted { generation }, why);
}

fn ended(history: &mut History, generation: Generation, at: Instant) {
    let took = MS * 9;
    history.add(at, What::RecoveryEnded { generation, took }, Why::Done);
}

#[test]
fn each_phase_of_a_recovery_has_its_length() {
    let (mut memory, mut history) = (Memory::default(), History::default());
    let at = |ms: u32| epoch() + MS * ms;
    started(&mut history, ONE, at(0));
    memory.take_in(&history, Some((ONE, Phase::ReadFlags)), at(0));
    memory.take_in(&history, Some((ONE, Phase::ReadFlags)), at(1));
    memory.take_in(&history, Some((ONE, Phase::Databases)), at(2));
    let lengths = |memory: &Memory, now| memory.recovery().unwrap().lengths(now);
    let running = [
        (Phase::ReadFlags, at(0), MS * 2),
        (Phase::Databases, at(2), MS * 5),
    ];
    assert_eq!(lengths(&memory, at(7)), running, "it still runs");

    ended(&mut history, ONE, at(9));
    memory.take_in(&history, None, at(9));
    let last = lengths(&memory, at(1000))[1];
    assert_eq!(last, (Phase::Databases, at(2), MS * 7), "it has ended");

    started(&mut history, Generation(18), at(20));
    memory.take_in(&history, Some((Generation(18), Phase::ReadFlags)), at(20));
    assert_eq!(lengths(&memory, at(21)).len(), 1, "of the new one only");
}

#[test]
fn the_end_of_another_recovery_ends_nothing() {
    let (mut memory, mut history) = (Memory::default(), History::default());
    started(&mut history, ONE, epoch());
    ended(&mut history, Generation(99), epoch());
    memory.take_in(&history, None, epoch());
    assert_eq!(memory.recovery().unwrap().ended, None);
}

#[test]
fn what_matters_outlives_the_history() {
    let (mut memory, mut history) = (Memory::default(), History::default());
    let leader = What::Leader(Some(pnn(2)));
    history.add(epoch(), leader.clone(), Why::Leader(LeaderReason::Elected));
    let until = epoch() + MS;
    history.add(epoch(), What::Banned { pnn: pnn(1), until }, Why::Done);
    memory.take_in(&history, None, epoch());
    for _ in 0..2 * History::LIMIT {
        history.add(epoch(), What::TakeoverRunStarted, Why::Done);
    }
    memory.take_in(&history, None, epoch());
    assert_eq!(memory.leader().unwrap().what, leader);
    assert!(memory.ban_of(pnn(1)).is_some() && memory.ban_of(pnn(2)).is_none());
    let (_, end) = memory.takeover().unwrap();
    assert_eq!(*end, None);
}

#[test]
fn an_event_that_fails_again_and_again_is_one_thing_that_happened() {
    let mut memory = Memory::default();
    let failure = |how: &str| ScriptFailure {
        script: "50.x".into(),
        how: how.into(),
        output: String::new(),
    };
    let at = |ms: u32| epoch() + MS * ms;
    for time in 0..3 {
        memory.script_failed(Ticket(1), failure("exit status: 1"));
        memory.event_failed("monitor", Ticket(1), "", at(time));
    }
    let (_, failing) = memory.failing().next().unwrap();
    assert_eq!((failing.since, failing.last), (at(0), at(2)));
    assert_eq!(failing.why, Why::Script(failure("exit status: 1")));
    assert_eq!(memory.own().decisions().count(), 1);

    // Another reason is news.
    memory.script_failed(Ticket(1), failure("exit status: 2"));
    memory.event_failed("monitor", Ticket(1), "", at(3));
    // What is known of another run says nothing about this one.
    memory.script_failed(Ticket(2), failure("exit status: 3"));
    memory.event_failed("monitor", Ticket(3), "it ran out of time", at(4));
    let (_, failing) = memory.failing().next().unwrap();
    assert_eq!(failing.why, Why::Told("it ran out of time".into()));
    assert_eq!(memory.own().decisions().count(), 3);

    memory.event_ok("monitor", at(5));
    memory.event_ok("monitor", at(6));
    assert_eq!(memory.failing().count(), 0);
    assert_eq!(memory.own().decisions().count(), 4);
}
