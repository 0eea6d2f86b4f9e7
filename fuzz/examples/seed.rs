//! Writes the first inputs of each fuzz target, made of packets and files of the original.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ctdb_proto::{Body, Packet};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = root.join("../crates/ctdb-proto/tests/golden/wire.jsonl");
    let text = fs::read_to_string(&golden)?;
    let mut number = 0;
    for line in text.lines() {
        let packet = unhex(field(line, "hex").expect("each line has its packet in hex"));
        number += 1;
        write(
            root,
            "decode_frame",
            number,
            &[&[u8::from(is_unix(line))], &packet],
        )?;
        let body = Packet::decode(Bytes::from(packet))
            .expect("each line is a packet")
            .body;
        match body {
            Body::ReqControl(control) => {
                let Ok(opcode) = u8::try_from(control.opcode.get()) else {
                    continue;
                };
                write(
                    root,
                    "decode_control_request",
                    number,
                    &[&[opcode], &control.data],
                )?;
            }
            Body::ReplyControl(reply) => {
                let opcode = field(line, "request_opcode").and_then(|text| text.parse().ok());
                let Some(opcode) = opcode else { continue };
                let status = reply.status.to_le_bytes()[0];
                write(
                    root,
                    "decode_control_reply",
                    number,
                    &[&[opcode, status], &reply.data],
                )?;
            }
            _ => {}
        }
    }
    println!("{number} packets became seeds");
    seed_backups(root)?;
    seed_files(root)
}

/// Backups, each cut in its header.
fn seed_backups(root: &Path) -> io::Result<()> {
    let mut number = 0;
    for entry in fs::read_dir(root.join("../crates/ctdb-proto/tests/golden/backup"))? {
        number += 1;
        let file = fs::read(entry?.path())?;
        write(root, "decode_backup", number, &[&[50], &file])?;
    }
    println!("{number} backups became seeds");
    Ok(())
}

/// Small TDB files, sound and damaged ones.
fn seed_files(root: &Path) -> io::Result<()> {
    let entries = fs::read_dir(root.join("../crates/tdb/tests/golden"))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    let mut number = 0;
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "tdb") {
            continue;
        }
        let file = fs::read(path)?;
        if file.len() <= LARGEST_FILE {
            number += 1;
            // To be read, and to be written to.
            write(root, "open_tdb", 2 * number, &[&[0], &file])?;
            write(root, "open_tdb", 2 * number + 1, &[&[8], &file])?;
        }
    }
    println!("{number} files became seeds");
    Ok(())
}

/// Larger ones would be cut off by the length of an input.
const LARGEST_FILE: usize = 8191;

/// The text of a number or of a string in a line of JSON.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    rest.trim_start_matches('"').split(['"', ',', '}']).next()
}

fn is_unix(line: &str) -> bool {
    field(line, "transport") == Some("unix")
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hex digits");
        u8::from_str_radix(pair, 16).expect("hex digits")
    };
    digits.as_bytes().chunks(2).map(byte).collect()
}

fn write(root: &Path, target: &str, number: u32, parts: &[&[u8]]) -> io::Result<()> {
    let folder: PathBuf = root.join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("golden-{number:03}")), parts.concat())
}
