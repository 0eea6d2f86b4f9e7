//! Networks that fall apart and come together again (`cluster.md` 10).

use ctdb_proto::{DbId, Generation, Pnn};
use ctdb_sim::workload::COUNTERS;
use ctdb_sim::{Options, World};

use crate::story::{SECOND, SILENCE, Story};

/// In which generation the clients of a node can write, if they can.
fn writable_in(pnn: Pnn, world: &World) -> Option<Generation> {
    let db = DbId::of_name(COUNTERS);
    let generation = world.node(pnn)?.database_generation(db)?;
    (!world.disk(pnn).is_frozen(db)).then_some(generation)
}

#[test]
fn without_a_lock_an_isolated_node_makes_a_cluster_of_its_own_and_comes_back() {
    let mut story = Story::begin_without_lock();
    let (leader, members) = (story.leader(), story.members());
    story
        .world()
        .partition(&[members[0]], &[leader, members[1]]);
    let mut rest = vec![leader, members[1]];
    rest.sort();
    story.goes_on_with(&rest, SILENCE + SECOND * 10);
    story.goes_on_with(&[members[0]], SILENCE + SECOND * 20);
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn with_a_lock_the_side_of_its_holder_goes_on() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().partition(&[leader], &members);
    story.goes_on_with(&[leader], SILENCE + SECOND * 10);
    story.pass(SECOND * 60);
    let recovers = |pnn: &Pnn| {
        story
            .cluster
            .world
            .node(*pnn)
            .is_some_and(ctdb_core::Node::is_in_recovery)
    };
    assert!(members.iter().all(recovers), "nobody leads the others");
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn with_a_lock_only_one_side_recovers() {
    let mut story = Story::of(Options {
        nodes: 5,
        cluster_lock: true,
        ..Options::default()
    });
    let leader = story.leader();
    let members = story.members();
    let (near, far) = members.split_at(2);
    let mut side = vec![leader, near[0], near[1]];
    side.sort();
    let before = story.now();
    story.world().partition(&side, far);
    story.goes_on_with(&side, SILENCE + SECOND * 10);
    story.pass(SECOND * 60);
    let ended = |pnn: &Pnn| {
        let ended = |what: &_| matches!(what, ctdb_core::explain::What::RecoveryEnded { .. });
        story
            .cluster
            .world
            .decisions(*pnn, before)
            .any(|d| ended(&d.what))
    };
    assert!(ended(&leader));
    assert!(
        !far.iter().any(ended),
        "no recovery on the side without the lock"
    );
}

#[test]
fn a_leader_that_starts_anew_waits_for_those_who_may_not_know() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().partition(&[leader], &members);
    story.world().kill(leader);
    // It misses a leader, and gets the lock, before the others have given it up.
    story.world().start(leader);
    let begin = story.now();
    story.goes_on_with(&[leader], SECOND * 30);
    let took = story.now().saturating_sub(begin);
    assert!(took > SECOND * 10, "{took:?}");
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
}

#[test]
fn after_a_recovery_only_the_side_with_the_lock_writes() {
    let mut story = Story::begin();
    let (leader, members) = (story.leader(), story.members());
    story.world().partition(&[leader], &members);
    story.goes_on_with(&[leader], SILENCE + SECOND * 10);
    for _ in 0..600 {
        story.pass(SECOND / 10);
        let world = story.world();
        assert!(writable_in(leader, world).is_some());
        let writes = members
            .iter()
            .find(|pnn| writable_in(**pnn, world).is_some());
        assert_eq!(writes, None, "at {:?}; {}", world.elapsed(), world.report());
    }
    story.world().heal_all();
    story.becomes_whole_within(SECOND * 30);
    assert!(story.work_done_in(SECOND * 5) > 0);
}
