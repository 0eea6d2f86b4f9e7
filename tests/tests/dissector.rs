//! Story: what our nodes say to each other is read by tshark, whose CTDB dissector was written by
//! others: no packet is malformed, and it sees the kinds of packets that were sent.
//!
//! Needs root, to listen on the loopback interface.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ctdb_e2e::{TestCluster, TestResult, need, need_root, step};
use ctdb_tools::local_cluster::wait_until;

/// Packets of the CTDB port are cut into frames by the dissector.
const DECODE_AS: [&str; 2] = ["-d", "tcp.port==4379,ctdb"];

#[test]
fn tshark_reads_the_traffic_between_our_nodes() -> TestResult {
    need_root("tshark listens on the loopback interface");
    let cluster = TestCluster::healthy()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("traffic.pcapng");
    let first = cluster.at(0).address().octets();
    let net = format!(
        "net {}.{}.{}.0/24 and tcp port 4379",
        first[0], first[1], first[2]
    );

    step("listen");
    let mut capture = listen(&net, &file)?;

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

    assert!(capture.wait()?.success(), "tshark ends by itself");
    step("read it");
    let opcodes = fields(&file, "ctdb", "ctdb.opcode")?;
    assert!(
        opcodes.lines().count() > 100,
        "{} packets",
        opcodes.lines().count()
    );
    for (operation, name) in [(0, "REQ_CALL"), (3, "REPLY_DMASTER"), (5, "REQ_MESSAGE")] {
        let seen = opcodes
            .split([',', '\n'])
            .any(|seen| seen == operation.to_string());
        assert!(seen, "no {name} among the packets");
    }
    let malformed = fields(&file, "_ws.malformed", "frame.number")?;
    assert_eq!(malformed, "", "frames with malformed packets");
    Ok(())
}

/// Writes the traffic of some seconds to a file. Returns when the first packet is in it.
fn listen(filter: &str, file: &Path) -> TestResult<Child> {
    let capture = Command::new(need("tshark", "tshark"))
        .args(["-q", "-i", "lo", "-f", filter, "-a", "duration:12", "-w"])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Leader broadcasts come once a second.
    let has_begun = || fs::metadata(file).is_ok_and(|file| file.len() > 1000);
    assert!(
        wait_until(Duration::from_secs(10), has_begun),
        "tshark captures nothing"
    );
    Ok(capture)
}

/// One field of the packets that match, a line for each frame.
fn fields(file: &Path, filter: &str, field: &str) -> TestResult<String> {
    let output = Command::new(need("tshark", "tshark"))
        .arg("-r")
        .arg(file)
        .args(DECODE_AS)
        .args(["-Y", filter, "-T", "fields", "-e", field])
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
