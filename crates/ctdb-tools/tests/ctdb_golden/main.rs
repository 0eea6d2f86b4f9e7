//! The `ctdb` tool against recorded runs of the original (`tests/golden/cli.jsonl`).
//!
//! Each case describes a cluster and a series of invocations with their exact results. The cluster
//! is played by one process with one socket ([`daemon`]) that answers for all nodes; the tool is
//! the real program.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail it")]

mod daemon;
mod pattern;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::daemon::FakeDaemon;
use crate::pattern::matches_pattern;
use crate::state::CLIENT_PID;

/// Families of commands that are still to come. Their cases must fail with a text that says so, so
/// that this list cannot outlive its reason.
const NOT_BUILT: [&str; 2] = ["lvs", "natgw"];

const CASES: usize = 76;

#[test]
fn recorded_runs_give_the_recorded_results() {
    let cases = read_cases();
    assert_eq!(cases.len(), CASES);
    let mut problems = Vec::new();
    for (name, steps) in &cases {
        let is_built = !NOT_BUILT.contains(&family(name));
        let found = if is_built {
            replay(steps)
        } else {
            expect_not_available(steps)
        };
        problems.extend(
            found
                .into_iter()
                .map(|problem| format!("{name}: {problem}")),
        );
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// `ctdb.getvar.001` is of the family `getvar`.
fn family(case: &str) -> &str {
    case.split('.').nth(1).unwrap()
}

fn read_cases() -> BTreeMap<String, Vec<Value>> {
    let mut cases = BTreeMap::<String, Vec<Value>>::new();
    for line in include_str!("../golden/cli.jsonl").lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        let case = step["case"].as_str().unwrap().to_owned();
        cases.entry(case).or_default().push(step);
    }
    cases
}

/// Runs all steps of a case against one cluster; the result lists what is not as recorded.
fn replay(steps: &[Value]) -> Vec<String> {
    let stage = Stage::build(&steps[0]["cluster"]);
    let mut problems = Vec::new();
    for step in steps {
        let seen = stage.run(step);
        let stdout = stage.expand(step["expected_stdout"].as_str().unwrap());
        let stderr = stage.expand(step["expected_stderr"].as_str().unwrap());
        let exit = step["expected_exit"].as_i64();
        let stdout_fits = match step["match"].as_str().unwrap() {
            "exact" => seen.stdout == stdout,
            "regex" => matches_pattern(&stdout, &seen.stdout),
            other => panic!("unknown kind of match {other}"),
        };
        if !stdout_fits || seen.stderr != stderr || Some(seen.exit) != exit {
            problems.push(format!(
                "{} {}\n expected {exit:?} {stdout:?} {stderr:?}\n      got {seen:?}",
                step["name"], step["argv"]
            ));
        }
    }
    problems
}

/// Some step of the case is of a command that says that it is still to come.
fn expect_not_available(steps: &[Value]) -> Vec<String> {
    let stage = Stage::build(&steps[0]["cluster"]);
    let is_missing = |step| {
        let seen = stage.run(step);
        seen.exit == 1 && seen.stderr.contains("is not available in this version yet")
    };
    if steps.iter().any(is_missing) {
        Vec::new()
    } else {
        vec!["is built now".to_owned()]
    }
}

/// What one run of the tool did.
#[derive(Debug)]
struct Seen {
    exit: i64,
    stdout: String,
    stderr: String,
}

/// The folder of a case and its cluster.
struct Stage {
    base: tempfile::TempDir,
    daemon: Option<FakeDaemon>,
}

impl Stage {
    fn build(cluster: &Value) -> Self {
        let base = tempfile::tempdir().unwrap();
        for folder in ["run", "var/db"] {
            fs::create_dir_all(base.path().join(folder)).unwrap();
        }
        let mut stage = Self { base, daemon: None };
        if let Some(files) = cluster["files"].as_object() {
            for (name, text) in files {
                fs::write(
                    stage.path().join(name),
                    stage.expand(text.as_str().unwrap()),
                )
                .unwrap();
            }
        }
        if cluster["nodes_command"].is_object() {
            stage.write_nodes_command(&cluster["nodes_command"]);
        }
        if cluster["daemon"] == true {
            stage.daemon = Some(FakeDaemon::start(stage.path(), cluster));
        }
        stage
    }

    fn path(&self) -> &Path {
        self.base.path()
    }

    fn write_nodes_command(&self, command: &Value) {
        let text = |field: &str| command[field].as_str().unwrap().to_owned();
        let path = self.expand(&text("path"));
        let print = |name: &str, redirect: &str| {
            let file = self.path().join(name);
            fs::write(&file, text(name)).unwrap();
            format!("cat {} {redirect}\n", file.display())
        };
        let script = format!(
            "#!/bin/sh\n{}{}exit {}\n",
            print("stdout", ""),
            print("stderr", ">&2"),
            command["exit"]
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, step: &Value) -> Seen {
        let arguments = step["argv"].as_array().unwrap().iter();
        let output = Command::new(env!("CARGO_BIN_EXE_ctdb"))
            .args(arguments.map(|word| self.expand(word.as_str().unwrap())))
            .env("CTDB_TEST_MODE", "yes")
            .env("CTDB_BASE", self.path())
            .env("TZ", "UTC")
            .env_remove("CTDB_SOCKET")
            .env_remove("CTDB_TIMEOUT")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Seen {
            exit: output.status.code().unwrap().into(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fills in the placeholders of the recording.
    fn expand(&self, text: &str) -> String {
        let base = self.path().to_str().unwrap();
        text.replace("${SOCKET}", &format!("{base}/run/ctdbd.socket"))
            .replace("${DBDIR}", &format!("{base}/var/db"))
            .replace("${DAEMON_PID}", &std::process::id().to_string())
            .replace("${CLIENT_PID}", &CLIENT_PID.to_string())
            .replace("${BASE}", base)
    }
}
