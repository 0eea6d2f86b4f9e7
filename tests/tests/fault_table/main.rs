//! Stories: each fault of the specification's table (`cluster.md` 13 and 10) happens to a cluster of
//! real daemons, in a network of its own, and ends in the time that the specification gives, or
//! faster. Prints the table.
//!
//! `CTDB_E2E_FAULTS=cut` runs only the stories with `cut` in their names; with
//! `CTDB_E2E_CTDBD=/usr/sbin/ctdbd` the same happens to the reference, and nothing is expected.

mod clock;
mod cuts;
mod deaths;
mod disk;
mod halves;
mod lock;
mod scripts;
mod stage;

use std::sync::Mutex;
use std::thread;

use ctdb_e2e::{TestResult, is_ours, step};

use stage::Table;

type Story = (&'static str, fn(&Table) -> TestResult);

const STORIES: &[Story] = &[
    ("persistent disk full", disk::persistent_disk_full),
    ("recovered hangs", scripts::recovered_hangs),
    ("volatile disk full", disk::volatile_disk_full),
    (
        "half without lock",
        halves::half_without_lock_writes_nothing,
    ),
    ("half with lock", halves::half_with_lock_goes_on_alone),
    ("clock steps back", clock::clock_steps_back),
    ("clock steps forward", clock::clock_steps_forward),
    ("leader stopped", deaths::leader_stands_still),
    (
        "leader stopped, shorter limits",
        deaths::leader_stands_still_shorter_limits,
    ),
    ("follower stopped", deaths::follower_stands_still),
    ("followers cut apart", cuts::followers_cut_apart),
    (
        "leader and follower cut apart",
        cuts::leader_and_follower_cut_apart,
    ),
    ("one way cut", cuts::one_way_cut),
    ("follower cut off", cuts::follower_cut_off),
    ("follower cut off, lock", cuts::follower_cut_off_with_lock),
    ("lock holder cut off", cuts::lock_holder_cut_off),
    ("leader killed", deaths::leader_killed),
    ("leader killed, lock", deaths::leader_killed_with_lock),
    ("follower killed", deaths::follower_killed),
    (
        "one node missing at start",
        deaths::one_node_missing_at_start,
    ),
    ("lock held by another", lock::lock_held_by_another),
    ("lock file removed", lock::lock_file_removed),
    ("lock file replaced", lock::lock_file_replaced),
];

/// They mostly wait.
const AT_ONCE: usize = 6;

#[test]
fn every_fault_ends_in_time() {
    let wanted = std::env::var("CTDB_E2E_FAULTS").unwrap_or_default();
    let chosen = STORIES.iter().filter(|(name, _)| name.contains(&wanted));
    let todo = Mutex::new(chosen.copied().collect::<Vec<_>>().into_iter());
    assert!(
        todo.lock().unwrap().len() > 0,
        "no story has {wanted:?} in its name"
    );
    let table = Table::default();
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, story)) = next(&todo) {
                    step(name);
                    if let Err(error) = story(&table) {
                        failed.lock().unwrap().push(format!("{name}: {error}"));
                    }
                    step(&format!("{name}: done"));
                }
            });
        }
    });
    table.show().expect("standard error is open");
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(
        !is_ours() || table.too_slow().is_empty(),
        "{:#?}",
        table.too_slow()
    );
}

fn next(todo: &Mutex<impl Iterator<Item = Story>>) -> Option<Story> {
    todo.lock().expect("nobody panics while holding it").next()
}
