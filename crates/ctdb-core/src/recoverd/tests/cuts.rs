//! Stories: some nodes do not reach each other. What is left comes to rest, and is whole again when
//! the links are.

use std::time::Duration;

use super::world::World;

const ALL: [u32; 3] = [0, 1, 2];
const SOON: Duration = Duration::from_secs(20);

/// A healthy cluster, its leader, and the two that follow.
fn healthy(lock: bool) -> (World, u32, [u32; 2]) {
    let mut world = World::new(3, lock);
    world.run_until(SOON, "start", |world| world.is_healthy(&ALL));
    // The pause after a recovery is over.
    world.run_for(SOON);
    let leader = world.recoverd(0).leader().expect("a healthy cluster").get();
    let followers: Vec<u32> = ALL.into_iter().filter(|node| *node != leader).collect();
    (world, leader, [followers[0], followers[1]])
}

fn sorted(a: u32, b: u32) -> [u32; 2] {
    [a.min(b), a.max(b)]
}

/// In the original the cluster would recover again and again.
fn comes_to_rest(world: &mut World, members: [u32; 2], what: &str) {
    world.run_until(SOON, what, |world| world.is_healthy(&members));
    world.run_for(Duration::from_secs(5));
    let before = world.recoveries();
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.recoveries(), before, "{what}: not at rest");
    assert!(world.is_healthy(&members), "{what}: falls apart");
}

#[test]
fn of_two_followers_without_a_link_one_is_excluded_until_it_is_back() {
    let (mut world, leader, [a, b]) = healthy(false);
    world.cut(a, b);
    comes_to_rest(&mut world, sorted(leader, a), "cut");
    world.heal(a, b);
    world.run_until(SOON, "healed", |world| world.is_healthy(&ALL));
}

#[test]
fn a_follower_without_a_link_to_the_leader_stays_out_until_it_is_back() {
    for lock in [false, true] {
        let (mut world, leader, [a, b]) = healthy(lock);
        world.cut(leader, b);
        comes_to_rest(&mut world, sorted(leader, a), "cut");
        assert!(world.daemon(b).node.all_frozen, "its records are blocked");
        world.heal(leader, b);
        world.run_until(SOON, "healed", |world| world.is_healthy(&ALL));
    }
}

#[test]
fn with_a_cluster_lock_who_lost_the_others_blocks_its_records() {
    let (mut world, leader, [a, b]) = healthy(true);
    world.cut(leader, b);
    world.cut(a, b);
    comes_to_rest(&mut world, sorted(leader, a), "cut");
    assert!(world.daemon(b).node.all_frozen);
    world.heal(leader, b);
    world.heal(a, b);
    world.run_until(SOON, "healed", |world| world.is_healthy(&ALL));
}
