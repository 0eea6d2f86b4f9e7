//! Story: what our nodes say to each other is read by tshark, whose CTDB dissector was written by
//! others: no packet is malformed, and it sees the kinds of packets that were sent.
//!
//! Needs root, to listen on the loopback interface.

use ctdb_e2e::{Sniffer, TestCluster, TestResult, need_root, step};

#[test]
fn tshark_reads_the_traffic_between_our_nodes() -> TestResult {
    need_root("tshark listens on the loopback interface");
    let cluster = TestCluster::healthy()?;
    step("listen");
    let sniffer = Sniffer::start(&cluster)?;

    step("records, traverses, a recovery");
    cluster.ctdb(0, &["attach", "seen.tdb"]);
    cluster.ctdb(0, &["attach", "kept.tdb", "persistent"]);
    for round in 0..3 {
        for node in 0..3 {
            cluster.ctdb(
                node,
                &["writekey", "seen.tdb", "key", &format!("value {round}")],
            );
        }
    }
    cluster.ctdb(1, &["catdb", "seen.tdb"]);
    cluster.ctdb(2, &["recover"]);
    cluster.ctdb(2, &["-n", "1", "disable"]);
    cluster.ctdb(2, &["-n", "1", "enable"]);
    cluster.ctdb(0, &["readkey", "seen.tdb", "key"]);

    step("read it");
    let operations = sniffer.finds_nothing_malformed()?;
    for (operation, name) in [(0, "REQ_CALL"), (3, "REPLY_DMASTER"), (5, "REQ_MESSAGE")] {
        assert!(
            operations.contains(&operation),
            "no {name} among the packets"
        );
    }
    Ok(())
}
