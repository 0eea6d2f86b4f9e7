//! A cluster lock that is lost, slow or refused, and one that not all nodes agree about.

use std::time::Duration;

use ctdb_sim::LockService;

use crate::story::{SECOND, Story};

#[test]
fn a_lost_lock_is_taken_again() {
    let mut story = Story::begin();
    story.world().lose_lock(Duration::ZERO);
    story.pass(SECOND / 10);
    story.becomes_whole_within(SECOND * 10);
}

#[test]
fn a_lock_that_is_refused_to_all_leaves_no_leader_and_its_return_one() {
    let mut story = Story::begin();
    let leader = story.leader();
    story.world().lock_service(LockService::Refuses);
    story.world().kill(leader);
    story.pass(SECOND * 60);
    assert!(story.cluster.world.running().all(|n| !n.leads()));
    story.world().lock_service(LockService::Works);
    story.world().start(leader);
    story.becomes_whole_within(SECOND * 60);
}

#[test]
fn a_slow_lock_delays_the_next_leader() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().lock_service(LockService::Slow(SECOND * 4));
    story.world().kill(leader);
    story.goes_on_with(&members, SECOND * 60);
}

#[test]
fn a_node_with_another_lock_leaves() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story.world().kill(member);
    story.world().other_lock(member, "/another/lock");
    story.world().start(member);
    story.within(SECOND * 30, "it runs", |world| world.node(member).is_none());
}
