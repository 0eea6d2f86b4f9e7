//! What a cluster of recovery daemons does when something happens to it.

use std::time::Duration;

use ctdb_conf::Tunable;
use ctdb_proto::{
    Capabilities, DbFlags, Dest, DisableMessage, Generation, Message, NodeFlags, Opcode, Pnn,
    RecMode, SrvidMessage,
};

use super::pnn;
use super::world::{TOOL, World};
use crate::explain::{CreditReason, RecoveryReason, What, Why};

const S: Duration = Duration::from_secs(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Three nodes that have become a cluster.
fn healthy_world(lock_file: bool) -> World {
    let mut world = World::new(3, lock_file);
    world.run_until(S, "first recovery", |w| w.is_healthy(&[0, 1, 2]));
    // The takeover run ends, and the leader's next rounds find nothing to do.
    world.run_for(S * 3);
    assert!(world.is_healthy(&[0, 1, 2]));
    world
}

#[test]
fn three_nodes_elect_one_leader_and_recover_at_once() {
    let mut world = World::new(3, false);
    let took = world.run_until(S, "healthy", |w| w.is_healthy(&[0, 1, 2]));
    assert!(took < ms(300), "{took:?}");
    assert_eq!(world.recoverd(1).leader(), Some(pnn(0)), "the oldest leads");
    world.run_for(S * 60);
    assert_eq!(world.recoveries(), 1, "and then all is quiet");
}

#[test]
fn with_a_cluster_lock_its_holder_leads() {
    let mut world = World::new(3, true);
    let took = world.run_until(S, "healthy", |w| w.is_healthy(&[0, 1, 2]));
    assert!(took < ms(300), "{took:?}");
    let (holder, _) = world.lock_holder.unwrap();
    assert_eq!(world.recoverd(2).leader(), Some(holder));
    world.run_for(S * 60);
    assert_eq!(world.recoveries(), 1);
}

#[test]
fn a_killed_leader_is_replaced_within_a_second() {
    for lock_file in [false, true] {
        let mut world = healthy_world(lock_file);
        let leader = world.recoverd(1).leader().unwrap();
        world.kill(leader.get());
        let others: Vec<u32> = (0..3).filter(|raw| *raw != leader.get()).collect();
        let took = world.run_until(S, "healthy", |w| w.is_healthy(&others));
        assert!(took < S, "{took:?}, lock {lock_file}");
    }
}

#[test]
fn a_killed_member_is_left_out_at_once() {
    let mut world = healthy_world(false);
    world.kill(1);
    let took = world.run_until(S, "healthy", |w| w.is_healthy(&[0, 2]));
    assert!(took < ms(100), "{took:?}");
    let decisions = world.recoverd(0).history();
    let started = |why: &Why| *why == Why::Recovery(RecoveryReason::MemberLost(pnn(1)));
    assert!(
        decisions.decisions().any(|d| started(&d.why)),
        "and the history says why"
    );
}

#[test]
fn a_node_that_comes_back_takes_part_soon() {
    let mut world = healthy_world(false);
    world.kill(1);
    world.run_until(S, "healthy without it", |w| w.is_healthy(&[0, 2]));
    world.restart(1);
    let took = world.run_until(S * 3, "healthy with it", |w| w.is_healthy(&[0, 1, 2]));
    assert!(took < S * 2, "{took:?}");
    assert_eq!(world.recoverd(1).leader(), Some(pnn(0)));
}

#[test]
fn a_killed_leader_that_comes_back_does_not_lead_again() {
    let mut world = healthy_world(false);
    world.kill(0);
    world.run_until(S, "healthy without it", |w| w.is_healthy(&[1, 2]));
    world.run_for(S * 20);
    world.restart(0);
    world.run_until(S * 3, "healthy with it", |w| w.is_healthy(&[0, 1, 2]));
    assert_eq!(world.recoverd(0).leader(), Some(pnn(1)));
}

#[test]
fn an_election_with_nodes_of_the_original_takes_its_full_time() {
    let mut world = healthy_world(false);
    world.sim(2).concedes = false;
    world.kill(0);
    let took = world.run_until(S * 5, "healthy", |w| w.is_healthy(&[1, 2]));
    assert!(took > S * 3 && took < S * 4, "{took:?}");
}

#[test]
fn a_silent_leader_is_replaced_after_the_leader_timeout() {
    let mut world = healthy_world(false);
    world.cut(0, 1);
    world.cut(0, 2);
    // Both sides believe in themselves: without a cluster lock nothing prevents that.
    world.run_until(S, "the other two go on", |w| w.is_healthy(&[1, 2]));
    world.run_until(S, "the lone one too", |w| w.is_healthy(&[0]));
}

#[test]
fn two_leaders_that_meet_after_a_partition_become_one() {
    let mut world = healthy_world(false);
    world.cut(0, 1);
    world.cut(0, 2);
    world.run_until(S, "two clusters", |w| {
        w.is_healthy(&[1, 2]) && w.is_healthy(&[0])
    });
    world.run_for(S * 30);
    world.heal(0, 1);
    world.heal(0, 2);
    let took = world.run_until(S * 5, "one cluster", |w| w.is_healthy(&[0, 1, 2]));
    assert!(took < S * 3, "{took:?}");
    assert_eq!(world.recoverd(2).leader(), Some(pnn(0)), "the oldest leads");
    let before = world.recoveries();
    world.run_for(S * 60);
    assert_eq!(world.recoveries(), before, "and it stays so");
}

#[test]
fn with_a_cluster_lock_a_partition_has_one_leader() {
    let mut world = healthy_world(true);
    let (holder, _) = world.lock_holder.unwrap();
    let others: Vec<u32> = (0..3).filter(|raw| *raw != holder.get()).collect();
    for other in &others {
        world.cut(holder.get(), *other);
    }
    // Not before the others must have stopped.
    let took = world.run_until(S * 11, "the holder goes on", |w| {
        w.is_healthy(&[holder.get()])
    });
    assert!(took > S * 7, "{took:?}");
    for other in &others {
        assert!(world.daemon(*other).node.all_frozen, "node {other}");
    }
    world.run_for(S * 30);
    for other in &others {
        assert_eq!(world.recoverd(*other).leader(), None);
        assert_eq!(
            world.daemon(*other).node.rec_mode,
            RecMode::Active,
            "and they wait"
        );
    }
    for other in &others {
        world.heal(holder.get(), *other);
    }
    world.run_until(S * 3, "one cluster", |w| w.is_healthy(&[0, 1, 2]));
    assert_eq!(world.lock_holder.unwrap().0, holder);
}

#[test]
fn a_lost_cluster_lock_is_raced_for_again() {
    let mut world = healthy_world(true);
    let generation = world.daemon(0).node.vnn_map.generation;
    world.lose_lock();
    world.run_until(S * 2, "recovered under a new holder", |w| {
        w.is_healthy(&[0, 1, 2]) && w.daemon(0).node.vnn_map.generation != generation
    });
    let (holder, _) = world.lock_holder.unwrap();
    assert_eq!(world.recoverd(0).leader(), Some(holder));
}

#[test]
fn a_stopped_leader_resigns_and_another_takes_over() {
    for lock_file in [false, true] {
        let mut world = healthy_world(lock_file);
        let leader = world.recoverd(1).leader().unwrap();
        world
            .daemon(leader.get())
            .become_inactive(NodeFlags::STOPPED);
        let others: Vec<u32> = (0..3).filter(|raw| *raw != leader.get()).collect();
        let took = world.run_until(S * 4, "the others go on", |w| w.is_healthy(&others));
        assert!(took < S * 3, "{took:?}, lock {lock_file}");
        let new_leader = world.recoverd(others[0]).leader().unwrap();
        // It comes back, and does not lead.
        world
            .daemon(leader.get())
            .node
            .set_flags(leader, NodeFlags::empty());
        world.run_until(S * 4, "all of them", |w| w.is_healthy(&[0, 1, 2]));
        assert_eq!(world.recoverd(leader.get()).leader(), Some(new_leader));
    }
}

#[test]
fn a_leader_without_the_capability_resigns() {
    let mut world = healthy_world(false);
    world.daemon(0).node.capabilities -= Capabilities::LEADER;
    let took = world.run_until(S * 4, "another leader", |w| {
        w.recoverd(0).leader() == Some(pnn(1)) && w.is_healthy(&[0, 1, 2])
    });
    assert!(took < S * 2, "{took:?}");
}

#[test]
fn a_member_without_the_lmaster_role_leaves_the_map() {
    let mut world = healthy_world(false);
    world.daemon(2).node.capabilities -= Capabilities::LMASTER;
    world.run_until(S * 3, "a smaller map", |w| {
        w.daemon(2).node.vnn_map.map == [pnn(0), pnn(1)]
    });
    world.run_for(S * 30);
    assert_eq!(world.recoveries(), 2, "and no more recoveries");
}

#[test]
fn a_node_at_which_recoveries_fail_is_banned() {
    let mut world = healthy_world(false);
    world.daemon(0).db("locking.tdb", DbFlags::empty());
    world
        .daemon(2)
        .refuses
        .insert(Opcode::DB_TRANSACTION_COMMIT);
    world.daemon(1).node.rec_mode = RecMode::Active;
    world.run_until(S * 5, "it is banned, the others go on", |w| {
        w.daemon(2)
            .node
            .view()
            .my_flags()
            .contains(NodeFlags::BANNED)
            && w.is_healthy(&[0, 1])
    });
    let history = world.recoverd(0).history();
    let is_ban = |what: &What| matches!(what, What::Banned { pnn: p, .. } if *p == pnn(2));
    let ban = history
        .decisions()
        .find(|d| is_ban(&d.what))
        .expect("the ban is remembered");
    assert!(ban.to_string().contains("DB_TRANSACTION_COMMIT"), "{ban}");
}

#[test]
fn recoveries_that_fail_outside_of_databases_lead_to_a_ban_too() {
    let mut world = healthy_world(false);
    world.daemon(2).refuses.insert(Opcode::START_RECOVERY);
    world.daemon(1).node.rec_mode = RecMode::Active;
    let took = world.run_until(S * 20, "it is banned, the others go on", |w| {
        w.daemon(2)
            .node
            .view()
            .my_flags()
            .contains(NodeFlags::BANNED)
            && w.is_healthy(&[0, 1])
    });
    assert!(took > S * 2, "three recoveries, with pauses: {took:?}");
}

#[test]
fn without_bans_recovery_is_tried_again_and_again() {
    let mut world = healthy_world(false);
    for raw in 0..3 {
        world.daemon(raw).node.tunables.set(Tunable::EnableBans, 0);
    }
    world.daemon(2).refuses.insert(Opcode::START_RECOVERY);
    world.daemon(1).node.rec_mode = RecMode::Active;
    world.run_for(S * 60);
    let tries = world
        .daemon(2)
        .served
        .iter()
        .filter(|(_, op)| *op == Opcode::START_RECOVERY);
    let tries = tries.count();
    assert!((5..15).contains(&tries), "slower and slower: {tries}");
    world.daemon(2).refuses.clear();
    world.run_until(S * 15, "healthy", |w| w.is_healthy(&[0, 1, 2]));
}

#[test]
fn a_node_that_does_not_answer_delays_no_check_of_the_others() {
    let mut world = healthy_world(false);
    world
        .daemon(2)
        .ignores
        .extend([Opcode::GET_NODEMAP, Opcode::GET_CAPABILITIES]);
    world.run_for(S * 2);
    // A node's flags change at itself only: the leader has to ask it to learn of them.
    world.daemon(1).node.set_flags(pnn(1), NodeFlags::UNHEALTHY);
    world.run_until(S * 3, "the others know", |w| {
        w.daemon(2).node.view().flags(pnn(1)) == NodeFlags::UNHEALTHY
    });
    world.run_for(S * 40);
    let no_answer = Why::Credit(CreditReason::NoAnswer);
    assert!(
        world
            .recoverd(0)
            .history()
            .decisions()
            .any(|d| d.why == no_answer)
    );
}

#[test]
fn a_node_lost_during_a_recovery_does_not_hold_it_up() {
    let mut world = healthy_world(false);
    world.daemon(2).ignores.insert(Opcode::START_RECOVERY);
    world.daemon(1).node.rec_mode = RecMode::Active;
    world.run_until(S * 2, "it hangs in START_RECOVERY", |w| {
        w.daemon(2)
            .served
            .iter()
            .filter(|(_, op)| *op == Opcode::START_RECOVERY)
            .count()
            == 2
    });
    world.kill(2);
    let took = world.run_until(S, "the others recover", |w| w.is_healthy(&[0, 1]));
    assert!(took < ms(200), "{took:?}");
}

#[test]
fn a_node_in_recovery_mode_is_recovered_but_not_in_a_storm() {
    let mut world = healthy_world(false);
    let before = world.recoveries();
    let mut took = Vec::new();
    for _ in 0..6 {
        world.daemon(2).node.rec_mode = RecMode::Active;
        took.push(world.run_until(S * 11, "healthy", |w| w.is_healthy(&[0, 1, 2])));
    }
    assert_eq!(world.recoveries(), before + 6);
    assert!(took[0] < S * 2, "{took:?}");
    assert!(took[5] > S * 2, "{took:?}");
}

#[test]
fn flags_reach_all_nodes_through_the_leader() {
    let mut world = healthy_world(false);
    let unhealthy = NodeFlags::UNHEALTHY;
    world.daemon(2).node.set_flags(pnn(2), unhealthy);
    world.run_until(S * 2, "all know", |w| {
        (0..2).all(|raw| w.daemon(raw).node.view().flags(pnn(2)) == unhealthy)
    });
    assert!(
        world.is_healthy(&[0, 1, 2]),
        "and there was no need for a recovery"
    );
    assert_eq!(world.recoveries(), 1);
}

#[test]
fn the_newest_copy_of_each_record_survives() {
    let mut world = World::new(3, false);
    let volatile = DbFlags::empty();
    world
        .daemon(0)
        .db("brlock.tdb", volatile)
        .store("k1", 5, pnn(0), "old");
    world
        .daemon(1)
        .db("brlock.tdb", volatile)
        .store("k1", 7, pnn(1), "new");
    world
        .daemon(1)
        .db("brlock.tdb", volatile)
        .store("k2", 1, pnn(1), "only here");
    world.run_until(S, "healthy", |w| w.is_healthy(&[0, 1, 2]));
    for raw in 0..3 {
        let db = world.daemon(raw).db("brlock.tdb", volatile);
        assert_eq!(
            (db.data("k1"), db.data("k2")),
            (Some("new"), Some("only here"))
        );
        assert!(
            db.records
                .values()
                .all(|(header, _)| header.dmaster() == Some(pnn(0)))
        );
        assert_ne!(db.generation, Generation::INVALID);
    }
}

#[test]
fn a_persistent_database_survives_as_its_newest_copy() {
    let mut world = World::new(3, false);
    let persistent = DbFlags::PERSISTENT;
    world
        .daemon(0)
        .db("registry.tdb", persistent)
        .store("k1", 9, pnn(0), "deleted since");
    let newest = world.daemon(1).db("registry.tdb", persistent);
    newest.seqnum = 3;
    newest.store("k2", 1, pnn(1), "kept");
    world.run_until(S, "healthy", |w| w.is_healthy(&[0, 1, 2]));
    for raw in 0..3 {
        let db = world.daemon(raw).db("registry.tdb", persistent);
        assert_eq!((db.data("k1"), db.data("k2")), (None, Some("kept")));
        assert!(
            db.records
                .values()
                .all(|(header, _)| header.dmaster() == Some(pnn(1)))
        );
    }
}

#[test]
fn a_takeover_run_is_answered_by_the_leader_alone() {
    let mut world = healthy_world(false);
    let request = SrvidMessage {
        pnn: Some(pnn(1)),
        srvid: TOOL,
    };
    world.tool_sends(1, Dest::Connected, &Message::TakeoverRun(request));
    world.run_until(S * 2, "an answer", |w| !w.answers.is_empty());
    world.run_for(S * 5);
    assert_eq!(world.answers, [(pnn(0), 0)]);
}

#[test]
fn a_failed_takeover_run_is_answered_and_repeated_and_its_culprit_banned() {
    let mut world = healthy_world(false);
    world.daemon(2).refuses.insert(Opcode::IPREALLOCATED);
    let request = SrvidMessage {
        pnn: Some(pnn(1)),
        srvid: TOOL,
    };
    world.tool_sends(1, Dest::Connected, &Message::TakeoverRun(request));
    world.run_until(S * 20, "it is banned", |w| {
        w.daemon(2)
            .node
            .view()
            .my_flags()
            .contains(NodeFlags::BANNED)
    });
    assert_eq!(world.answers, [(pnn(0), -1)]);
    let takeover_run = Why::Credit(CreditReason::TakeoverRun);
    let credits = world
        .recoverd(0)
        .history()
        .decisions()
        .filter(|d| d.why == takeover_run);
    assert_eq!(credits.count(), 3, "two runs, and the ban that they led to");
}

#[test]
fn while_recoveries_are_disabled_there_is_none() {
    let mut world = healthy_world(false);
    let disable = |seconds: u64| {
        let timeout = Duration::from_secs(seconds);
        Message::DisableRecoveries(DisableMessage {
            pnn: Some(pnn(1)),
            srvid: TOOL,
            timeout,
        })
    };
    world.tool_sends(1, Dest::Node(pnn(0)), &disable(20));
    world.run_until(S, "an answer", |w| !w.answers.is_empty());
    world.kill(2);
    world.run_for(S * 10);
    assert_eq!(world.recoveries(), 1);
    world.tool_sends(1, Dest::Node(pnn(0)), &disable(0));
    world.run_until(S * 2, "healthy", |w| w.is_healthy(&[0, 1]));
    assert_eq!(world.answers, [(pnn(0), 0), (pnn(0), 0)]);
}

#[test]
fn a_recovery_in_progress_cannot_be_disabled() {
    let mut world = healthy_world(false);
    world.daemon(2).ignores.insert(Opcode::START_RECOVERY);
    world.daemon(1).node.rec_mode = RecMode::Active;
    world.run_until(S * 2, "a recovery", |w| w.recoverd(0).recovery().is_some());
    let timeout = Duration::from_secs(20);
    let disable = DisableMessage {
        pnn: Some(pnn(1)),
        srvid: TOOL,
        timeout,
    };
    world.tool_sends(1, Dest::Node(pnn(0)), &Message::DisableRecoveries(disable));
    world.run_until(S, "an answer", |w| !w.answers.is_empty());
    assert_eq!(world.answers, [(pnn(0), -11)]);
}

#[test]
fn the_health_of_a_node_is_pushed_without_waiting_for_a_round() {
    let mut world = healthy_world(false);
    world.daemon(2).node.set_flags(pnn(2), NodeFlags::UNHEALTHY);
    let change = ctdb_proto::NodeFlagChange {
        pnn: pnn(2),
        new_flags: NodeFlags::UNHEALTHY,
        old_flags: NodeFlags::empty(),
    };
    world.tool_sends(2, Dest::Node(pnn(2)), &Message::PushNodeFlags(change));
    let took = world.run_until(S, "all know", |w| {
        (0..2).all(|raw| w.daemon(raw).node.view().flags(pnn(2)) == NodeFlags::UNHEALTHY)
    });
    assert!(took < ms(10), "{took:?}");
}

#[test]
fn other_nodes_cannot_speak_for_a_leader_or_a_candidate() {
    let mut world = healthy_world(false);
    world.tool_sends(2, Dest::Connected, &Message::Leader(Some(pnn(1))));
    world.run_for(ms(5));
    let leaders: Vec<Option<Pnn>> = (0..3).map(|raw| world.recoverd(raw).leader()).collect();
    assert_eq!(leaders, [Some(pnn(0)); 3]);
    let forged = ctdb_proto::ElectionMessage {
        num_connected: 3,
        priority_time: ctdb_proto::TimeVal::ZERO,
        pnn: pnn(1),
        node_flags: NodeFlags::empty(),
    };
    world.tool_sends(2, Dest::All, &Message::Election(forged));
    world.run_for(S * 5);
    assert_eq!(world.recoverd(2).leader(), Some(pnn(0)));
    assert_eq!(world.recoveries(), 1);
}

#[test]
fn a_hung_member_is_not_left_out_while_it_is_connected() {
    let mut world = healthy_world(false);
    let everything = Opcode::served().iter().map(|(opcode, _)| *opcode);
    world.daemon(2).ignores.extend(everything);
    world.daemon(1).node.rec_mode = RecMode::Active;
    world.run_for(S * 25);
    // Its clients may still use records that it is dmaster of.
    assert_eq!(world.daemon(0).node.vnn_map.map.len(), 3);
    world.kill(2);
    world.run_until(S, "the others recover", |w| w.is_healthy(&[0, 1]));
}

/// Whether any node was banned, as the leaders remember.
fn somebody_was_banned(world: &World) -> bool {
    let decisions = |raw| world.recoverd(raw).history().decisions();
    let bans = |what: &What| matches!(what, What::Banned { .. });
    (0..3).flat_map(decisions).any(|d| bans(&d.what))
}

#[test]
fn a_leader_that_was_stopped_and_continued_hears_the_others_first() {
    for lock_file in [false, true] {
        let mut world = healthy_world(lock_file);
        let leader = world.recoverd(1).leader().unwrap().get();
        let others: Vec<u32> = (0..3).filter(|raw| *raw != leader).collect();
        world.put_to_sleep(leader);
        if lock_file {
            world.lose_lock();
        }
        world.run_until(S * 11, "the others go on", |w| w.is_healthy(&others));
        world.run_for(S * 60);
        let before = world.recoveries();
        world.wake_up(leader);
        world.run_until(S * 5, "healthy", |w| w.is_healthy(&[0, 1, 2]));
        world.run_for(S * 60);
        assert!(world.is_healthy(&[0, 1, 2]));
        let recoveries = world.recoveries() - before;
        assert!(recoveries <= 2, "{recoveries} to take it in");
        assert!(!somebody_was_banned(&world));
    }
}

#[test]
fn a_leader_that_was_away_alone_leads_on() {
    let mut world = healthy_world(true);
    let leader = world.recoverd(1).leader().unwrap();
    world.kill((leader.get() + 1) % 3);
    world.kill((leader.get() + 2) % 3);
    world.run_until(S, "healthy alone", |w| w.is_healthy(&[leader.get()]));
    world.put_to_sleep(leader.get());
    world.now += S * 60;
    world.wake_up(leader.get());
    world.run_until(S * 5, "it leads", |w| {
        w.recoverd(leader.get()).leader() == Some(leader) && w.is_healthy(&[leader.get()])
    });
}

#[test]
fn two_recoveries_that_meet_give_way_and_blame_nobody() {
    let mut world = healthy_world(false);
    for raw in 0..3 {
        let db = world.daemon(raw).db("locking.tdb", DbFlags::empty());
        db.store("key", 5, pnn(raw), "value");
        db.generation = Generation(0);
    }
    // The others lost the leader, elect another one and recover; it recovers, too, and they meet.
    world.cut(0, 1);
    world.cut(0, 2);
    world.run_until(S, "two leaders", |w| {
        w.recoverd(0).leader() == Some(pnn(0)) && w.recoverd(1).recovery().is_some()
    });
    world.heal(0, 1);
    world.heal(0, 2);
    world.daemon(0).node.rec_mode = RecMode::Active;
    world.run_until(S * 20, "healthy", |w| w.is_healthy(&[0, 1, 2]));
    assert!(!somebody_was_banned(&world));
}

#[test]
fn a_node_that_has_joined_another_recovery_is_not_blamed() {
    let mut world = healthy_world(false);
    world.daemon(0).node.rec_mode = RecMode::Active;
    world.run_until(S * 20, "a recovery", |w| w.recoverd(0).recovery().is_some());
    let start = ctdb_proto::Request::StartRecovery.to_control(ctdb_proto::ControlFlags::empty());
    world.stranger_controls(2, 0, start);
    let gave_way = |w: &World| {
        let mut decisions = w.recoverd(0).history().decisions();
        decisions.any(|d| d.why == Why::AnotherRecovery(pnn(2)))
    };
    world.run_until(S, "it gives way", |w| gave_way(w));
    world.run_until(S * 5, "and recovers later", |w| w.is_healthy(&[0, 1, 2]));
    assert!(!somebody_was_banned(&world));
}

#[test]
fn who_asks_for_a_takeover_run_while_nobody_leads_is_answered_by_the_next_leader() {
    for lock_file in [false, true] {
        let mut world = healthy_world(lock_file);
        let leader = world.recoverd(1).leader().unwrap();
        world
            .daemon(leader.get())
            .become_inactive(NodeFlags::STOPPED);
        world.run_until(S, "it resigns", |w| {
            (0..3).all(|raw| w.recoverd(raw).leader() != Some(leader))
        });
        let request = SrvidMessage {
            pnn: Some(leader),
            srvid: TOOL,
        };
        let to = Dest::Connected;
        world.tool_sends(leader.get(), to, &Message::TakeoverRun(request));
        world.run_until(S * 4, "an answer", |w| !w.answers.is_empty());
        assert_eq!(world.answers.len(), 1);
    }
}
