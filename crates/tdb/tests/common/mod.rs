//! Shared by the tests: files of the C library, and its tools.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

pub mod disk;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tdb::Db;

pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Content of a golden file, unpacked if need be.
pub fn golden_file(name: &str) -> Vec<u8> {
    let plain = golden_dir().join(format!("{name}.tdb"));
    if plain.exists() {
        return std::fs::read(plain).unwrap();
    }
    let packed = golden_dir().join(format!("{name}.tdb.gz"));
    let output = Command::new("gzip").arg("-dc").arg(packed).output();
    output
        .expect("this test needs gzip: install the package gzip")
        .stdout
}

/// Names of all golden files.
pub fn golden_names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(golden_dir())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".json").map(str::to_owned)
        })
        .filter(|name| name != "hash_vectors")
        .collect();
    names.sort();
    assert!(names.len() > 80, "golden files are missing");
    names
}

pub fn golden_json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(golden_dir().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

/// All records, as a traverse shows them. Of two records with one key, the one that wins.
pub fn records_of(db: &Db) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    db.traverse_read(&mut |key, data| {
        records.entry(key.to_vec()).or_insert_with(|| data.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    records
}

/// Debian's `tdbtool`, with commands on its standard input. Returns what it prints.
pub fn tdbtool(path: &Path, commands: &str) -> String {
    let mut child = Command::new("tdbtool")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs tdbtool: install the package tdb-tools");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

/// Fails unless the C library finds the file sound. Not for a database with mutexes.
pub fn assert_sound_for_c(path: &Path, context: &str) {
    let said = tdbtool(path, "check\n");
    assert!(
        said.contains("Database integrity is OK"),
        "{context}: {said}"
    );
}

/// Live records, if `tdbtool FILE check` finds the file sound. Nobody may use it meanwhile. Works on
/// a copy: for a database with mutexes the tool has to be told to leave locks alone, and then takes
/// itself for the first and makes the mutexes anew.
pub fn tdbtool_check(path: &Path) -> Option<u64> {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    let output = Command::new("tdbtool")
        .arg("-l")
        .arg(&copy)
        .arg("check")
        .output();
    let output = output.expect("this test needs tdbtool: install the package tdb-tools");
    std::fs::remove_file(copy).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, count) = said.split_once("Database integrity is OK and has ")?;
    count.split_once(" records")?.0.parse().ok()
}

/// Records as Debian's `tdbdump` prints them, which reads without locks.
pub fn dump_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let output = Command::new("tdbdump").arg(path).output();
    let output = output.expect("this test needs tdbdump: install the package tdb-tools");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let mut records = BTreeMap::new();
    while let Some(line) = lines.next() {
        if line == "{" {
            let key = quoted(lines.next().unwrap());
            let data = quoted(lines.next().unwrap());
            records.entry(key).or_insert(data);
        }
    }
    records
}

/// The bytes between the quotes of a `tdbdump` line.
fn quoted(line: &str) -> Vec<u8> {
    let inner = line.split_once('"').unwrap().1.strip_suffix('"').unwrap();
    let mut bytes = Vec::new();
    let mut rest = inner.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\' {
            bytes.extend(unhex(std::str::from_utf8(&tail[..2]).unwrap()));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

/// Compiles `tests/c/NAME.c` into a directory.
pub fn compile(name: &str, dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"));
    let target = dir.join(name);
    let status = Command::new("gcc")
        .args(["-O1", "-Wall", "-o"])
        .args([&target, &source])
        .arg("-ltdb")
        .status()
        .expect("this test needs a C compiler: install the package gcc");
    assert!(
        status.success(),
        "this test needs libtdb: install the package libtdb-dev"
    );
    target
}
