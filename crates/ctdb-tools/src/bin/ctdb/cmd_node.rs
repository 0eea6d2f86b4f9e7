//! Short questions and orders about one node (`cli.md` 2.2).

use std::time::Instant;

use bytes::BytesMut;
use ctdb_conf::LogLevel;
use ctdb_proto::control::Uptime;
use ctdb_proto::{Capabilities, Dest, RunState, Srvid, SrvidMessage, TimeVal, Wire};

use crate::arguments::{atoi, number_64};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::{machine_line, print, print_bytes};
use crate::times::{ctime, days_and_time};

pub(crate) fn pnn(context: &Context) -> Outcome {
    print(&format!("{}\n", context.local)).map(|()| 0)
}

pub(crate) async fn getpid(context: &Context) -> Outcome {
    let pid = context.target().get_pid().await?;
    print(&format!("{pid}\n")).map(|()| 0)
}

/// More words are ignored, as by the original.
pub(crate) async fn dumpmemory(context: &Context) -> Outcome {
    let text = context.target().dump_memory().await?;
    print_bytes(&text).map(|()| 0)
}

/// Asks the recovery daemon of a node, and waits for its answer as long as `-T` allows. More words
/// are ignored.
pub(crate) async fn rddumpmemory(context: &mut Context) -> Outcome {
    let mut replies = context.reply_subscription().await?;
    let question = SrvidMessage {
        pnn: Some(context.local),
        srvid: replies.srvid(),
    };
    let mut data = BytesMut::new();
    question.encode(&mut data);
    let node = Dest::Node(context.node);
    context
        .client
        .send_message(node, Srvid::MEM_DUMP, data.freeze())
        .await?;
    let reply = replies.receive().await?.data;
    let text = reply.split(|byte| *byte == 0).next().unwrap_or_default();
    print_bytes(text).map(|()| 0)
}

pub(crate) async fn ping(context: &Context) -> Outcome {
    let start = Instant::now();
    let clients = context.target().ping().await?;
    let seconds = start.elapsed().as_secs_f64();
    let node = context.node;
    print(&format!(
        "response from {node} time={seconds:.6} sec  ({clients} clients)\n"
    ))?;
    Ok(0)
}

pub(crate) async fn getreclock(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    if let Some(lock) = context.target().get_reclock_file().await? {
        print(&format!("{lock}\n"))?;
    }
    Ok(0)
}

pub(crate) async fn uptime(context: &Context) -> Outcome {
    let uptime = context.target().uptime().await?;
    print(&uptime_text(context.node.get(), &uptime)).map(|()| 0)
}

fn uptime_text(node: u32, uptime: &Uptime) -> String {
    let now = uptime.current_time.sec;
    let since = |time: TimeVal| {
        format!(
            "{} {}",
            days_and_time(now.saturating_sub(time.sec)),
            ctime(time.sec)
        )
    };
    let (started, finished) = (uptime.last_recovery_started, uptime.last_recovery_finished);
    format!(
        "Current time of node {node:<4}     :                {}\n\
         Ctdbd start time              : {}\n\
         Time of last recovery/failover: {}\n\
         Duration of last recovery/failover: {:.6} seconds\n",
        ctime(now),
        since(uptime.ctdbd_start_time),
        since(finished),
        seconds_between(started, finished),
    )
}

/// Negative while a recovery is going on.
#[expect(
    clippy::cast_precision_loss,
    reason = "durations are far below 2^52 microseconds"
)]
fn seconds_between(start: TimeVal, end: TimeVal) -> f64 {
    let seconds = end.sec.saturating_sub(start.sec);
    seconds as f64 + end.usec.saturating_sub(start.usec) as f64 / 1e6
}

pub(crate) async fn runstate(context: &Context) -> Outcome {
    let state = context.target().get_runstate().await?;
    let wanted: Vec<_> = context.arguments.texts().collect();
    let (code, text) = check_runstate(state, wanted.iter().map(AsRef::as_ref));
    print(&text)?;
    Ok(code)
}

/// Exit code and output: the arguments are looked at in turn until one is the state.
fn check_runstate<'a>(state: RunState, wanted: impl Iterator<Item = &'a str>) -> (i32, String) {
    let mut any = false;
    for name in wanted {
        any = true;
        match runstate_by_name(name) {
            None => return (1, format!("Invalid run state ({name})\n")),
            Some(named) if named == state => return (0, format!("{state}\n")),
            Some(_) => {}
        }
    }
    if any {
        return (1, format!("CTDB not in required run state (got {state})\n"));
    }
    (0, format!("{state}\n"))
}

/// UNKNOWN is no state that one can ask for.
fn runstate_by_name(name: &str) -> Option<RunState> {
    let known = (1..).map_while(RunState::from_raw);
    known
        .into_iter()
        .find(|state| state.name().eq_ignore_ascii_case(name))
}

pub(crate) async fn getcapabilities(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let capabilities = context.target().get_capabilities().await?;
    print(&capabilities_text(capabilities, context.separator())).map(|()| 0)
}

fn capabilities_text(capabilities: Capabilities, separator: Option<&str>) -> String {
    let leader = capabilities.contains(Capabilities::LEADER);
    let lmaster = capabilities.contains(Capabilities::LMASTER);
    let Some(separator) = separator else {
        let yes_no = |on| if on { "YES" } else { "NO" };
        return format!("LEADER: {}\nLMASTER: {}\n", yes_no(leader), yes_no(lmaster));
    };
    let digit = |on| if on { "1" } else { "0" };
    machine_line(separator, &["LEADER", "LMASTER"])
        + &machine_line(separator, &[digit(leader), digit(lmaster)])
}

pub(crate) async fn setleaderrole(context: &Context) -> Outcome {
    let on = on_or_off(context)?;
    context.target().set_leader_role(on).await?;
    Ok(0)
}

pub(crate) async fn setlmasterrole(context: &Context) -> Outcome {
    let on = on_or_off(context)?;
    context.target().set_lmaster_role(on).await?;
    Ok(0)
}

fn on_or_off(context: &Context) -> Result<bool, Failure> {
    context.arguments.expect_count(1..=1)?;
    match context.arguments.text(0).as_deref() {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(Failure::Usage),
    }
}

pub(crate) async fn getdebug(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let level = context.target().get_debug().await?;
    let name = LogLevel::from_number(level).map_or("UNKNOWN", LogLevel::name);
    print(&format!("{name}\n")).map(|()| 0)
}

pub(crate) async fn setdebug(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let text = context.arguments.text(0).unwrap_or_default();
    let Some(level) = LogLevel::parse(&text) else {
        let line = format!("Invalid debug level '{text}'. Valid levels are:");
        return Err(Failure::new(line).and("\tERROR | WARNING | NOTICE | INFO | DEBUG"));
    };
    context.target().set_debug(level.number().into()).await?;
    Ok(0)
}

pub(crate) async fn process_exists(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=2)?;
    let pid = atoi(&context.arguments.text(0).unwrap_or_default());
    let srvid = match context.arguments.text(1) {
        Some(text) => number_64(&text)?,
        None => 0,
    };
    let status = if srvid == 0 {
        context.target().process_exists(pid).await?
    } else {
        context
            .target()
            .check_pid_srvid(pid, Srvid::new(srvid))
            .await?
    };
    print(&process_text(pid, srvid, status == 0))?;
    Ok(status)
}

fn process_text(pid: i32, srvid: u64, exists: bool) -> String {
    let verdict = if exists { "exists" } else { "does not exist" };
    match srvid {
        0 => format!("PID {pid} {verdict}\n"),
        _ => format!("PID {pid} with SRVID {srvid:#x} {verdict}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_states_are_checked_in_order_without_case() {
        let check = |words: &[&str]| check_runstate(RunState::Running, words.iter().copied());
        assert_eq!(check(&[]), (0, "RUNNING\n".to_owned()));
        assert_eq!(
            check(&["setup", "Running", "nonsense"]),
            (0, "RUNNING\n".to_owned())
        );
        assert_eq!(
            check(&["foobar", "RUNNING"]),
            (1, "Invalid run state (foobar)\n".to_owned())
        );
        assert_eq!(
            check(&["UNKNOWN"]),
            (1, "Invalid run state (UNKNOWN)\n".to_owned())
        );
        let wrong = "CTDB not in required run state (got RUNNING)\n";
        assert_eq!(check(&["setup", "startup"]), (1, wrong.to_owned()));
    }

    #[test]
    fn capabilities_are_words_or_digits() {
        let text = |separator| capabilities_text(Capabilities::LMASTER, separator);
        assert_eq!(text(None), "LEADER: NO\nLMASTER: YES\n");
        assert_eq!(text(Some("|")), "|LEADER|LMASTER|\n|0|1|\n");
    }

    #[test]
    fn processes_are_named_with_their_srvid_if_one_was_given() {
        assert_eq!(process_text(17, 0, true), "PID 17 exists\n");
        let with_srvid = "PID -1 with SRVID 0x1234567812345678 does not exist\n";
        assert_eq!(process_text(-1, 0x1234_5678_1234_5678, false), with_srvid);
    }

    #[test]
    fn an_unfinished_recovery_has_a_negative_duration() {
        let at = |sec, usec| TimeVal { sec, usec };
        let uptime = Uptime {
            current_time: at(1000, 0),
            ctdbd_start_time: at(10, 0),
            last_recovery_started: at(900, 500_000),
            last_recovery_finished: at(20, 0),
        };
        let text = uptime_text(3, &uptime);
        let mut lines = text.lines();
        let prefix = "Current time of node 3        :                ";
        assert!(lines.next().unwrap().starts_with(prefix));
        let start = "Ctdbd start time              : (000 00:16:30) ";
        assert!(lines.next().unwrap().starts_with(start));
        assert_eq!(
            lines.last(),
            Some("Duration of last recovery/failover: -880.500000 seconds")
        );
    }
}
