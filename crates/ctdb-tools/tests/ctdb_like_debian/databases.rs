//! The commands that change whole databases, or records by transactions: each tool goes through
//! all of them and must leave the same behind.

mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ctdb_tools::local_cluster::{Cluster, CommandOutput, wait_until};
use tdb::{OpenOptions, StoreMode};

use crate::{needed, note_difference, ours};
use steps::{DETACHES, LINES, REFUSALS, STEPS};

/// What a test wants to be true, or what is wrong.
type Checked<T = ()> = Result<T, String>;

/// All that is compared here.
pub(crate) fn compare_all(cluster: &Cluster) {
    for check in [
        same_steps,
        same_detach,
        a_damaged_backup_changes_nothing,
        both_take_turns,
        a_lock_without_its_holder_is_taken_over,
    ] {
        undisturbed(cluster, check);
    }
}

/// Checks something on a cluster that is at peace. On a busy machine daemons may lose sight of
/// each other, and tools get other answers during the recovery: then it is checked again.
fn undisturbed(cluster: &Cluster, check: fn(&Cluster) -> Checked) {
    for _ in 0..5 {
        let before = generation(cluster);
        let Err(wrong) = check(cluster) else {
            return;
        };
        let after = generation(cluster);
        assert!(before != after, "{wrong}");
    }
    panic!("each time a recovery came between");
}

/// The generation of the cluster, when it is in no recovery.
fn generation(cluster: &Cluster) -> String {
    let mut generation = None;
    let is_settled = wait_until(Duration::from_secs(60), || {
        let status = |node| crate::run(cluster, &needed("ctdb"), &format!("@{node} status")).stdout;
        let settled = (0..3)
            .map(status)
            .filter(|status| status.contains("mode:NORMAL"));
        let generations: Vec<_> = settled
            .filter_map(|status| generation_in(&status))
            .collect();
        generation = generations.first().cloned();
        generations.len() == 3
            && generations
                .iter()
                .all(|one| Some(one) == generation.as_ref())
    });
    assert!(is_settled, "the cluster is in no recovery");
    generation.unwrap()
}

fn generation_in(status: &str) -> Option<String> {
    let line = status.lines().find(|line| line.starts_with("Generation:"));
    line.map(str::to_owned)
}

fn ensure(is_true: bool, wrong: impl FnOnce() -> String) -> Checked {
    if is_true { Ok(()) } else { Err(wrong()) }
}

/// Runs a tool that must succeed; gives what it prints.
fn run_on(cluster: &Cluster, node: usize, tool: &Path, words: &[&str]) -> Checked<String> {
    let output = cluster
        .node(node)
        .unwrap()
        .ctdb_of(tool, words.iter().copied());
    let output = output.unwrap();
    ensure(output.success(), || format!("{words:?}: {output:?}"))?;
    Ok(output.stdout)
}

/// The lines whose outputs differ.
fn compare<'a>(
    lines: impl Iterator<Item = &'a str>,
    theirs: &[CommandOutput],
    ours: &[CommandOutput],
) -> Checked {
    let mut differences = Vec::new();
    for (line, (theirs, ours)) in lines.zip(theirs.iter().zip(ours)) {
        note_difference(line, theirs, ours, &mut differences);
    }
    ensure(differences.is_empty(), || differences.join("\n"))
}

/// Each tool goes through the steps; texts, statuses and files must be the same.
fn same_steps(cluster: &Cluster) -> Checked {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Pass::new(folder.path().join("theirs"), needed("ctdb"));
    let ours = Pass::new(folder.path().join("ours"), ours());
    compare(STEPS.lines(), &theirs.run(cluster), &ours.run(cluster))?;
    for file in ["p.bak", "r.bak", "v.bak", "m.bak"] {
        let is_same = theirs.backup(file) == ours.backup(file);
        ensure(is_same, || format!("{file} differs"))?;
    }
    let is_same = theirs.file("record") == ours.file("record");
    ensure(is_same, || "the record of tfetch differs".to_owned())
}

/// One tool and its files.
struct Pass {
    dir: PathBuf,
    tool: PathBuf,
}

impl Pass {
    fn new(dir: PathBuf, tool: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("lines"), LINES).unwrap();
        fs::write(dir.join("many"), many_lines()).unwrap();
        let header = [&4u64.to_le_bytes()[..], &[0; 96]].concat();
        fs::write(dir.join("version"), header).unwrap();
        // Whole but for its only buffer.
        let mut header = [0; 104];
        (header[0], header[24], header[32], header[40]) = (3, 1, 1, b'c');
        fs::write(dir.join("cut"), header).unwrap();
        let db = OpenOptions::new().create_new(true);
        let db = db.open(dir.join("t.tdb")).unwrap();
        db.store(b"short", b"23 bytes are not enough", StoreMode::Insert)
            .unwrap();
        Self { dir, tool }
    }

    fn run(&self, cluster: &Cluster) -> Vec<CommandOutput> {
        let dir = self.dir.to_str().unwrap();
        let base = cluster.node(0).unwrap().base().to_str().unwrap();
        let mut outputs = Vec::new();
        for line in STEPS.lines() {
            let (node, words) = crate::split(line);
            let words: Vec<_> = words
                .iter()
                .map(|word| {
                    word.replace("DIR", dir)
                        .replace("BASE", base)
                        .replace("''", "")
                })
                .collect();
            let words = words.iter().map(String::as_str);
            let output = cluster.node(node).unwrap().ctdb_of(&self.tool, words);
            outputs.push(self.without_names(&output.unwrap()));
        }
        outputs
    }

    /// Neither folders nor times, nor a word that 4.17 has wrong in its usage.
    fn without_names(&self, output: &CommandOutput) -> CommandOutput {
        let dir = self.dir.to_str().unwrap();
        CommandOutput {
            stdout: without_time(&output.stdout.replace(dir, "DIR")).replace("currnet", "current"),
            stderr: output.stderr.replace(dir, "DIR"),
            status: output.status,
        }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap()
    }

    /// A backup without its time, and without the ids that are garbage in the original.
    fn backup(&self, name: &str) -> Vec<u8> {
        let mut file = self.file(name);
        file[8..16].fill(0);
        let mut buffer = 104;
        while buffer < file.len() {
            file[buffer..buffer + 4].fill(0);
            let length = file[buffer + 8..buffer + 16].try_into().unwrap();
            buffer += 16 + usize::try_from(u64::from_le_bytes(length)).unwrap();
        }
        file
    }
}

/// More records than one buffer of a backup holds.
fn many_lines() -> String {
    let value = "x".repeat(100);
    let line = |number| format!("\"key {number}\" \"{value}\"\n");
    (0..1500).map(line).collect()
}

/// Our tool finds the damage of a backup before it touches the database; the original wipes it,
/// and leaves the rest to a recovery.
fn a_damaged_backup_changes_nothing(cluster: &Cluster) -> Checked {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.bak");
    let path = file.to_str().unwrap();
    let run = |words: &[&str]| run_on(cluster, 0, &ours(), words);
    run(&["attach", "damaged.tdb", "persistent"])?;
    run(&["pstore", "damaged.tdb", "key", "value"])?;
    // A recovery would show in the generation, which is a part of the status.
    let before = [run(&["cattdb", "damaged.tdb"])?, run(&["status"])?];
    run(&["backupdb", "damaged.tdb", path])?;
    let whole = fs::read(&file).unwrap();
    let cut = whole[..whole.len() - 1].to_vec();
    // One record more in the header, one less in the buffer, a record of another length.
    let [more, less, length] = [(32, 3), (108, 1), (120, 0)].map(|(offset, byte)| {
        let mut file = whole.clone();
        file[offset] = byte;
        file
    });
    for (damaged, status) in [(cut, 2), (more, 90), (less, 90), (length, 90)] {
        fs::write(&file, damaged).unwrap();
        let refused = cluster
            .node(0)
            .unwrap()
            .ctdb_of(&ours(), ["restoredb", path]);
        let refused = refused.unwrap();
        let is_right = refused.status == Some(status)
            && refused.stderr.starts_with("Failed to read records")
            && refused.stdout.is_empty();
        ensure(is_right, || format!("{refused:?}"))?;
    }
    let after = [run(&["cattdb", "damaged.tdb"])?, run(&["status"])?];
    ensure(before == after, || format!("{before:?}\n{after:?}"))
}

/// Takes the time of a backup away.
fn without_time(text: &str) -> String {
    match text.split_once(" from backup @ ") {
        Some((before, after)) => {
            let (_, after) = after.split_once('\n').unwrap();
            format!("{before} from backup\n{after}")
        }
        None => text.to_owned(),
    }
}

/// Transactions of both tools at once, on all nodes: none is lost, and each counts.
fn both_take_turns(cluster: &Cluster) -> Checked {
    const EACH: usize = 4;
    let run = |words: &[&str]| run_on(cluster, 0, &needed("ctdb"), words);
    run(&["attach", "turns.tdb", "persistent"])?;
    run(&["wipedb", "turns.tdb"])?;
    let store = |node: usize, tool: &Path| {
        (0..EACH).try_for_each(|count| {
            let key = format!("{node}-{count}");
            run_on(cluster, node, tool, &["pstore", "turns.tdb", &key, "x"]).map(drop)
        })
    };
    thread::scope(|scope| {
        let tools = [needed("ctdb"), ours(), ours()].into_iter().enumerate();
        let store = &store;
        let threads: Vec<_> = tools
            .map(|(node, tool)| scope.spawn(move || store(node, &tool)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })?;
    let seqnum = run(&["getdbseqnum", "turns.tdb"])?;
    let is_right = seqnum == format!("{:#x}\n", 3 * EACH);
    ensure(is_right, || format!("sequence number {seqnum}"))?;
    let records = run(&["cattdb", "turns.tdb"])?;
    let count = format!("Dumped {} record(s)\n", 3 * EACH + 1);
    ensure(records.ends_with(&count), || records)
}

/// A tool that was killed in a transaction keeps nobody out.
fn a_lock_without_its_holder_is_taken_over(cluster: &Cluster) -> Checked {
    let debians = needed("ctdb");
    run_on(cluster, 0, &debians, &["attach", "p.tdb", "persistent"])?;
    let status = run_on(cluster, 0, &debians, &["getdbstatus", "p.tdb"])?;
    let id = status.lines().find_map(|line| line.strip_prefix("dbid: "));
    let key = hex(format!("transaction_db_{}\0", id.unwrap()).as_bytes());
    // Type "write"; a pid on node 1 that no process can have.
    let [write, pid, node] = ["01000000", "ffffff7f", "01000000"];
    let (half, zeros) = ("0".repeat(8), "0".repeat(16));
    let entry = format!("0x{write}{half}{pid}{zeros}{node}{zeros}");
    for tool in [ours(), debians.clone()] {
        let run = |words: &[&str]| run_on(cluster, 0, &tool, words);
        run(&["attach", "g_lock.tdb"])?;
        run(&["writekey", "g_lock.tdb", &key, &entry])?;
        run(&["-T", "60", "pstore", "p.tdb", "lock", "free"])?;
        let left = run(&["readkey", "g_lock.tdb", &key])?;
        ensure(left == "Data: size:0 ptr:[]\n", || left)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("0x{}", digits.collect::<String>())
}

fn same_detach(cluster: &Cluster) -> Checked {
    let theirs = detach_with(cluster, &needed("ctdb"))?;
    let ours = detach_with(cluster, &ours())?;
    let lines = REFUSALS.lines().chain(DETACHES.lines());
    compare(lines, &theirs, &ours)
}

/// Detaches `d.tdb` with a tool, everywhere, and lets clients attach again.
fn detach_with(cluster: &Cluster, tool: &Path) -> Checked<Vec<CommandOutput>> {
    set_attach(cluster, tool, "1")?;
    run_on(cluster, 0, tool, &["attach", "d.tdb"])?;
    run_on(cluster, 0, tool, &["attach", "p.tdb", "persistent"])?;
    run_on(cluster, 0, tool, &["writekey", "d.tdb", "k", "v"])?;
    let run = |line: &str| crate::run(cluster, tool, line);
    let mut outputs: Vec<_> = REFUSALS.lines().map(run).collect();
    set_attach(cluster, tool, "0")?;
    outputs.extend(DETACHES.lines().map(run));
    let is_gone = |node| {
        !run(&format!("@{node} getdbmap"))
            .stdout
            .contains("name:d.tdb ")
    };
    let ended = wait_until(Duration::from_secs(20), || (0..3).all(is_gone));
    set_attach(cluster, tool, "1")?;
    ensure(ended, || "d.tdb is still attached".to_owned())?;
    Ok(outputs)
}

fn set_attach(cluster: &Cluster, tool: &Path, value: &str) -> Checked {
    ["0", "1", "2"].into_iter().try_for_each(|node| {
        let words = ["-n", node, "setvar", "AllowClientDBAttach", value];
        run_on(cluster, 0, tool, &words).map(drop)
    })
}
