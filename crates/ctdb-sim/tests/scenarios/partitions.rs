//! Networks that fall apart and come together again (`cluster.md` 10).

use ctdb_proto::Pnn;
use ctdb_sim::Options;

use crate::story::{SECOND, SILENCE, Story};

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
