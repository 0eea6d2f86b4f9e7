//! Story: programs with our client library and Debian's tool work on one persistent database. Who
//! has begun a transaction keeps the other out; a holder that dies does not; both see what the
//! other has committed. And the library refuses what would damage a database.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use ctdb_client::{Client, Database, RecordError, TransactionError};
use ctdb_e2e::{TestCluster, TestResult, reference_tool, step};
use ctdb_proto::DbFlags;
use ctdb_tools::local_cluster::{CommandOutput, Node, command, run_to_end};

const NAME: &str = "shared.tdb";
/// In which a tool that is not kept out would have ended.
const A_WHILE: Duration = Duration::from_secs(1);
/// For the tool to end when nobody keeps it out.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_library_and_debian_s_tool_share_a_database() -> TestResult {
    let cluster = TestCluster::healthy()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        transactions_exclude_each_other(&cluster).await?;
        a_dead_holder_keeps_nobody_out(&cluster).await?;
        misuse_is_refused(&cluster).await
    })
}

async fn attach(cluster: &TestCluster, pnn: usize) -> TestResult<Database> {
    let client = Client::connect(&cluster.at(pnn).socket()).await?;
    Ok(client.attach(NAME, DbFlags::PERSISTENT).await?)
}

async fn transactions_exclude_each_other(cluster: &TestCluster) -> TestResult {
    let database = attach(cluster, 0).await?;
    let mut transaction = database.transaction().await?;
    transaction.store("ours", "1").await?;
    let tool = start_tool(cluster.at(1), &["pstore", NAME, "theirs", "2"]);
    tokio::time::sleep(A_WHILE).await;
    assert!(!tool.is_finished(), "the tool wrote during a transaction");
    transaction.commit().await?;
    end(tool).await;
    step("the tool waited for our transaction");

    let theirs = database.fetch("theirs").await?;
    assert_eq!(theirs, Some(Bytes::from("2")));
    assert_eq!(database.sequence_number().await?, 2);
    let shown = end(start_tool(cluster.at(2), &["pfetch", NAME, "ours"])).await;
    assert_eq!(shown.stdout, "1\n");
    step("each sees what the other wrote");
    Ok(())
}

async fn a_dead_holder_keeps_nobody_out(cluster: &TestCluster) -> TestResult {
    let database = attach(cluster, 0).await?;
    let mut transaction = database.transaction().await?;
    transaction.store("ours", "lost").await?;
    database.client().close();
    end(start_tool(cluster.at(1), &["pstore", NAME, "ours", "3"])).await;
    let late = transaction.commit().await;
    assert!(late.is_err(), "a commit without a connection");

    let again = attach(cluster, 0).await?;
    assert_eq!(again.fetch("ours").await?, Some(Bytes::from("3")));
    step("a dead holder keeps nobody out");
    Ok(())
}

async fn misuse_is_refused(cluster: &TestCluster) -> TestResult {
    let database = attach(cluster, 0).await?;
    let migrated = database.fetch_lock("ours").await.map(drop);
    assert!(matches!(migrated, Err(RecordError::NotVolatile)));
    let mut reading = database.read_transaction().await?;
    let written = reading.store("ours", "4").await;
    assert!(matches!(written, Err(TransactionError::ReadOnly)));
    reading.cancel().await?;

    let client = database.client();
    let volatile = client.attach("volatile.tdb", DbFlags::empty()).await?;
    let begun = volatile.transaction().await.map(drop);
    assert!(matches!(begun, Err(TransactionError::Volatile)));
    let empty = volatile.fetch_lock("").await.map(drop);
    assert!(matches!(empty, Err(RecordError::EmptyKey)));

    // It is found out what a database is, whatever it is attached as.
    let same = client.attach(NAME, DbFlags::empty()).await?;
    assert_eq!(same.kind(), DbFlags::PERSISTENT);
    step("misuse is refused");
    Ok(())
}

/// Runs Debian's tool on a node, in a thread.
fn start_tool(node: &Node, args: &'static [&'static str]) -> JoinHandle<CommandOutput> {
    let mut command = command(&reference_tool(), args);
    command.envs(node.environment());
    thread::spawn(move || run_to_end(&mut command, LIMIT).expect("the tool ends"))
}

/// Waits for the tool, and lets our connections live meanwhile.
async fn end(tool: JoinHandle<CommandOutput>) -> CommandOutput {
    while !tool.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let output = tool.join().expect("the thread only waits");
    assert!(output.success(), "{output:?}");
    output
}
