//! Files come from people: whatever stands in one, reading it ends without a panic, and every
//! remark is one line about a line that exists.

use std::path::Path;

use ctdb_conf::{
    Config, ConfigErrors, Diagnostic, Files, LogLevel, LogLocation, NodesList, Paths,
    PublicAddresses, ScriptState, Tunables, UnknownEntries,
};
use proptest::prelude::*;

/// Everything exists.
struct AllFiles;

impl Files for AllFiles {
    fn is_dir(&self, _: &Path) -> bool {
        true
    }

    fn script(&self, _: &Path) -> ScriptState {
        ScriptState::Executable
    }
}

/// Text of the pieces that the grammars care about, and of any other characters.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("\n".to_owned()),
        Just("\\\n".to_owned()),
        Just(" = ".to_owned()),
        Just("[cluster]".to_owned()),
        Just("leader timeout".to_owned()),
        Just("cluster lock".to_owned()),
        Just("[logging]\nlocation=file:".to_owned()),
        Just("#".to_owned()),
        Just("10.0.0.1".to_owned()),
        Just("/24 lo,".to_owned()),
        Just("MonitorInterval".to_owned()),
        Just("0x".to_owned()),
        "[ \t\r]{1,3}",
        "[0-9]{1,25}",
        "\\PC{1,5}",
    ];
    prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat())
}

fn check(remarks: &[Diagnostic], text: &str) {
    let lines = text.split('\n').count();
    for remark in remarks {
        assert!((1..=lines).contains(&remark.line), "{remark:?}");
        assert!(!remark.text.contains('\n'), "{remark:?}");
    }
}

proptest! {
    #[test]
    fn configuration(text in texts()) {
        let paths = Paths::from_lookup(|_| None).unwrap();
        for unknown in [UnknownEntries::Ignore, UnknownEntries::Refuse] {
            match Config::parse(&text, &paths, &AllFiles, unknown) {
                Ok(loaded) => check(&loaded.remarks, &text),
                Err(ConfigErrors(remarks)) => {
                    prop_assert!(!remarks.is_empty());
                    check(&remarks, &text);
                }
            }
        }
    }

    #[test]
    fn tunables(text in texts()) {
        check(&Tunables::default().apply_file("file", &text), &text);
    }

    #[test]
    fn nodes(text in texts()) {
        match NodesList::parse(&text) {
            Ok(list) => check(&list.warnings, &text),
            Err(error) => prop_assert!(error.line <= text.split('\n').count()),
        }
    }

    #[test]
    fn public_addresses(text in texts()) {
        match PublicAddresses::parse(&text, |_| true) {
            Ok(found) => check(&found.warnings, &text),
            Err(error) => prop_assert!(error.line() <= text.split('\n').count()),
        }
    }

    #[test]
    fn levels_and_locations(text in "\\PC{0,20}") {
        if let Some(level) = LogLevel::parse(&text) {
            prop_assert_eq!(LogLevel::from_number(level.number().into()), Some(level));
        }
        if let Some(location) = LogLocation::parse(&text) {
            prop_assert_eq!(LogLocation::parse(&location.to_string()), Some(location));
        }
    }
}
