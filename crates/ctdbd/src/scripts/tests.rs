use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::lanes::{Inbox, lanes};

struct Fixture {
    dir: TempDir,
    scripts: Scripts,
    inbox: Inbox,
}

const LONG: Duration = Duration::from_secs(60);

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, inbox) = lanes();
    let environment = ChildEnvironment::default().with("OUT", dir.path().join("out"));
    let setup = ScriptSetup {
        dir: dir.path().join("legacy"),
        environment,
        debug_script: None,
        starts: InTurn::default(),
        debug_starts: InTurn::default(),
    };
    fs::create_dir(&setup.dir).unwrap();
    Fixture {
        dir,
        scripts: Scripts::new(setup, lanes),
        inbox,
    }
}

impl Fixture {
    fn script(&self, name: &str, body: &str) {
        self.script_with_mode(name, body, 0o755);
    }

    fn script_with_mode(&self, name: &str, body: &str, mode: u32) {
        let path = self.dir.path().join("legacy").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn out(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    async fn next(&mut self) -> (Ticket, EventOutcome) {
        let next = tokio::time::timeout(LONG, self.inbox.next()).await;
        let ShellEvent::EventDone {
            ticket, outcome, ..
        } = next.expect("an event ends in time")
        else {
            panic!("not the end of an event")
        };
        self.scripts.finished(ticket);
        (ticket, outcome)
    }

    async fn run(&mut self, event: &str, limit: Duration) -> EventOutcome {
        self.scripts.run(Ticket(1), event, Vec::new(), limit);
        self.next().await.1
    }

    async fn wait_for_out(&self, text: &str) {
        while !self.out().contains(text) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.map_or(true, |text| text.contains(") Z"))
}

#[tokio::test]
async fn scripts_run_in_order_with_the_event_and_its_arguments() {
    let mut f = fixture();
    f.script("20.b.script", "echo b $# $1 $3 >> $OUT");
    f.script("10.a.script", "echo a $# $1 $3 >> $OUT");
    f.script("ignored.script", "echo ignored >> $OUT");
    let arguments = ["eth0", "10.0.0.1", "24"].map(str::to_owned).to_vec();
    f.scripts.run(Ticket(7), "takeip", arguments, LONG);
    assert_eq!(f.next().await, (Ticket(7), EventOutcome::Ok));
    assert_eq!(f.out(), "a 4 takeip 10.0.0.1\nb 4 takeip 10.0.0.1\n");
}

#[tokio::test]
async fn a_failure_ends_the_event_and_disabled_scripts_do_not() {
    let mut f = fixture();
    f.script_with_mode("05.off.script", "exit 1", 0o644);
    f.script("06.pass.script", "exit 77");
    f.script("10.bad.script", "echo bad >> $OUT; exit 3");
    f.script("20.never.script", "echo never >> $OUT");
    assert_eq!(
        f.run("setup", LONG).await,
        EventOutcome::Failed { status: 8 }
    );
    assert_eq!(f.out(), "bad\n");
}

#[tokio::test]
async fn a_missing_interpreter_is_a_disabled_script() {
    let mut f = fixture();
    let path = f.dir.path().join("legacy/10.a.script");
    f.script("10.a.script", "");
    fs::write(path, "#!/no/such/interpreter\n").unwrap();
    assert_eq!(f.run("setup", LONG).await, EventOutcome::Ok);
}

#[tokio::test]
async fn a_missing_folder_fails_with_its_error_number() {
    let mut f = fixture();
    fs::remove_dir(f.dir.path().join("legacy")).unwrap();
    assert_eq!(
        f.run("init", LONG).await,
        EventOutcome::Failed { status: 2 }
    );
}

#[tokio::test]
async fn an_empty_folder_is_a_success() {
    assert_eq!(fixture().run("init", LONG).await, EventOutcome::Ok);
}

#[tokio::test]
async fn the_time_limit_is_for_all_scripts_together_and_the_hung_one_is_ended() {
    let mut f = fixture();
    f.script("10.quick.script", "sleep 0.05");
    f.script("20.hung.script", "echo $$ >> $OUT; exec sleep 600");
    assert_eq!(
        f.run("startup", Duration::from_millis(400)).await,
        EventOutcome::TimedOut
    );
    let pid = f.out().trim().to_owned();
    while !gone(&pid) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn monitor_gives_way_to_any_other_event() {
    let mut f = fixture();
    f.script(
        "10.a.script",
        "echo $1 $$ >> $OUT; test $1 = monitor && exec sleep 600; exit 0",
    );
    f.scripts.run(Ticket(1), "monitor", Vec::new(), LONG);
    f.wait_for_out("monitor").await;
    let monitor = f.out().split_whitespace().nth(1).unwrap().to_owned();
    f.scripts.run(Ticket(2), "startrecovery", Vec::new(), LONG);
    assert_eq!(f.next().await, (Ticket(1), EventOutcome::Cancelled));
    assert_eq!(f.next().await, (Ticket(2), EventOutcome::Ok));
    assert!(gone(&monitor));
}

#[tokio::test]
async fn monitor_is_not_started_while_another_event_runs() {
    let mut f = fixture();
    f.script("10.a.script", "echo $1 >> $OUT; sleep 0.2");
    f.scripts.run(Ticket(1), "startup", Vec::new(), LONG);
    f.scripts.run(Ticket(2), "monitor", Vec::new(), LONG);
    f.scripts.run(Ticket(3), "recovered", Vec::new(), LONG);
    assert_eq!(f.next().await, (Ticket(2), EventOutcome::Cancelled));
    assert_eq!(f.next().await, (Ticket(1), EventOutcome::Ok));
    assert_eq!(f.next().await, (Ticket(3), EventOutcome::Ok));
    assert_eq!(f.out(), "startup\nrecovered\n");
}

#[tokio::test]
async fn a_cancelled_event_makes_room_for_the_next() {
    let mut f = fixture();
    f.script(
        "10.a.script",
        "echo $1 >> $OUT; test $1 = startup && exec sleep 600; exit 0",
    );
    f.scripts.run(Ticket(1), "startup", Vec::new(), LONG);
    f.scripts.run(Ticket(2), "shutdown", Vec::new(), LONG);
    f.scripts.run(Ticket(3), "recovered", Vec::new(), LONG);
    f.wait_for_out("startup").await;
    f.scripts.cancel(Ticket(3));
    f.scripts.cancel(Ticket(1));
    let ends = [f.next().await, f.next().await, f.next().await];
    assert_eq!(ends[0], (Ticket(3), EventOutcome::Cancelled));
    assert_eq!(ends[1], (Ticket(1), EventOutcome::Cancelled));
    assert_eq!(ends[2], (Ticket(2), EventOutcome::Ok));
}

#[tokio::test]
async fn a_background_process_that_keeps_the_output_open_does_not_delay_the_event() {
    let mut f = fixture();
    f.script("10.a.script", "sleep 600 & echo $! >> $OUT; exit 0");
    assert_eq!(f.run("setup", LONG).await, EventOutcome::Ok);
    let left = f.out().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::SIGKILL).unwrap();
}
