//! Event scripts that fail, are slow, or hang.

use ctdb_core::Event;
use ctdb_proto::{NodeFlags, RunState};
use ctdb_sim::{Script, World};

use crate::story::{SECOND, Story};

#[test]
fn a_monitor_script_that_fails_makes_its_node_unhealthy_and_nothing_else() {
    let mut story = Story::begin();
    let (member, since) = (story.members()[0], story.now());
    story.world().script(member, &Event::Monitor, Script::Fails);
    let unhealthy = move |world: &World| {
        let leader = world.running().find(|n| n.leads());
        leader.is_some_and(|n| n.flags_of(member) == NodeFlags::UNHEALTHY)
    };
    story.within(SECOND * 30, "healthy", unhealthy);
    assert_eq!(story.recoveries_since(since), 0);
    assert!(story.work_done_in(SECOND * 10) > 0);
    story
        .world()
        .script(member, &Event::Monitor, Script::Succeeds);
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_monitor_script_that_hangs_is_tolerated_for_long() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story.world().script(member, &Event::Monitor, Script::Hangs);
    story.pass(SECOND * 120);
    story.becomes_whole_within(SECOND);
    let unhealthy = move |world: &World| {
        world
            .node(member)
            .is_some_and(|n| n.flags_of(member) == NodeFlags::UNHEALTHY)
    };
    story.within(SECOND * 60 * 16, "healthy", unhealthy);
}

#[test]
fn a_startup_script_that_fails_is_tried_again_and_disturbs_nobody() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story.world().kill(member);
    story.world().script(member, &Event::Startup, Script::Fails);
    story.world().start(member);
    story.pass(SECOND * 20);
    let since = story.now();
    story.pass(SECOND * 30);
    let state = story.world().node(member).map(ctdb_core::Node::run_state);
    assert_eq!(state, Some(RunState::Startup));
    assert_eq!(story.recoveries_since(since), 0);
    story
        .world()
        .script(member, &Event::Startup, Script::Succeeds);
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn a_recovered_script_that_hangs_does_not_end_in_endless_recoveries() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story
        .world()
        .script(member, &Event::Recovered, Script::Hangs);
    let killed = story.members()[1];
    story.world().kill(killed);
    story.pass(SECOND * 200);
    let since = story.now();
    assert!(story.work_done_in(SECOND * 60) > 0);
    let recoveries = story.recoveries_since(since);
    assert!(
        recoveries <= 1,
        "{recoveries} recoveries; {}",
        story.world().report()
    );
}

#[test]
fn a_startrecovery_script_that_hangs_delays_a_recovery() {
    let mut story = Story::begin();
    let member = story.members()[0];
    story
        .world()
        .script(member, &Event::StartRecovery, Script::Hangs);
    let killed = story.members()[1];
    story.world().kill(killed);
    story.pass(SECOND * 200);
    assert!(story.work_done_in(SECOND * 60) > 0);
}
