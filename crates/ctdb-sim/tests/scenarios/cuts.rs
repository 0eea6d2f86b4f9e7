//! A link that is cut although its nodes are not. The original recovers, or pushes flags, for ever
//! (`cluster.md` 10).

use crate::story::{SECOND, SILENCE, Story};

/// Long enough to see an endless loop.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

#[test]
fn a_cut_between_two_members_does_not_end_in_endless_recoveries() {
    let mut story = Story::begin();
    let members = story.members();
    story.world().cut(members[0], members[1]);
    story.pass(SILENCE + SECOND * 30);
    let since = story.now();
    story.pass(LONG);
    let recoveries = story.recoveries_since(since);
    assert!(recoveries <= 1, "{recoveries} recoveries in {LONG:?}");
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_cut_between_the_leader_and_a_member_does_not_end_in_endless_recoveries() {
    for mut story in [Story::begin(), Story::begin_without_lock()] {
        let (leader, members) = (story.leader(), story.members());
        story.world().cut(leader, members[0]);
        story.pass(SILENCE + SECOND * 30);
        let since = story.now();
        story.pass(LONG);
        let recoveries = story.recoveries_since(since);
        assert!(
            recoveries <= 1,
            "{recoveries} recoveries in {LONG:?}; {}",
            story.world().report()
        );
        story.world().heal_all();
        story.becomes_whole_within(SECOND * 30);
    }
}

#[test]
fn a_cut_in_one_direction_heals() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().cut_one_way(leader, members[0]);
    story.pass(SILENCE * 2);
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_slow_link_loses_nothing() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().delay(leader, members[0], SECOND);
    assert!(story.work_done_in(SECOND * 30) > 0);
    story
        .world()
        .delay(leader, members[0], std::time::Duration::ZERO);
    story.becomes_whole_within(SECOND * 30);
}
