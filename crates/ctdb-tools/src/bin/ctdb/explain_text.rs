//! The text of `explain`: the present state first, in a few lines, then what happened lately.

use std::collections::BTreeMap;
use std::fmt::Write;

use ctdb_proto::control::{Explanation, Statement, Topic};
use ctdb_proto::{Pnn, TimeVal};
use ctdb_sys::LocalTime;

use crate::output::machine_line;

/// What was decided or happened lately: so many lines, unless all are wanted.
const LATEST: usize = 20;

/// What the leader says, if it is another node; `None` if it does not explain.
pub(crate) type Leader = (Pnn, Option<Explanation>);

/// All of it. `flags`: state and address of the node, from the node map.
pub(crate) fn text(said: &Explanation, flags: &str, leader: Option<&Leader>, all: bool) -> String {
    let mut page = Page {
        now: said.now,
        text: String::new(),
    };
    let pnn = said.pnn;
    let now = date_and_time(said.now);
    let _ = writeln!(page.text, "Node {pnn} at {now}: {flags}");
    page.state(said);
    page.leader(said);
    page.events(said);
    let leaders = leader.and_then(|(_, said)| said.as_ref());
    page.bans(said, leaders);
    page.unreachable(said);
    page.recovery(leaders.unwrap_or(said), said);
    page.takeover(leaders.unwrap_or(said));
    page.other(said);
    page.lately(said, all);
    match leader {
        Some((_, Some(said))) => page.lately(said, all),
        Some((pnn, None)) => {
            let text = "cannot be reached, or cannot explain why it recovers and bans";
            let _ = writeln!(page.text, "\nNode {pnn}, the leader, {text}.");
        }
        None => {}
    }
    page.text
}

/// The output, and the moment that durations count from.
struct Page {
    now: TimeVal,
    text: String,
}

impl Page {
    /// One subject; further lines are indented.
    fn line(&mut self, subject: &str, text: &str) {
        let subject = if subject.is_empty() {
            String::new()
        } else {
            format!("{subject}:")
        };
        for (index, line) in text.lines().enumerate() {
            let subject = if index == 0 { subject.as_str() } else { "" };
            let indent = if index == 0 { "" } else { "  " };
            let _ = writeln!(self.text, "  {subject:<15}{indent}{}", printable(line));
        }
    }

    /// Several statements about one subject, or a word that there are none.
    fn lines(&mut self, subject: &str, lines: &[String], none: &str) {
        let mut subjects = [subject].into_iter().chain(std::iter::repeat(""));
        if lines.is_empty() {
            self.line(subject, none);
        }
        for line in lines {
            self.line(subjects.next().unwrap_or_default(), line);
        }
    }

    fn state(&mut self, said: &Explanation) {
        for state in said.about(Topic::STATE) {
            let since = self.since(state.since);
            self.line("Daemon", &format!("runs {since}; {}", state.text));
        }
    }

    fn leader(&mut self, said: &Explanation) {
        let Some(leader) = said.about(Topic::LEADER).next() else {
            return self.line("Leader", "nothing was decided yet");
        };
        let who = match leader.about {
            Some(pnn) if pnn == said.pnn => "this node".to_owned(),
            Some(pnn) => format!("node {pnn}"),
            None => "nobody".to_owned(),
        };
        let since = self.since(leader.since);
        self.line("Leader", &format!("{who} {since}: {}", leader.text));
    }

    fn events(&mut self, said: &Explanation) {
        let fails = |event: &Statement| {
            let (name, why) = event.text.split_once(": ").unwrap_or(("?", &event.text));
            let (since, last) = (self.since(event.since), self.moment(event.until));
            format!("{name} fails {since}, last at {last}: {why}")
        };
        let lines: Vec<_> = said.about(Topic::EVENT).map(fails).collect();
        self.lines("Event scripts", &lines, "no event fails");
    }

    /// The leader knows why it has banned a node, the banned node who asked for it. Of each node
    /// what says most.
    fn bans(&mut self, said: &Explanation, leader: Option<&Explanation>) {
        let mut bans = BTreeMap::new();
        for by in [Some(said), leader].into_iter().flatten() {
            for ban in by.about(Topic::BAN) {
                let known = bans.entry(ban.about).or_insert((by.pnn, ban));
                if known.1.until == TimeVal::ZERO {
                    *known = (by.pnn, ban);
                }
            }
        }
        let lines = bans.values().map(|(by, ban)| self.ban(*by, ban, said.pnn));
        let lines: Vec<_> = lines.collect();
        self.lines("Bans", &lines, "no node is banned");
    }

    fn ban(&self, by: Pnn, ban: &Statement, asked: Pnn) -> String {
        let who = ban.about.map_or("?".to_owned(), |pnn| pnn.to_string());
        let (says, text) = (says(by, asked), &ban.text);
        match ban.until {
            TimeVal::ZERO => format!("node {who}: {text}{says}, `ctdb explain {who}` tells whose"),
            until => {
                let (until, more) = (self.moment(until), self.to(until));
                format!("node {who} until {until} ({more} more): {text}{says}")
            }
        }
    }

    fn unreachable(&mut self, said: &Explanation) {
        let line = |peer: &Statement| {
            let who = peer.about.map_or("?".to_owned(), |pnn| pnn.to_string());
            format!("node {who} {}: {}", self.since(peer.since), peer.text)
        };
        let lines: Vec<_> = said.about(Topic::UNREACHABLE).map(line).collect();
        self.lines("Unreachable", &lines, "all nodes are connected");
    }

    fn recovery(&mut self, leader: &Explanation, said: &Explanation) {
        if let Some(recovery) = leader.about(Topic::RECOVERY).next() {
            let line = self.piece_of_work(recovery);
            let by = says(leader.pnn, said.pnn);
            self.line("Last recovery", &format!("{line}{by}"));
            let phases: Vec<_> = leader.about(Topic::PHASE).map(phase).collect();
            for few in phases.chunks(4) {
                self.line("", &few.join(", "));
            }
        } else if let Some(took_part) = said.about(Topic::TOOK_PART).next() {
            let line = self.piece_of_work(took_part);
            let text = format!("{line}another node led it, and why is not known here");
            self.line("Last recovery", &text);
        } else {
            self.line("Last recovery", "none yet");
        }
    }

    fn takeover(&mut self, leader: &Explanation) {
        if let Some(run) = leader.about(Topic::TAKEOVER_RUN).next() {
            let line = self.piece_of_work(run);
            self.line("Takeover run", &line);
        }
    }

    /// Topics of a later version of the daemon.
    fn other(&mut self, said: &Explanation) {
        let unknown = said.statements.iter();
        for statement in unknown.filter(|statement| statement.topic.name().is_none()) {
            let about = statement
                .about
                .map_or(String::new(), |pnn| format!("node {pnn}: "));
            self.line("Also", &format!("{about}{}", statement.text));
        }
    }

    fn lately(&mut self, said: &Explanation, all: bool) {
        let decisions: Vec<_> = said.about(Topic::DECISION).collect();
        let shown = if all { decisions.len() } else { LATEST };
        let skipped = decisions.len().saturating_sub(shown);
        let _ = writeln!(self.text, "\nLately on node {}:", said.pnn);
        if skipped > 0 {
            let _ = writeln!(self.text, "  ({skipped} more with -v)");
        }
        for decision in decisions.into_iter().skip(skipped) {
            let until = match decision.until {
                TimeVal::ZERO => String::new(),
                until => format!(" (until {})", self.moment(until)),
            };
            let mut lines = decision.text.lines().map(printable);
            let (at, first) = (date_and_time(decision.since), lines.next());
            let first = first.unwrap_or_default();
            let _ = writeln!(self.text, "  {at}  {first}{until}");
            for line in lines {
                let _ = writeln!(self.text, "  {:>21}  {line}", "");
            }
        }
    }

    /// A recovery or a takeover run, up to the colon and with its text.
    fn piece_of_work(&self, work: &Statement) -> String {
        let at = self.moment(work.since);
        let took = match work.until {
            TimeVal::ZERO => format!("for {} now", span(micros(self.now) - micros(work.since))),
            until => format!("took {}", span(micros(until) - micros(work.since))),
        };
        let ago = span(micros(self.now) - micros(work.since));
        format!("at {at} ({ago} ago), {took}: {}", work.text)
    }

    fn since(&self, since: TimeVal) -> String {
        let ago = span(micros(self.now) - micros(since));
        format!("since {} ({ago})", self.moment(since))
    }

    /// How long from now to then.
    fn to(&self, then: TimeVal) -> String {
        span(micros(then) - micros(self.now))
    }

    /// A time of today without its date.
    fn moment(&self, time: TimeVal) -> String {
        let (then, now) = (
            LocalTime::from_unix(time.sec),
            LocalTime::from_unix(self.now.sec),
        );
        let day = |time: &LocalTime| (time.year, time.month, time.day);
        match (then, now) {
            (Some(then), Some(now)) if day(&then) == day(&now) => {
                format!("{:02}:{:02}:{:02}", then.hour, then.minute, then.second)
            }
            _ => date_and_time(time),
        }
    }
}

/// Who says it, unless that is clear.
fn says(by: Pnn, asked: Pnn) -> String {
    if by == asked {
        String::new()
    } else {
        format!(" (says node {by})")
    }
}

fn phase(phase: &Statement) -> String {
    let took = span(micros(phase.until) - micros(phase.since));
    format!("{} {took}", phase.text)
}

/// `2026-11-21 03:12:44`, local time.
fn date_and_time(time: TimeVal) -> String {
    match LocalTime::from_unix(time.sec) {
        Some(at) => format!(
            "{}-{:02}-{:02} {:02}:{:02}:{:02}",
            at.year, at.month, at.day, at.hour, at.minute, at.second
        ),
        None => "(time out of range)".to_owned(),
    }
}

/// Microseconds since 1970, as far as they can be counted.
fn micros(time: TimeVal) -> i64 {
    time.sec.saturating_mul(1_000_000).saturating_add(time.usec)
}

/// A duration in the units that one would say it in.
fn span(micros: i64) -> String {
    let micros = micros.max(0);
    let seconds = micros / 1_000_000;
    match seconds {
        0..10 => format!("{seconds}.{:03} s", micros % 1_000_000 / 1000),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Text of a script or a peer on a terminal: nothing that controls the terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).collect()
}

/// One line for each statement: `|Node|Topic|About|Since|Until|Text|`. Times are seconds since
/// 1970, 0 for none; the node that a statement is about is empty if it is about none. Line ends and
/// separators in a text are blanks.
pub(crate) fn machine_text(said: &Explanation, separator: &str) -> String {
    let mut text = machine_line(
        separator,
        &["Node", "Topic", "About", "Since", "Until", "Text"],
    );
    let node = said.pnn.to_string();
    for statement in &said.statements {
        let topic = statement.topic;
        let topic = topic.name().map_or(topic.0.to_string(), str::to_owned);
        let about = statement.about.map_or(String::new(), |pnn| pnn.to_string());
        let time = |time: TimeVal| format!("{}.{:06}", time.sec, time.usec.clamp(0, 999_999));
        let (since, until) = (time(statement.since), time(statement.until));
        let words = printable(&statement.text);
        let words = if separator.is_empty() {
            words
        } else {
            words.replace(separator, " ")
        };
        let fields = [&node, &topic, &about, &since, &until, &words];
        text.push_str(&machine_line(separator, &fields.map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn pnn(raw: u32) -> Pnn {
        Pnn::new(raw).unwrap()
    }

    fn at(ago: i64) -> TimeVal {
        TimeVal {
            sec: NOW - ago,
            usec: 0,
        }
    }

    fn says(
        topic: Topic,
        about: Option<u32>,
        since: i64,
        until: Option<i64>,
        text: &str,
    ) -> Statement {
        Statement {
            topic,
            about: about.map(pnn),
            since: at(since),
            until: until.map_or(TimeVal::ZERO, at),
            text: text.to_owned(),
        }
    }

    fn explanation(raw: u32, statements: Vec<Statement>) -> Explanation {
        Explanation {
            pnn: pnn(raw),
            now: at(0),
            statements,
        }
    }

    /// A line about a subject, its blanks made one.
    fn line(text: &str, start: &str) -> String {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        let words = line.unwrap_or_else(|| panic!("no {start} in\n{text}"));
        words.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn when_all_is_well_it_says_so() {
        let text = text(&explanation(0, Vec::new()), "OK (10.0.0.1)", None, false);
        assert!(text.starts_with("Node 0 at 20"), "{text}");
        assert_eq!(line(&text, "Bans"), "Bans: no node is banned");
        assert_eq!(line(&text, "Event"), "Event scripts: no event fails");
        let all = "Unreachable: all nodes are connected";
        assert_eq!(line(&text, "Unreachable"), all);
        assert_eq!(line(&text, "Last recovery"), "Last recovery: none yet");
    }

    #[test]
    fn the_leader_adds_why_it_recovers_and_bans() {
        let asked = explanation(
            1,
            vec![
                says(Topic::LEADER, Some(0), 600, None, "it broadcasts"),
                says(
                    Topic::EVENT,
                    Some(1),
                    90,
                    Some(5),
                    "monitor: 50.x: exit status: 1\nsmbd\x1b is gone",
                ),
                says(Topic::TOOK_PART, None, 60, Some(59), ""),
            ],
        );
        let leader = explanation(
            0,
            vec![
                says(Topic::BAN, Some(2), 10, Some(-240), "it failed"),
                says(
                    Topic::RECOVERY,
                    None,
                    60,
                    Some(58),
                    "node 2 is lost; complete",
                ),
                says(Topic::PHASE, None, 60, Some(59), "databases"),
            ],
        );
        let text = text(&asked, "OK", Some(&(pnn(0), Some(leader))), false);
        let who = line(&text, "Leader");
        assert!(
            who.contains("node 0 since") && who.ends_with("(10 min 0 s): it broadcasts"),
            "{who}"
        );
        assert!(
            line(&text, "Event").ends_with("50.x: exit status: 1"),
            "{text}"
        );
        assert!(text.contains("smbd  is gone\n"), "{text}");
        let ban = line(&text, "Bans");
        assert!(
            ban.contains("node 2 until")
                && ban.ends_with("(4 min 0 s more): it failed (says node 0)"),
            "{ban}"
        );
        let recovery = line(&text, "Last recovery");
        assert!(
            recovery.ends_with("(60 s ago), took 2.000 s: node 2 is lost; complete (says node 0)"),
            "{recovery}"
        );
        assert_eq!(line(&text, "databases"), "databases 1.000 s");
    }

    #[test]
    fn a_leader_that_does_not_explain_is_named() {
        let asked = explanation(1, vec![says(Topic::TOOK_PART, None, 60, Some(59), "")]);
        let text = text(&asked, "OK", Some(&(pnn(0), None)), false);
        assert!(
            line(&text, "Last recovery")
                .ends_with("took 1.000 s: another node led it, and why is not known here")
        );
        assert!(text.contains("Node 0, the leader, cannot"), "{text}");
    }

    #[test]
    fn the_history_is_short_unless_all_is_wanted() {
        let decision = |number: i64| {
            let text = format!("decision {number}");
            says(Topic::DECISION, None, 100 - number, None, &text)
        };
        let said = explanation(0, (0..50).map(decision).collect());
        let short = text(&said, "OK", None, false);
        assert!(short.contains("(30 more with -v)"), "{short}");
        assert!(
            !short.contains("decision 29\n") && short.contains("decision 30\n"),
            "{short}"
        );
        let long = text(&said, "OK", None, true);
        assert!(
            long.contains("decision 0\n") && long.ends_with("decision 49\n"),
            "{long}"
        );
    }

    #[test]
    fn spans_are_said_as_people_say_them() {
        let spans = [
            0,
            1_234_567,
            15_000_000,
            150_000_000,
            7_260_000_000,
            200_000_000_000,
            -5,
        ];
        assert_eq!(
            spans.map(span),
            [
                "0.000 s",
                "1.234 s",
                "15 s",
                "2 min 30 s",
                "2 h 1 min",
                "2 days",
                "0.000 s"
            ]
        );
    }

    #[test]
    fn machines_get_one_line_for_each_statement() {
        let said = explanation(
            1,
            vec![
                says(Topic::BAN, Some(2), 0, None, "a|b\nc"),
                says(Topic(77), None, 0, None, "later"),
            ],
        );
        let lines = format!(
            "|Node|Topic|About|Since|Until|Text|\n\
             |1|BAN|2|{NOW}.000000|0.000000|a b c|\n\
             |1|77||{NOW}.000000|0.000000|later|\n"
        );
        assert_eq!(machine_text(&said, "|"), lines);
        assert!(text(&said, "OK", None, false).contains("later"));
    }
}
