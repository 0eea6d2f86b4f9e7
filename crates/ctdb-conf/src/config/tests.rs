//! Tests of `ctdb.conf`: the rows of `config.md` 1.2 and 1.3.

use std::path::Path;

use super::*;
use crate::ScriptState;

/// Directories below `/dir` exist, and three scripts in `/base`.
struct FakeFiles;

impl Files for FakeFiles {
    fn is_dir(&self, path: &Path) -> bool {
        path.starts_with("/dir") || path == Path::new(".")
    }

    fn script(&self, path: &Path) -> ScriptState {
        match path.to_str() {
            Some("/base/good.sh") => ScriptState::Executable,
            Some("/base/plain.sh") => ScriptState::NotExecutable,
            Some("/base/folder") => ScriptState::NotAFile,
            _ => ScriptState::Missing,
        }
    }
}

fn paths() -> Paths {
    Paths::from_lookup(|name| match name {
        "CTDB_TEST_MODE" => Some("1".into()),
        "CTDB_BASE" => Some("/base".into()),
        _ => None,
    })
    .unwrap()
}

fn load(text: &str) -> Result<LoadedConfig, ConfigErrors> {
    Config::parse(text, &paths(), &FakeFiles, UnknownEntries::Ignore)
}

fn accepted(text: &str) -> Config {
    load(text).unwrap().config
}

/// Texts of the errors, without remarks of lower level.
fn errors(text: &str, unknown: UnknownEntries) -> Vec<String> {
    let ConfigErrors(remarks) =
        Config::parse(text, &paths(), &FakeFiles, unknown).expect_err("the file is wrong");
    remarks
        .into_iter()
        .filter(|r| r.level == LogLevel::ERROR)
        .map(|r| r.text)
        .collect()
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = accepted("");
    assert_eq!(config, Config::defaults(&paths()));
    assert_eq!(
        config.logging.location.to_string(),
        "file:/var/log/ctdb/log.ctdb"
    );
    assert_eq!(config.logging.level, LogLevel::NOTICE);
    assert_eq!(
        config.database.volatile_dir,
        Path::new("/var/lib/ctdb/volatile")
    );
    assert_eq!(config.cluster.leader_timeout, Duration::from_secs(5));
    assert_eq!(
        config.failover.shutdown_failover_timeout,
        Duration::from_secs(10)
    );
    assert!(config.cluster.leader_capability && config.legacy.lmaster_capability);
}

#[test]
fn every_option_is_read() {
    let config = accepted(
        "[logging]\nlocation = file:/dir/log\nlog level = info\n\
         [cluster]\ntransport = tcp\nnode address = fd00::1\ncluster lock = !/x  y\n\
         nodes list = /dir/nodes\nleader timeout = 0x10\nleader capability = NO\n\
         [database]\nvolatile database directory = /dir/v\n\
         persistent database directory = /dir/p\nstate database directory = /dir/s\n\
         lock debug script = good.sh\ntdb mutexes = no\n\
         [event]\ndebug script = some/good.sh\n\
         [failover]\ndisabled = yes\nshutdown extra timeout = 1\n\
         shutdown failover timeout = 0\n\
         [legacy]\nrealtime scheduling = false\nlmaster capability = False\n\
         start as stopped = True\nstart as disabled = yes\nscript log level = DEBUG\n",
    );
    assert_eq!(
        config.logging.location,
        LogLocation::File("/dir/log".into())
    );
    assert_eq!(
        config.cluster.node_address,
        Some("fd00::1".parse().unwrap())
    );
    assert_eq!(config.cluster.cluster_lock.as_deref(), Some("!/x y"));
    assert_eq!(
        config.nodes_source(&paths()),
        NodesSource::File("/dir/nodes".into())
    );
    assert_eq!(config.cluster.leader_timeout, Duration::from_secs(16));
    assert!(!config.cluster.leader_capability && !config.database.tdb_mutexes);
    assert_eq!(config.database.state_dir, Path::new("/dir/s"));
    assert_eq!(
        config.database.lock_debug_script.as_deref(),
        Some(Path::new("/base/good.sh"))
    );
    assert_eq!(
        config.event.debug_script.as_deref(),
        Some(Path::new("/base/good.sh"))
    );
    assert!(config.failover.disabled && config.legacy.start_as_stopped);
    assert_eq!(config.failover.shutdown_failover_timeout, Duration::ZERO);
    assert_eq!(config.legacy.script_log_level, LogLevel::DEBUG);
    assert!(!config.legacy.realtime_scheduling && !config.legacy.lmaster_capability);
}

#[test]
fn sections_match_in_any_case_and_options_exactly() {
    assert!(accepted("[FailOver]\ndisabled = true\n").failover.disabled);
    assert!(!accepted("[failover]\nDisabled = true\n").failover.disabled);
    let strict = UnknownEntries::Refuse;
    assert_eq!(
        errors("[failover]\nDisabled = true\n", strict),
        ["conf: unknown option [failover] -> \"Disabled\""]
    );
}

#[test]
fn unknown_entries_are_notes_or_errors() {
    let text = "lost = 1\n[ cluster ]\nx = 1\n[cluster]\ny =\n";
    let remarks = load(text).unwrap().remarks;
    assert!(remarks.iter().all(|remark| remark.level == LogLevel::DEBUG));
    let texts: Vec<_> = remarks.iter().map(|remark| remark.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "conf: unknown section for option \"lost\"",
            "conf: ignoring unknown section [ cluster ]",
            "conf: unknown section for option \"x\"",
            "conf: unknown option [cluster] -> \"y\"",
        ]
    );
    let strict = errors(text, UnknownEntries::Refuse);
    assert_eq!(strict[1], "conf: unknown section [ cluster ]");
}

#[test]
fn wrong_values_are_all_reported_and_nothing_is_applied() {
    let text = "[cluster]\ntransport = ib\nnode address = host\nleader timeout = 0\n\
                leader capability = on\nleader timeout = -1\nnodes list =\n\
                [legacy]\nscript log level = loud\n[logging]\nlog level = 11\n";
    assert_eq!(
        errors(text, UnknownEntries::Ignore),
        [
            "Invalid value for [cluster] -> transport = ib",
            "conf: validation for option \"transport\" failed",
            "Invalid value for [cluster] -> node address = host",
            "conf: validation for option \"node address\" failed",
            "Invalid value for [cluster] -> leader timeout = 0",
            "conf: validation for option \"leader timeout\" failed",
            "conf: invalid value [cluster] -> \"leader capability\" = \"on\"",
            "conf: invalid value [cluster] -> \"leader timeout\" = \"-1\"",
            "conf: empty value [cluster] -> \"nodes list\"",
            "Invalid value for [legacy] -> script log level = loud",
            "conf: validation for option \"script log level\" failed",
            "conf: validation for option \"log level\" failed",
        ]
    );
}

#[test]
fn directories_and_scripts_must_exist() {
    let text = "[database]\nstate database directory = /gone\nlock debug script = none.sh\n\
                lock debug script = plain.sh\n[event]\ndebug script = folder\n\
                [logging]\nlocation = file:/gone/log\nlocation = journal\n";
    assert_eq!(
        errors(text, UnknownEntries::Ignore),
        [
            "state database directory \"/gone\" does not exist",
            "conf: validation for option \"state database directory\" failed",
            "lock debug script none.sh does not exist",
            "conf: validation for option \"lock debug script\" failed",
            "lock debug script plain.sh is not executable",
            "conf: validation for option \"lock debug script\" failed",
            "debug script folder is not a file",
            "conf: validation for option \"debug script\" failed",
            "conf: validation for option \"location\" failed",
            "conf: validation for option \"location\" failed",
        ]
    );
}

#[test]
fn syntax_errors_refuse_the_file_with_their_line() {
    let ConfigErrors(remarks) = load("[failover]\ndisabled = yes\n\n= 3\n[clus\n").unwrap_err();
    let found: Vec<_> = remarks.iter().map(|r| (r.line, r.text.as_str())).collect();
    assert_eq!(
        found,
        [
            (4, "conf: syntax error in \"= 3\""),
            (5, "conf: syntax error in \"[clus\"")
        ]
    );
    let located = remarks[0].located(Path::new("/c"));
    assert_eq!(located, "/c:4: conf: syntax error in \"= 3\"");
}

#[test]
fn integers_ignore_what_follows_the_digits_with_a_warning() {
    let loaded = load("[cluster]\nleader timeout = 20 # comment\n").unwrap();
    assert_eq!(
        loaded.config.cluster.leader_timeout,
        Duration::from_secs(20)
    );
    assert_eq!(loaded.remarks[0].level, LogLevel::WARNING);
    assert_eq!(loaded.remarks[0].line, 2);
    let extra = accepted("[failover]\nshutdown failover timeout = abc\n");
    assert_eq!(extra.failover.shutdown_failover_timeout, Duration::ZERO);
    let text = "[cluster]\nleader timeout = 2147483648\n";
    assert_eq!(
        errors(text, UnknownEntries::Ignore),
        ["conf: invalid value [cluster] -> \"leader timeout\" = \"2147483648\""]
    );
}

#[test]
fn the_last_of_two_lines_wins() {
    let config = accepted("[cluster]\nleader timeout = 3\n[legacy]\n[cluster]\nleader timeout=5");
    assert_eq!(config.cluster.leader_timeout, Duration::from_secs(5));
}

#[test]
fn recovery_lock_is_a_deprecated_second_choice() {
    let loaded = load("[cluster]\nrecovery lock = /old\n").unwrap();
    assert_eq!(loaded.config.cluster.cluster_lock.as_deref(), Some("/old"));
    assert_eq!(
        loaded.remarks[0].text,
        "Configuration option [cluster] -> recovery lock is deprecated"
    );
    let both = accepted("[cluster]\ncluster lock = /new\nrecovery lock = /old\n");
    assert_eq!(both.cluster.cluster_lock.as_deref(), Some("/new"));
}

#[test]
fn times_below_a_second_go_before_those_in_seconds() {
    let text =
        "[cluster]\nleader timeout ms = 800\nkeepalive interval ms = 200\nleader timeout = 7\n";
    let cluster = accepted(text).cluster;
    assert_eq!(cluster.leader_timeout, Duration::from_millis(800));
    assert_eq!(cluster.keepalive_interval, Some(Duration::from_millis(200)));
    assert_eq!(
        errors(
            "[cluster]\nkeepalive interval ms = 3\n",
            UnknownEntries::Ignore
        ),
        [
            "Invalid value for [cluster] -> keepalive interval ms = 3, less than 20",
            "conf: validation for option \"keepalive interval ms\" failed",
        ]
    );
}
