//! Story: clients work on all three nodes when one daemon is killed. Those of the other two go on
//! after at most two seconds; what they do never fails. The killed node comes back, healthy, and
//! serves again. Then the same with the daemon that is the leader.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::{
    Benchmark, HEALTHY_LIMIT, Samba, Status, TestCluster, TestResult, Torture, is_ours, step,
};
use ctdb_tools::local_cluster::{ClientProtocol, Smbd, wait_until};

/// Longest time in which the clients of a surviving node may be without an answer.
const LONGEST_GAP: Duration = Duration::from_secs(2);

#[test]
fn clients_work_on_when_a_daemon_is_killed() -> TestResult {
    let mut cluster = TestCluster::eager()?;
    let samba = Samba::start(&cluster)?;
    let follower = (leader(&cluster) + 1) % 3;
    kill_under_load(&mut cluster, &samba, follower)?;
    bring_back(&mut cluster, &samba, follower)?;
    let leader = leader(&cluster);
    step(&format!("node {leader} is the leader"));
    kill_under_load(&mut cluster, &samba, leader)?;
    bring_back(&mut cluster, &samba, leader)
}

fn leader(cluster: &TestCluster) -> usize {
    let mut leader = None;
    wait_until(HEALTHY_LIMIT, || {
        leader = Status::of(cluster.at(0)).and_then(|status| status.leader);
        leader.is_some()
    });
    leader.expect("a healthy cluster has a leader")
}

fn kill_under_load(cluster: &mut TestCluster, samba: &Samba, victim: usize) -> TestResult {
    let survivors: Vec<usize> = (0..3).filter(|&pnn| pnn != victim).collect();
    // A benchmark that lost its connection leaves its files.
    samba.empty_share()?;
    let clients: Vec<Client<'_>> = survivors
        .iter()
        .map(|&pnn| Client::new(samba.at(pnn)))
        .collect();
    let killed = thread::scope(|scope| -> TestResult<Instant> {
        for client in &clients {
            scope.spawn(|| client.work());
        }
        // All three nodes contend for one file; it ends when the connection to the victim does.
        let all = scope.spawn(|| bench(samba, "raw.bench-open", &[0, 1, 2]));
        // The survivors contend for another, before, while and after the victim goes.
        let two = scope.spawn(|| bench(samba, "raw.bench-lock", &survivors));
        wait_rounds(&clients, Instant::now());
        let killed = Instant::now();
        cluster.at_mut(victim).kill();
        step(&format!("killed node {victim} under load"));
        wait_rounds(&clients, killed);
        let two = two.join().map_err(|_| "a benchmark panicked")??;
        // What this one says depends on when its connection went.
        let _ = all.join().map_err(|_| "a benchmark panicked")??;
        for client in &clients {
            client.stop.store(true, Ordering::Relaxed);
        }
        assert!(
            two.passed() || two.hung_at_its_end(),
            "between the survivors: {two:#?}"
        );
        Ok(killed)
    })?;
    for (pnn, client) in survivors.iter().zip(&clients) {
        let gap = client.longest_gap_after(killed);
        step(&format!("longest gap for clients of node {pnn}: {gap:?}"));
        assert_eq!(
            client.failures(),
            Vec::<String>::new(),
            "clients of node {pnn}"
        );
        assert!(
            gap <= LONGEST_GAP || !is_ours(),
            "clients of node {pnn} waited {gap:?}"
        );
    }
    Ok(())
}

fn bench(samba: &Samba, name: &'static str, nodes: &[usize]) -> Result<Torture, String> {
    samba
        .bench(Benchmark { name, seconds: 6 }, nodes)
        .map_err(|error| error.to_string())
}

/// Waits until every client has finished a few rounds after this moment.
fn wait_rounds(clients: &[Client<'_>], after: Instant) {
    let enough = |client: &Client<'_>| client.rounds_after(after) >= 5;
    assert!(
        wait_until(Duration::from_secs(60), || clients.iter().all(enough)),
        "clients come to a stop: {:#?}",
        clients.iter().map(Client::failures).collect::<Vec<_>>()
    );
}

/// The node that was killed comes back and serves, also what the others have written meanwhile.
fn bring_back(cluster: &mut TestCluster, samba: &Samba, victim: usize) -> TestResult {
    cluster.at_mut(victim).start()?;
    cluster.wait_healthy(HEALTHY_LIMIT)?;
    step(&format!("node {victim} is back"));
    // Its smbd ended with it.
    samba.at(victim).stop();
    samba.at(victim).start()?;
    for pnn in 0..3 {
        samba.pass_file(victim, pnn, ClientProtocol::Smb2)?;
        samba.pass_file(pnn, victim, ClientProtocol::Nt1)?;
    }
    step(&format!("node {victim} serves"));
    Ok(())
}

/// Someone who works on files through one node: connects, writes, reads, deletes, again and again.
struct Client<'a> {
    smbd: &'a Smbd,
    stop: AtomicBool,
    /// Start and end of each round, and what went wrong in it.
    rounds: Mutex<Vec<(Instant, Instant, Option<String>)>>,
}

impl<'a> Client<'a> {
    fn new(smbd: &'a Smbd) -> Self {
        Self {
            smbd,
            stop: AtomicBool::new(false),
            rounds: Mutex::new(Vec::new()),
        }
    }

    fn work(&self) {
        let file = format!("work.{}", self.smbd.address());
        let commands = format!("put /etc/hostname {file}; get {file} /dev/null; del {file}");
        while !self.stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let failure = match self.smbd.client(ClientProtocol::Smb2, &commands) {
                Ok(output) if output.success() => None,
                other => Some(format!("{other:?}")),
            };
            self.rounds().push((started, Instant::now(), failure));
        }
    }

    fn rounds(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Instant, Option<String>)>> {
        self.rounds.lock().expect("nobody panics while holding it")
    }

    fn rounds_after(&self, moment: Instant) -> usize {
        self.rounds()
            .iter()
            .filter(|(started, ..)| *started >= moment)
            .count()
    }

    /// Longest time from the end of one round to the end of the next, from that moment on.
    fn longest_gap_after(&self, moment: Instant) -> Duration {
        let rounds = self.rounds();
        let ends = rounds
            .iter()
            .map(|(_, end, _)| *end)
            .filter(|end| *end > moment);
        let from = std::iter::once(moment).chain(ends.clone());
        ends.zip(from)
            .map(|(end, before)| end - before)
            .max()
            .unwrap_or_default()
    }

    fn failures(&self) -> Vec<String> {
        self.rounds()
            .iter()
            .filter_map(|(.., failure)| failure.clone())
            .collect()
    }
}
