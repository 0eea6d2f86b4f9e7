//! Story: somebody new to the client library starts a cluster and runs every example that comes
//! with it, against two of the nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ctdb_e2e::{TestCluster, TestResult, step};
use ctdb_tools::local_cluster::{find_beside, run_to_end};

/// Far more than any of them needs.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn every_example_of_the_client_library_works() -> TestResult {
    let examples = examples()?;
    let cluster = TestCluster::healthy()?;
    for (name, program) in &examples {
        let mut command = Command::new(program);
        command.args([cluster.at(0).socket(), cluster.at(1).socket()]);
        let output = run_to_end(&mut command, LIMIT)?;
        assert!(output.success(), "example {name}: {output:#?}");
        assert!(!output.stdout.is_empty(), "example {name} shows nothing");
        step(&format!("example {name} works"));
    }
    Ok(())
}

/// Name and program of every example whose source is there: a new one cannot be forgotten.
fn examples() -> TestResult<Vec<(String, PathBuf)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ctdb-client/examples");
    let mut examples = Vec::new();
    for entry in fs::read_dir(folder)? {
        let source = entry?.path();
        if source
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            let name = source.file_stem().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            let program = built(&name);
            examples.push((name, program));
        }
    }
    assert!(!examples.is_empty(), "the library comes without examples");
    Ok(examples)
}

fn built(name: &str) -> PathBuf {
    find_beside(&format!("examples/{name}")).unwrap_or_else(|| {
        panic!("example {name} has not been built: run `cargo build -p ctdb-client --examples`")
    })
}
