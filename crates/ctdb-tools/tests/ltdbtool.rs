//! `ltdbtool`, next to the one that Debian's ctdb package installs: on the same files and options
//! both must say the same.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::pty::openpty;
use tdb::{Flags, OpenOptions, StoreMode};

const OURS: &str = env!("CARGO_BIN_EXE_ltdbtool");
const DEBIANS: &str = "/usr/bin/ltdbtool";

/// Runs a program with words that are separated by blanks.
fn run(program: &str, words: &str, dir: &Path) -> Output {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .current_dir(dir)
        .output();
    output.unwrap_or_else(|error| {
        panic!("this test needs Debian's ctdb and tdb-tools packages: {program}: {error}")
    })
}

/// What a program prints, with its name taken out.
fn texts(output: &Output, program: &str) -> [String; 2] {
    [&output.stdout, &output.stderr].map(|bytes| {
        String::from_utf8(bytes.clone())
            .unwrap()
            .replace(program, "PROGRAM")
    })
}

/// Both say the same and, but for `exit`, end with the same code.
fn compare(words: &str, dir: &Path) -> (Option<i32>, Option<i32>) {
    let (ours, theirs) = (run(OURS, words, dir), run(DEBIANS, words, dir));
    assert_eq!(texts(&ours, OURS), texts(&theirs, DEBIANS), "{words}");
    (ours.status.code(), theirs.status.code())
}

fn header(rsn: u64, dmaster: u32, flags: u32, padding: u32) -> Vec<u8> {
    let words = [dmaster, 0, flags, padding].map(u32::to_le_bytes);
    [&rsn.to_le_bytes()[..], words.as_flattened()].concat()
}

/// Files of all kinds that the tool meets. Returns their names.
fn make_files(dir: &Path) -> Vec<&'static str> {
    let make = |name: &str, flags: Flags, records: &[(&[u8], Vec<u8>)]| {
        let options = OpenOptions::new().flags(flags).hash_size(7);
        let db = options.create_new(true).open(dir.join(name)).unwrap();
        for (key, value) in records {
            db.store(key, value, StoreMode::Insert).unwrap();
        }
    };
    let full = |header: Vec<u8>, data: &[u8]| [header, data.to_vec()].concat();
    let records: Vec<(&[u8], Vec<u8>)> = vec![
        (b"k1", full(header(3, 0, 0, 0), b"value of k1")),
        (
            b"nobody",
            full(
                header(u64::MAX, u32::MAX, 0xFFFF_FFFF, 0),
                b"\"\\\x7f\xff~ ",
            ),
        ),
        (b"empty", header(9, 1, 0x0001_0000, 0)),
        (
            b"bin\0key\xff",
            full(header(1, 2, 0x0A00_0000, 0), &[0, 1, 2, 0xfe]),
        ),
        (b"", full(header(7, 3, 0x10, 0), &[b'x'; 3000])),
    ];
    make("volatile.tdb", Flags::INCOMPATIBLE_HASH, &records);
    make("persistent.tdb", Flags::empty(), &records);
    make("foreign.tdb", Flags::CONVERT, &records);
    let mutexes = Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST;
    make("mutexes.tdb", mutexes, &records);
    make("nothing.tdb", Flags::empty(), &[]);
    let padded: Vec<(&[u8], Vec<u8>)> = vec![
        (b"k1", full(header(3, 0, 0, 0x0403_0201), b"ABC")),
        (b"k2", header(4, 0, 0, 1)),
    ];
    make("padded.tdb", Flags::empty(), &padded);
    make("short.tdb", Flags::empty(), &[(b"k", b"short".to_vec())]);
    std::fs::write(dir.join("text.tdb"), "no database").unwrap();
    vec![
        "volatile.tdb",
        "persistent.tdb",
        "foreign.tdb",
        "mutexes.tdb",
        "nothing.tdb",
        "padded.tdb",
    ]
}

/// Headers of the input.
const HEADERS: [&str; 8] = [
    "", "-s 0", "-s32", "-s 64", "-S 5", "-S 22", "-S 99", "-s text",
];

#[test]
fn dumps_are_those_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    for file in make_files(dir.path()) {
        for header in HEADERS {
            for options in ["", "-p", "-e", "-pe"] {
                let words = format!("dump {header} {file} {options}");
                assert_eq!(compare(&words, dir.path()), (Some(0), Some(0)), "{words}");
            }
        }
    }
}

#[test]
fn converted_files_have_the_records_of_the_originals() {
    let dir = tempfile::tempdir().unwrap();
    for file in make_files(dir.path()) {
        for (number, header) in HEADERS.iter().enumerate() {
            for output in ["", "-o 0", "-o32 -e", "-O 3"] {
                let convert = |program: &str, target: &str| {
                    let words = format!("{header} convert {output} {file} {target}");
                    let output = run(program, &words, dir.path());
                    assert_eq!(output.status.code(), Some(0), "{words}");
                    let content = std::fs::read(dir.path().join(target)).unwrap();
                    std::fs::remove_file(dir.path().join(target)).unwrap();
                    (texts(&output, program), content)
                };
                let (ours, theirs) = (convert(OURS, "ours"), convert(DEBIANS, "theirs"));
                assert!(ours == theirs, "{file} {number} {output}");
            }
        }
    }
}

#[test]
fn refusals_are_those_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    make_files(dir.path());
    for words in [
        "",
        "what",
        "dump",
        "dump a b",
        "convert a",
        "convert a b c",
        "-z",
        "dump -s",
        "-s 7 dump persistent.tdb",
        "dump missing.tdb",
        "dump text.tdb",
        "convert missing.tdb out.tdb",
        "convert persistent.tdb volatile.tdb",
        "convert persistent.tdb no/such/folder.tdb",
    ] {
        assert_eq!(
            compare(words, dir.path()),
            (Some(255), Some(255)),
            "{words}"
        );
    }
}

/// The original says so and then claims success.
#[test]
fn a_value_without_a_header_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    make_files(dir.path());
    for words in ["dump short.tdb", "dump -p -s32 short.tdb"] {
        assert_eq!(compare(words, dir.path()), (Some(255), Some(0)), "{words}");
    }
    assert_eq!(
        compare("dump -s0 short.tdb", dir.path()),
        (Some(0), Some(0))
    );
    let refused = run(OURS, "dump -S -1 short.tdb", dir.path());
    assert_eq!(refused.status.code(), Some(255));
}

#[test]
fn help_goes_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    for words in ["help", "-h", "dump -h", "-e help", "help me"] {
        let output = run(OURS, words, dir.path());
        let [stdout, stderr] = texts(&output, OURS);
        assert!(stdout.starts_with("Usage: PROGRAM [options] <command>\n\nOptions:\n"));
        for command in ["help ", "dump <db> ", "convert <in_db> <out_db> "] {
            assert!(stdout.contains(&format!("\n  {command}")), "{stdout}");
        }
        assert_eq!((stderr.as_str(), output.status.code()), ("", Some(0)));
    }
}

/// More than a pipe holds, so that a dump of it waits for its reader.
fn make_long_file(path: &Path) {
    let db = OpenOptions::new().create_new(true).open(path).unwrap();
    for number in 0..40u32 {
        let value = [header(1, 0, 0, 0), vec![b'x'; 10_000]].concat();
        db.store(&number.to_le_bytes(), &value, StoreMode::Insert)
            .unwrap();
    }
}

/// What a dump prints, to whom it takes longer than a second to read it.
fn dump_slowly(file: &Path, stderr: Stdio) -> Vec<u8> {
    let mut child = Command::new(OURS)
        .arg("dump")
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1500));
    let mut text = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    text
}

/// Everything that was written to a terminal which has been closed.
fn shown_on(terminal: OwnedFd) -> String {
    let (mut file, mut text, mut some) = (File::from(terminal), Vec::new(), [0; 4096]);
    loop {
        match file.read(&mut some) {
            // The end of a terminal is an error.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            count => text.extend_from_slice(&some[..count.unwrap()]),
        }
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn long_work_is_counted_on_a_terminal_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.tdb");
    make_long_file(&file);
    let expected = run(DEBIANS, "dump long.tdb", dir.path()).stdout;

    let terminal = openpty(None, None).unwrap();
    let text = dump_slowly(&file, terminal.slave.into());
    assert!(text == expected, "the count is no part of the dump");
    let shown = shown_on(terminal.master);
    let counted = shown.trim_start_matches('\r').split(' ').next().unwrap();
    assert!((1..=40).contains(&counted.parse().unwrap()), "{shown:?}");
    assert!(shown.ends_with("records\r\x1b[K"), "{shown:?}");

    let quiet = dir.path().join("stderr");
    let text = dump_slowly(&file, File::create(&quiet).unwrap().into());
    assert!(text == expected);
    assert_eq!(std::fs::read_to_string(quiet).unwrap(), "");
}
