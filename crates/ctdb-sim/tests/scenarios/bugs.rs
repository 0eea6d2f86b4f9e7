//! Three bugs of the original (Samba Bugzilla), and some that the simulator found here.

use std::time::Duration;

use ctdb_proto::control::Request;
use ctdb_sim::{LockService, Options, admin};

use crate::story::{SECOND, SILENCE, Story};

/// 16152: a second election began inside the first one, in a nested event loop, and the two left
/// the node with two opinions about its leader.
#[test]
fn an_election_that_begins_during_another_one_ends_with_one_leader() {
    for lock in [false, true] {
        let mut story = Story::of(Options {
            nodes: 5,
            cluster_lock: lock,
            ..Options::default()
        });
        for _ in 0..5 {
            let (leader, members) = (story.leader(), story.members());
            story.world().kill(leader);
            story.pass(Duration::from_millis(103));
            // Another one begins: a member loses the others, and finds them again.
            for other in &members[1..] {
                story.world().reset(members[0], *other);
            }
            story.pass(SECOND * 3);
            story.world().start(leader);
            story.becomes_whole_within(SECOND * 30);
        }
    }
}

/// 16082: a leader that was to go recovered with the flags that it had read before.
#[test]
fn a_leader_that_is_stopped_in_the_middle_of_a_recovery_does_not_finish_it() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    for node in story.cluster.world.pnns() {
        story.cluster.world.slow_disk(node, SECOND / 2);
    }
    admin::order(
        leader,
        &Request::SetRecMode(ctdb_proto::RecMode::Active),
        story.world(),
    );
    story.pass(SECOND * 2);
    let since = story.now();
    admin::order(leader, &Request::StopNode, story.world());
    story.goes_on_with(&members, SECOND * 30);
    let ended = |what: &_| matches!(what, ctdb_core::explain::What::RecoveryEnded { .. });
    let world = story.world();
    assert!(!world.decisions(leader, since).any(|d| ended(&d.what)));
}

/// 15892: a leader broadcast that came late left the holder of the cluster lock silent for good.
#[test]
fn a_late_broadcast_of_the_old_leader_does_not_silence_the_new_one() {
    let mut story = Story::begin();
    let (old, members) = (story.leader(), story.members());
    // What the old leader says is under way for a long time.
    for member in &members {
        story.world().delay(old, *member, SECOND * 3);
    }
    story.pass(SECOND * 4);
    story.world().lose_lock(Duration::ZERO);
    story.world().lock_service(LockService::Works);
    story.pass(SILENCE);
    for member in &members {
        story.world().delay(old, *member, Duration::ZERO);
    }
    story.becomes_whole_within(SECOND * 30);
    let since = story.now();
    story.pass(SECOND * 30);
    assert_eq!(story.recoveries_since(since), 0);
}

/// Found by seed 557: a new leader's order to enter recovery mode came while the test of a slow
/// lock, asked for by the old leader, was still running. Its answer ended the recovery mode, so
/// that nobody saw the unfinished recovery, and a node that waited for its end waited for ever.
#[test]
fn a_recovery_that_its_leader_cannot_end_is_repeated() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story.world().kill(member);
    story.pass(SECOND * 2);
    story.world().lock_service(LockService::Slow(SECOND * 4));
    story.world().start(member);
    story.pass(SECOND * 2);
    story.world().lose_lock(Duration::ZERO);
    story.pass(SECOND * 10);
    story.world().lock_service(LockService::Works);
    story.becomes_whole_within(SECOND * 30);
}

/// Found by seed 137: a node that could not reach a member committed without it. The member built
/// its next commit on the old state, and its copy won the next recovery.
#[test]
fn nobody_commits_without_a_member_that_it_cannot_reach() {
    let mut story = Story::begin();
    let members = story.members();
    story.world().cut(members[0], members[1]);
    // All rules are checked: a commit that is acknowledged is on all members.
    story.pass(SILENCE * 4);
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
}
