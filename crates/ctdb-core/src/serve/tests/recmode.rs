//! The end of a recovery, when the test of the cluster lock puts it off.

use super::*;
use crate::input::LockTest;

/// A recovery of node 1 ends here, but the test of the lock takes its time.
fn tested(f: &mut Fixture) -> Ticket {
    f.node.config.cluster_lock = Some("/shared/lock".to_owned());
    f.node.cluster.rec_mode = RecMode::Active;
    f.peer_asks(
        1,
        &Request::SetRecMode(RecMode::Normal),
        ControlFlags::empty(),
    );
    let is_test = |effect: &mut Effect| matches!(effect, Effect::TestClusterLock { .. });
    let test = f.effects.extract_if(.., is_test).last();
    match test {
        Some(Effect::TestClusterLock { ticket, .. }) => ticket,
        other => panic!("no test of the lock: {other:?}"),
    }
}

fn held_elsewhere(f: &mut Fixture, ticket: Ticket) {
    let outcome = LockTest::Contention { seconds: 0.1 };
    f.handle(Input::ClusterLockTested { ticket, outcome });
}

#[test]
fn records_are_used_again_when_the_lock_was_tested() {
    let mut f = Fixture::new();
    let ticket = tested(&mut f);
    assert!(f.in_recovery());
    held_elsewhere(&mut f, ticket);
    assert!(!f.in_recovery());
}

/// Else a node that was stopped meanwhile would use its records without a recovery.
#[test]
fn the_end_of_a_recovery_that_the_node_has_left_is_refused() {
    let mut f = Fixture::new();
    let ticket = tested(&mut f);
    f.peer_asks(1, &Request::StopNode, ControlFlags::empty());
    held_elsewhere(&mut f, ticket);
    assert!(f.in_recovery());
    assert_eq!(f.database(VOLATILE).generation, Generation::INVALID);
}
