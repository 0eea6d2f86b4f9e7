//! Story: one of three nodes runs Debian's daemon. The cluster becomes healthy, both tools say the
//! same on every node, and a record goes round all nodes with nothing lost: under our leader, and
//! after a recovery that Debian's daemon led.

use std::thread;
use std::time::Duration;

use ctdb_e2e::{
    TestCluster, TestResult, is_ours, our_tool, reference_daemon, reference_tool, step, tool,
};
use ctdb_tools::blocking::{Connection, Database};
use ctdb_tools::local_cluster::wait_until;

/// The node that runs Debian's daemon.
const DEBIAN: usize = 2;
const ALL: [usize; 3] = [0, 1, 2];
/// For a leader to give up, another to be elected, and a recovery.
const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn debian_s_daemon_is_a_member_and_a_leader() -> TestResult {
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(DEBIAN, reference_daemon());
    options.tunables.push(("RerecoveryTimeout", 1));
    let cluster = TestCluster::started(&options)?;
    cluster.wait_status(&ALL, LIMIT, "healthy", |status| status.is_healthy(3));
    let mut ring = Ring::connect(&cluster)?;

    lead(&cluster, &[0, 1]);
    ring.go_round(200)?;
    step("a record goes round under our leader");
    both_tools_agree(&cluster);

    lead(&cluster, &[DEBIAN]);
    ring.go_round(200)?;
    step("a record goes round under Debian's leader");
    both_tools_agree(&cluster);

    lead(&cluster, &[0, 1]);
    ring.go_round(200)?;
    step("and again under ours");
    Ok(())
}

/// Makes one of these nodes the leader and has it recover.
fn lead(cluster: &TestCluster, leaders: &[usize]) {
    for pnn in ALL {
        let may = if leaders.contains(&pnn) { "on" } else { "off" };
        cluster.ctdb(pnn, &["setleaderrole", may]);
    }
    cluster.wait_status(&ALL, LIMIT, "the wanted leader", |status| {
        status.is_healthy(3) && status.leader.is_some_and(|pnn| leaders.contains(&pnn))
    });
    cluster.ctdb(leaders[0], &["recover"]);
    cluster.wait_status(&ALL, LIMIT, "healthy", |status| status.is_healthy(3));
}

/// `ctdb status` and its kin, asked with both tools on every node: all at the same time, because
/// the tools wait for the leader's next broadcast.
fn both_tools_agree(cluster: &TestCluster) {
    let ours = if is_ours() { our_tool() } else { tool() };
    let tools = &[ours, reference_tool()];
    let commands = [
        &["status"][..],
        &["-X", "nodestatus", "all"],
        &["getdbmap"],
        &["leader"],
    ];
    thread::scope(|scope| {
        for node in cluster.nodes() {
            for command in commands {
                scope.spawn(move || {
                    let ask = |tool| match node.ctdb_of(tool, command.iter().copied()) {
                        Ok(output) => (output.status, output.stdout),
                        Err(error) => (None, error.to_string()),
                    };
                    let mut said = Default::default();
                    let agree = wait_until(Duration::from_secs(10), || {
                        said = tools.each_ref().map(|tool| ask(tool));
                        said[0] == said[1]
                    });
                    assert!(agree, "ctdb {command:?} on node {}: {said:#?}", node.pnn());
                });
            }
        }
    });
    step("both tools agree on all nodes");
}

/// A client of each node, and a record that they pass round.
struct Ring {
    clients: Vec<(Connection, Database)>,
    changes: u64,
}

impl Ring {
    fn connect(cluster: &TestCluster) -> TestResult<Self> {
        let clients = cluster.nodes().iter().map(|node| -> TestResult<_> {
            let mut connection = Connection::connect(&node.socket())?;
            let database = connection.attach("mixed.tdb")?;
            Ok((connection, database))
        });
        Ok(Self {
            clients: clients.collect::<TestResult<_>>()?,
            changes: 0,
        })
    }

    /// Each node in turn fetches the record, finds what the one before left, and changes it.
    fn go_round(&mut self, times: u32) -> TestResult {
        let mut migrations = 0;
        for _ in 0..times {
            for (connection, database) in &mut self.clients {
                let mut found = 0;
                migrations += database.update(connection, b"passed round", |data| {
                    found = data.try_into().map_or(0, u64::from_le_bytes);
                    (found + 1).to_le_bytes().to_vec()
                })?;
                assert_eq!(found, self.changes, "node {} found it", connection.pnn());
                self.changes += 1;
            }
        }
        assert!(
            migrations >= 2 * times,
            "the record hardly moved: {migrations} times"
        );
        Ok(())
    }
}
