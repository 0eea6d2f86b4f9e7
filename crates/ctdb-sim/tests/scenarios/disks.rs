//! Disks that are full or slow. In the original a full one keeps the whole cluster in recovery for
//! ever (`cluster.md` 6.5).

use std::time::Duration;

use ctdb_proto::NodeFlags;

use crate::story::{SECOND, Story};

#[test]
fn a_node_whose_disk_is_full_is_banned_and_the_others_go_on() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    let full = members[0];
    story.world().fill_disk(full, true);
    let banned = move |world: &ctdb_sim::World| {
        world
            .node(full)
            .is_some_and(|n| n.flags_of(full).contains(NodeFlags::BANNED))
    };
    story.within(SECOND * 60, "it is not banned", banned);
    story.pass(SECOND * 10);
    let mut rest = vec![leader, members[1]];
    rest.sort();
    story.goes_on_with(&rest, SECOND * 20);
    let since = story.now();
    assert!(story.work_done_in(SECOND * 60) > 0);
    assert_eq!(story.recoveries_since(since), 0);
    story.world().fill_disk(full, false);
    ctdb_sim::admin::ban(full, Duration::ZERO, story.world());
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_leader_whose_disk_is_full_is_banned_too() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().fill_disk(leader, true);
    story.pass(SECOND * 60);
    story.goes_on_with(&members, SECOND * 30);
    assert!(story.work_done_in(SECOND * 10) > 0);
}

#[test]
fn a_slow_disk_delays_a_recovery() {
    let mut story = Story::begin();
    let members = story.members();
    story.world().slow_disk(members[0], SECOND);
    story.world().kill(members[1]);
    story.pass(SECOND * 30);
    assert!(story.work_done_in(SECOND * 10) > 0);
}
