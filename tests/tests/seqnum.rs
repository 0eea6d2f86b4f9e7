//! Story: the changes of a file are counted (`ENABLE_SEQNUM`), as `smbd` wants it for its lock
//! databases. A change on one node is counted on the others soon, so that whoever keeps something in
//! mind of the file sees that it is stale; and the count comes to rest: no node takes the news for
//! a change of its own (`data-plane.md` 1.7).

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ctdb_client::{Client, Database};
use ctdb_e2e::{TestCluster, TestResult, in_runtime, step};
use ctdb_proto::{DbFlags, Dest, Opcode, ReqControl};
use ctdb_tools::local_cluster::Node;

const NAME: &str = "counted.tdb";
/// For news to be on all nodes: `SeqnumInterval` is a second.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than a few intervals.
const REST: Duration = Duration::from_secs(4);

#[test]
fn a_change_on_one_node_is_counted_on_all() -> TestResult {
    let cluster = TestCluster::healthy()?;
    in_runtime(async {
        let mut nodes = Vec::new();
        for node in cluster.nodes() {
            nodes.push(counted(node).await?);
        }
        let begun = at_rest(&nodes).await?;
        for (changer, database) in nodes.iter().enumerate() {
            let before = at_rest(&nodes).await?;
            let mut record = database.fetch_lock("key").await?;
            record.store(format!("of node {changer}")).await?;
            record.unlock();
            let counted = |now: &[u32]| now.iter().zip(&before).all(|(now, was)| now > was);
            let mut now = numbers(&nodes).await?;
            let waited = std::time::Instant::now();
            while !counted(&now) {
                assert!(
                    waited.elapsed() < LIMIT,
                    "node {changer}: {before:?}, {now:?}"
                );
                thread::sleep(Duration::from_millis(50));
                now = numbers(&nodes).await?;
            }
            step(&format!(
                "changed on node {changer}: {before:?}, then {now:?}"
            ));
        }
        let ended = at_rest(&nodes).await?;
        step(&format!("from {begun:?} to {ended:?}"));
        Ok(())
    })
}

/// The database on a node, with its changes counted.
async fn counted(node: &Node) -> TestResult<Database> {
    let client = Client::connect(&node.socket()).await?;
    let id = client.attach(NAME, DbFlags::empty()).await?.id();
    let request = ReqControl {
        data: Bytes::copy_from_slice(&id.get().to_le_bytes()),
        ..ctdb_client::control::request(Opcode::ENABLE_SEQNUM)
    };
    let reply = client.raw_control(Dest::Current, request, None).await?;
    assert_eq!(reply.status, 0);
    // Who opens the file from now on counts.
    let client = Client::connect(&node.socket()).await?;
    Ok(client.attach(NAME, DbFlags::empty()).await?)
}

/// The number in the file of each node.
async fn numbers(nodes: &[Database]) -> TestResult<Vec<u32>> {
    let mut numbers = Vec::new();
    for database in nodes {
        let number = database.with_file(|file| file.sequence_number().map_err(|e| e.to_string()));
        numbers.push(number.await??);
    }
    Ok(numbers)
}

/// The numbers, once they have not changed for a while.
async fn at_rest(nodes: &[Database]) -> TestResult<Vec<u32>> {
    let mut last = numbers(nodes).await?;
    for _ in 0..10 {
        thread::sleep(REST);
        let now = numbers(nodes).await?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    Err(format!("the numbers do not come to rest: {last:?}").into())
}
