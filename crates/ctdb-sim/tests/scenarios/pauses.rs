//! Nodes that stand still (SIGSTOP) and go on (SIGCONT).

use crate::story::{SECOND, SILENCE, Story};

#[test]
fn a_paused_member_is_left_out_once_it_was_silent_for_too_long() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().pause(members[0]);
    let mut rest = vec![leader, members[1]];
    rest.sort();
    let took = story.goes_on_with(&rest, SILENCE + SECOND * 10);
    assert!(took > SECOND * 20, "{took:?}");
    story.world().resume(members[0]);
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_paused_leader_is_replaced_without_a_lock() {
    let mut story = Story::begin_without_lock();
    let (leader, members) = (story.leader(), story.members());
    story.world().pause(leader);
    story.goes_on_with(&members, SILENCE + SECOND * 20);
}

#[test]
fn a_paused_leader_keeps_the_cluster_lock_and_nobody_else_leads() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().pause(leader);
    story.pass(SILENCE * 2);
    let leads = |pnn: &_| {
        story
            .cluster
            .world
            .node(*pnn)
            .is_some_and(ctdb_core::Node::leads)
    };
    assert!(
        !members.iter().any(leads),
        "the lock is held by node {leader}"
    );
    story.world().resume(leader);
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_short_pause_changes_nothing_for_long() {
    let mut story = Story::begin();
    let leader = story.leader();
    story.world().pause(leader);
    story.pass(SECOND * 3);
    story.world().resume(leader);
    story.becomes_whole_within(SECOND * 10);
    assert_eq!(story.leader(), leader);
}
