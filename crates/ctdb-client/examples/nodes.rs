//! Shows the nodes and the databases of the cluster, by controls.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use std::time::Duration;

use ctdb_proto::Dest;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result {
    let [client] = common::connect().await?;
    let limit = Some(Duration::from_secs(10));
    let here = client.node(Dest::Current, limit);
    println!("connected to node {}", here.get_pnn().await?);

    for node in here.get_nodemap().await?.nodes {
        let there = client.node(node.pnn, limit);
        // One that is not there is an error, at once.
        match there.get_runstate().await {
            Ok(state) => println!("node {}: {state}, flags {:?}", node.pnn, node.flags),
            Err(error) => println!("node {}: {error}", node.pnn),
        }
    }
    for entry in here.get_dbmap().await?.dbs {
        let name = here.get_dbname(entry.db_id).await?;
        println!("{} {name} {:?}", entry.db_id, entry.flags);
    }
    Ok(())
}
