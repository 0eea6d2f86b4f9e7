//! Daemons that die and come back.

use ctdb_proto::DbId;
use ctdb_sim::workload::COUNTERS;

use crate::story::{SECOND, Story};

#[test]
fn a_killed_leader_is_replaced() {
    for mut story in [Story::begin(), Story::begin_without_lock()] {
        let (leader, members) = (story.leader(), story.members());
        story.world().kill(leader);
        let took = story.goes_on_with(&members, SECOND * 10);
        assert!(took < SECOND * 5, "{took:?}");
        assert!(story.work_done_in(SECOND * 5) > 0);
    }
}

/// The survivors block their records at once, since the leader may live and go on without them. The
/// recovery that they make among themselves must have them all the same.
#[test]
fn a_killed_leader_takes_no_records_of_others_along() {
    let db = DbId::of_name(COUNTERS);
    for mut story in [Story::begin(), Story::begin_without_lock()] {
        let (leader, members) = (story.leader(), story.members());
        let world = story.world();
        let mut owned = Vec::new();
        for pnn in &members {
            let records = world.disk(*pnn).records(db).into_iter();
            let mine = records.filter(|(_, record)| record.header.dmaster == pnn.get());
            owned.extend(mine.map(|(key, record)| (key, record.header.rsn)));
        }
        assert!(!owned.is_empty(), "the leader has all records");
        world.kill(leader);
        story.goes_on_with(&members, SECOND * 10);
        let world = story.world();
        for (key, rsn) in owned {
            let copies = members.iter().map(|pnn| world.disk(*pnn).record(db, &key));
            let newest = copies.flatten().map(|record| record.header.rsn).max();
            let key = key.escape_ascii();
            assert!(newest >= Some(rsn), "{key}: {newest:?}, was {rsn:?}");
        }
    }
}

#[test]
fn a_killed_member_is_left_out() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().kill(members[0]);
    let mut rest = vec![leader, members[1]];
    rest.sort();
    let took = story.goes_on_with(&rest, SECOND * 10);
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn a_restarted_node_takes_part_again() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story.world().kill(member);
    story.pass(SECOND * 3);
    story.world().start(member);
    story.becomes_whole_within(SECOND * 10);
}

#[test]
fn a_rolling_restart_keeps_the_cluster_at_work() {
    let mut story = Story::begin();
    let nodes: Vec<_> = story.world().pnns().collect();
    for node in nodes {
        story.world().kill(node);
        story.pass(SECOND);
        assert!(story.work_done_in(SECOND * 5) > 0, "without node {node}");
        story.world().start(node);
        story.becomes_whole_within(SECOND * 15);
    }
}

#[test]
fn a_leader_that_dies_in_the_middle_of_a_recovery_leaves_it_to_the_next() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    for node in [leader, members[0], members[1]] {
        story.world().slow_disk(node, SECOND);
    }
    story.world().reset(leader, members[0]);
    story.pass(SECOND * 2);
    let in_recovery = story
        .world()
        .node(leader)
        .is_some_and(ctdb_core::Node::is_in_recovery);
    assert!(in_recovery, "the recovery should take longer");
    story.world().kill(leader);
    for node in &members {
        story.world().slow_disk(*node, std::time::Duration::ZERO);
    }
    story.goes_on_with(&members, SECOND * 20);
}
