//! `statistics` and `dbstatistics`: what a daemon has counted (`cli.md` 2.4).

use std::fmt::Write;

use ctdb_proto::{DbStatistics, Statistics, statistics::Latency};

use crate::arguments::atoi;
use crate::context::Context;
use crate::database;
use crate::exit::{Failure, Outcome};
use crate::output::print;
use crate::times::{ctime, days_and_time};

/// Version of the protocol, which the output calls the version of CTDB.
const PROTOCOL_VERSION: u32 = 1;

pub(crate) async fn statistics(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let statistics = context.target().statistics().await?;
    let text = match context.separator() {
        Some(separator) => machine_header(separator) + &machine_data(&statistics, separator),
        None => human_text(&statistics),
    };
    print(&text).map(|()| 0)
}

/// Statistics of the past. An entry that has not begun is left out.
pub(crate) async fn stats(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=1)?;
    let count = context.arguments.text(0).map_or(0, |text| atoi(&text));
    let history = context.target().get_stat_history().await?.statistics;
    let mut text = context.separator().map(machine_header).unwrap_or_default();
    for (index, statistics) in history.iter().enumerate() {
        if statistics.statistics_start_time.sec == 0 {
            continue;
        }
        text.push_str(&match context.separator() {
            Some(separator) => machine_data(statistics, separator),
            None => human_text(statistics),
        });
        // As in the original the entry with that index still counts: `stats 1` shows two.
        if count > 0 && usize::try_from(count).is_ok_and(|count| index == count) {
            break;
        }
    }
    print(&text).map(|()| 0)
}

pub(crate) async fn statisticsreset(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    context.target().statistics_reset().await?;
    Ok(0)
}

pub(crate) async fn dbstatistics(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let argument = context.arguments.text(0).unwrap_or_default();
    let db = database::resolve(context, &argument).await?;
    let statistics = context
        .target()
        .get_db_statistics(db.id)
        .await
        .map_err(|error| {
            Failure::from(error).and(format!("Failed to get statistics for DB {argument}"))
        })?;
    print(&db_text(&argument, &statistics)).map(|()| 0)
}

/// All counters in the order of the output; a name `group.member` is shown below its group.
fn counters(s: &Statistics) -> [(&'static str, u32); 38] {
    [
        ("num_clients", s.num_clients),
        ("frozen", s.frozen),
        ("recovering", s.recovering),
        ("num_recoveries", s.num_recoveries),
        ("client_packets_sent", s.client_packets_sent),
        ("client_packets_recv", s.client_packets_recv),
        ("node_packets_sent", s.node_packets_sent),
        ("node_packets_recv", s.node_packets_recv),
        ("keepalive_packets_sent", s.keepalive_packets_sent),
        ("keepalive_packets_recv", s.keepalive_packets_recv),
        ("node.req_call", s.node.req_call),
        ("node.reply_call", s.node.reply_call),
        ("node.req_dmaster", s.node.req_dmaster),
        ("node.reply_dmaster", s.node.reply_dmaster),
        ("node.reply_error", s.node.reply_error),
        ("node.req_message", s.node.req_message),
        ("node.req_control", s.node.req_control),
        ("node.reply_control", s.node.reply_control),
        ("node.req_tunnel", s.node.req_tunnel),
        ("client.req_call", s.client.req_call),
        ("client.req_message", s.client.req_message),
        ("client.req_control", s.client.req_control),
        ("client.req_tunnel", s.client.req_tunnel),
        ("timeouts.call", s.timeouts.call),
        ("timeouts.control", s.timeouts.control),
        ("timeouts.traverse", s.timeouts.traverse),
        ("locks.num_calls", s.locks.num_calls),
        ("locks.num_current", s.locks.num_current),
        ("locks.num_pending", s.locks.num_pending),
        ("locks.num_failed", s.locks.num_failed),
        ("total_calls", s.total_calls),
        ("pending_calls", s.pending_calls),
        ("childwrite_calls", s.childwrite_calls),
        ("pending_childwrite_calls", s.pending_childwrite_calls),
        ("memory_used", s.memory_used),
        ("max_hop_count", s.max_hop_count),
        ("total_ro_delegations", s.total_ro_delegations),
        ("total_ro_revokes", s.total_ro_revokes),
    ]
}

fn human_text(s: &Statistics) -> String {
    let (now, since) = (s.statistics_current_time.sec, s.statistics_start_time.sec);
    let mut text = format!(
        "CTDB version {PROTOCOL_VERSION}\n\
         Current time of statistics  :                {}\n\
         Statistics collected since  : {} {}\n",
        ctime(now),
        days_and_time(now.saturating_sub(since)),
        ctime(since),
    );
    text.push_str(&counter_lines(&counters(s)));
    text.push_str(&bucket_line("hop_count_buckets", &s.hop_count_bucket));
    text.push_str(&bucket_line("lock_buckets", &s.locks.buckets));
    text.push_str(&latency_line("locks_latency", &s.locks.latency));
    text.push_str(&latency_line("reclock_ctdbd", &s.reclock_ctdbd));
    text.push_str(&latency_line("reclock_recd", &s.reclock_recd));
    text.push_str(&latency_line("call_latency", &s.call_latency));
    text.push_str(&latency_line("childwrite_latency", &s.childwrite_latency));
    text
}

fn counter_lines(counters: &[(&'static str, u32)]) -> String {
    let mut text = String::new();
    let mut current_group = "";
    for (name, value) in counters {
        let _ = match name.split_once('.') {
            None => writeln!(text, " {name:<22}    {value:10}"),
            Some((group, member)) => {
                if group != current_group {
                    let _ = writeln!(text, " {group}");
                    current_group = group;
                }
                writeln!(text, "     {member:<22}{value:10}")
            }
        };
    }
    text
}

fn bucket_line(name: &str, buckets: &[u32; 16]) -> String {
    let numbers = buckets.map(|count| count.to_string()).join(" ");
    format!(" {name}: {numbers}\n")
}

fn latency_line(name: &str, latency: &Latency) -> String {
    let Latency { num, min, max, .. } = latency;
    let label = format!("{name:<18} MIN/AVG/MAX");
    format!(
        " {label:<30}     {min:.6}/{:.6}/{max:.6} sec out of {num}\n",
        mean(latency)
    )
}

fn mean(latency: &Latency) -> f64 {
    if latency.num == 0 {
        0.0
    } else {
        latency.total / f64::from(latency.num)
    }
}

/// Machine-readable: every field is *followed* by the separator, none stands in front.
fn machine_row(fields: impl IntoIterator<Item = String>, separator: &str) -> String {
    let mut text = String::new();
    for field in fields {
        text.push_str(&field);
        text.push_str(separator);
    }
    text.push('\n');
    text
}

/// The latencies of the machine-readable output, in its order and under its names.
fn machine_latencies(s: &Statistics) -> [(&'static str, &Latency); 5] {
    [
        ("reclock_ctdbd", &s.reclock_ctdbd),
        ("reclock_recd", &s.reclock_recd),
        ("call", &s.call_latency),
        ("lockwait", &s.locks.latency),
        ("childwrite", &s.childwrite_latency),
    ]
}

fn machine_header(separator: &str) -> String {
    let empty = Statistics::default();
    let times = [
        "CTDB version",
        "Current time of statistics",
        "Statistics collected since",
    ];
    let mut fields: Vec<String> = times.map(str::to_owned).to_vec();
    fields.extend(counters(&empty).map(|(name, _)| name.to_owned()));
    for (name, _) in machine_latencies(&empty) {
        fields.extend(["num", "min", "avg", "max"].map(|part| format!("{part}_{name}_latency")));
    }
    machine_row(fields, separator)
}

fn machine_data(s: &Statistics, separator: &str) -> String {
    let mut fields = vec![
        PROTOCOL_VERSION.to_string(),
        s.statistics_current_time.sec.to_string(),
        s.statistics_start_time.sec.to_string(),
    ];
    fields.extend(counters(s).map(|(_, value)| value.to_string()));
    for (_, latency) in machine_latencies(s) {
        fields.push(latency.num.to_string());
        let values = [latency.min, mean(latency), latency.max];
        fields.extend(values.map(|seconds| format!("{seconds:.6}")));
    }
    machine_row(fields, separator)
}

fn db_text(name: &str, s: &DbStatistics) -> String {
    let mut text = format!("DB Statistics {name}\n");
    text.push_str(&counter_lines(&[
        ("db_ro_delegations", s.db_ro_delegations),
        ("db_ro_revokes", s.db_ro_revokes),
        ("locks.num_calls", s.locks.num_calls),
        ("locks.num_current", s.locks.num_current),
        ("locks.num_pending", s.locks.num_pending),
        ("locks.num_failed", s.locks.num_failed),
    ]));
    text.push_str(&bucket_line("hop_count_buckets", &s.hop_count_bucket));
    text.push_str(&bucket_line("lock_buckets", &s.locks.buckets));
    text.push_str(&latency_line("locks_latency", &s.locks.latency));
    text.push_str(&latency_line("vacuum_latency", &s.vacuum_latency));
    let _ = writeln!(text, " Num Hot Keys:     {}", s.hot_keys.len());
    for hot in &s.hot_keys {
        let _ = write!(text, "     Count:{} Key:", hot.count);
        for byte in &hot.key {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ctdb_proto::TimeVal;
    use ctdb_proto::statistics::HotKey;

    use super::*;

    /// The numbers of the recorded run in `tests/golden/statistics.txt`.
    fn recorded() -> Statistics {
        let latency = |num, min, max, total| Latency {
            num,
            min,
            max,
            total,
        };
        let mut s = Statistics {
            num_clients: 2,
            num_recoveries: 1,
            client_packets_sent: 884,
            client_packets_recv: 898,
            node_packets_sent: 1637,
            node_packets_recv: 346,
            keepalive_packets_sent: 10,
            keepalive_packets_recv: 10,
            total_calls: 2,
            childwrite_calls: 1,
            memory_used: 92021,
            reclock_ctdbd: latency(1, 0.035_004, 0.035_004, 0.035_004),
            reclock_recd: latency(1, 0.016_051, 0.016_051, 0.016_051),
            call_latency: latency(2, 0.000_028, 0.014_206, 0.014_234),
            childwrite_latency: latency(1, 0.027_799, 0.027_799, 0.027_799),
            statistics_current_time: TimeVal {
                sec: 1_795_193_533,
                usec: 0,
            },
            statistics_start_time: TimeVal {
                sec: 1_795_193_506,
                usec: 0,
            },
            ..Statistics::default()
        };
        s.node.reply_dmaster = 1;
        s.node.req_message = 30;
        s.node.req_control = 674;
        s.node.reply_control = 854;
        s.client.req_call = 2;
        s.client.req_message = 45;
        s.client.req_control = 851;
        s
    }

    #[test]
    fn statistics_read_as_recorded() {
        let golden = include_str!("../../../tests/golden/statistics.txt");
        let text = human_text(&recorded());
        // The second and third line show local time, which the recording has in UTC.
        let body = |text: &str| text.lines().skip(3).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(body(&text), body(golden));
        assert!(text.starts_with("CTDB version 1\nCurrent time of statistics  :                "));
        assert!(text.contains("\nStatistics collected since  : (000 00:00:27) "));
    }

    #[test]
    fn the_machine_header_is_as_recorded() {
        let golden = include_str!("../../../tests/golden/statistics-machine.txt");
        assert_eq!(Some(machine_header("|").trim_end()), golden.lines().next());
        let data = machine_data(&recorded(), "|");
        assert!(data.starts_with("1|1795193533|1795193506|2|0|0|1|884|"));
        assert!(data.ends_with(
            "|2|0.000028|0.007117|0.014206|0|0.000000|0.000000|0.000000\
                                |1|0.027799|0.027799|0.027799|\n"
        ));
    }

    #[test]
    fn database_statistics_read_as_recorded() {
        let golden = include_str!("../../../tests/golden/dbstatistics.txt");
        let unused = vec![HotKey::default(); 10];
        let statistics = DbStatistics {
            hot_keys: unused,
            ..DbStatistics::default()
        };
        assert_eq!(db_text("vol.tdb", &statistics), golden);
    }

    #[test]
    fn hot_keys_are_lower_case_hex() {
        let hot = HotKey {
            count: 7,
            key: Bytes::from_static(b"\xAB\0"),
        };
        let statistics = DbStatistics {
            hot_keys: vec![hot],
            ..DbStatistics::default()
        };
        let text = db_text("x", &statistics);
        assert!(text.ends_with(" Num Hot Keys:     1\n     Count:7 Key:ab00\n"));
    }
}
