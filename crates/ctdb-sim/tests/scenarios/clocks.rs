//! Wall clocks that jump. In the original the timers follow them, and a leader whose clock steps
//! back keeps the cluster in recovery for as long (`cluster.md` 13).

use crate::story::{SECOND, Story};

#[test]
fn a_clock_that_jumps_disturbs_nobody() {
    for seconds in [-3600.0, 3600.0] {
        let mut story = Story::begin();
        let (leader, since) = (story.leader(), story.now());
        story.world().jump_clock(leader, seconds);
        assert!(story.work_done_in(SECOND * 60) > 0);
        assert_eq!(story.recoveries_since(since), 0);
        assert_eq!(story.leader(), leader);
    }
}

#[test]
fn a_node_that_starts_with_a_clock_of_the_past_wins_one_election_and_no_more() {
    let mut story = Story::begin_without_lock();
    let member = story.members()[0];
    story.world().kill(member);
    story.world().jump_clock(member, -3600.0);
    story.world().start(member);
    story.becomes_whole_within(SECOND * 30);
    story.pass(SECOND * 30);
    let since = story.now();
    story.pass(SECOND * 60);
    assert_eq!(story.recoveries_since(since), 0);
}
