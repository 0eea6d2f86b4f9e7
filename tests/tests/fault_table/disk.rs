//! A disk that is full, below the databases of one node.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ctdb_client::Client;
use ctdb_e2e::{TestCluster, TestResult, in_runtime, need};
use ctdb_proto::DbFlags;

use crate::stage::{STABLE, Stage, Table, stays};

/// The others commit more than the disk of one node holds, while that one is stopped. Each recovery
/// with the node fails: the original repeats them for ever.
pub(crate) fn persistent_disk_full(table: &Table) -> TestResult {
    let (stage, disk, full) = on_small_disk("persistent")?;
    let rest = others(full);
    stage.ctdb(full, &["stop"]);
    in_runtime(commit(&stage.at(rest[0]).socket(), 2 * SIZE))?;
    let begin = Instant::now();
    stage.ctdb(full, &["continue"]);
    thread::sleep(Duration::from_secs(1));
    let fault = "full disk under the persistent databases of a node";
    let took = stays(&stage, &[rest.to_vec()], begin, STABLE);
    table.note(
        fault,
        "recovered without it, and stable for 15 s",
        None,
        took,
    );
    disk.grow()?;
    let begin = Instant::now();
    stage.ctdb(full, &["unban"]);
    table.note("the disk has room again", "all OK", 5.0, stage.whole(begin));
    Ok(())
}

/// The daemon of the original dies.
pub(crate) fn volatile_disk_full(table: &Table) -> TestResult {
    let (stage, disk, full) = on_small_disk("volatile")?;
    disk.fill()?;
    let begin = Instant::now();
    let socket = stage.at(full).socket();
    let refused = in_runtime(fill_database(&socket));
    assert!(refused.is_err(), "more was stored than there is room for");
    let fault = "full disk under the volatile databases of a node";
    let all = [0, 1, 2];
    let took = stays(
        &stage,
        &[others(full).to_vec(), all.to_vec()],
        begin,
        STABLE,
    );
    table.note(fault, "a cluster works, stable for 15 s", None, took);
    assert!(
        stage.at(full).is_running(),
        "the daemon died of a full disk"
    );
    disk.clear()?;
    let begin = Instant::now();
    stage.ctdb(full, &["unban"]);
    table.note(
        "the volatile disk has room again",
        "all OK",
        5.0,
        stage.whole(begin),
    );
    Ok(())
}

const DATABASE: &str = "full.tdb";
const SIZE: usize = 8 << 20;

/// Node 2 has a small disk below its databases of one kind.
fn on_small_disk(folder: &str) -> TestResult<(Stage, SmallDisk, usize)> {
    let full = 2;
    let mut disk = None;
    let stage = Stage::healthy_with(&TestCluster::options(), |cluster| {
        let path = cluster.at(full).base().join("var").join(folder);
        disk = Some(SmallDisk::mount(path)?);
        Ok(())
    })?;
    Ok((stage, disk.ok_or("it has been prepared")?, full))
}

fn others(node: usize) -> [usize; 2] {
    let mut others = (0..3).filter(|&other| other != node);
    [others.next(), others.next()].map(|other| other.expect("three nodes"))
}

/// Commits so many bytes to a persistent database.
async fn commit(socket: &Path, bytes: usize) -> TestResult {
    let client = Client::connect(socket).await?;
    let database = client.attach(DATABASE, DbFlags::PERSISTENT).await?;
    let mut transaction = database.transaction().await?;
    for number in 0..bytes / RECORD {
        transaction
            .store(number.to_string(), vec![7; RECORD])
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}

const RECORD: usize = 4096;

/// Stores more than fits, until it is refused.
async fn fill_database(socket: &Path) -> TestResult {
    let client = Client::connect(socket).await?;
    let database = client.attach(DATABASE, DbFlags::empty()).await?;
    for number in 0..100_u32 {
        let mut record = database.fetch_lock(number.to_string()).await?;
        record.store(vec![7; 1 << 20]).await?;
    }
    Ok(())
}

/// A file system of a few megabytes; unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> TestResult<Self> {
        let size = format!("size={SIZE}");
        run(Command::new(need("mount", "mount"))
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path))?;
        Ok(Self(path))
    }

    fn fill(&self) -> TestResult {
        let mut file = File::create(self.0.join("filler"))?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }

    fn grow(&self) -> TestResult {
        let size = format!("remount,size={}", 20 * SIZE);
        run(Command::new(need("mount", "mount"))
            .args(["-o", &size])
            .arg(&self.0))
    }

    fn clear(&self) -> TestResult {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let result = run(Command::new(need("umount", "mount"))
            .arg("--lazy")
            .arg(&self.0));
        if let Err(error) = result {
            eprintln!("{error}");
        }
    }
}

fn run(command: &mut Command) -> TestResult {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("{command:?}: {said}").into())
}
