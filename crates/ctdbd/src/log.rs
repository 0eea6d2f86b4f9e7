//! The log of the daemon: where lines go, how they look, which are left out (config.md 5).
//!
//! Everything in the project logs through `tracing`. Here an event becomes one line of text, its
//! fields behind the message as `name=value`; [`lines`] queues it for a thread, [`sink`] puts the
//! header in front and writes it.
//!
//! | `tracing` | level of CTDB  |
//! |-----------|----------------|
//! | `error`   | 0, ERROR       |
//! | `warn`    | 1, WARNING     |
//! | `info`    | 3, NOTICE      |
//! | `debug`   | 10, DEBUG      |
//!
//! INFO, between the last two, shows what NOTICE shows.

mod lines;
mod sink;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use ctdb_conf::{LogLevel, LogLocation, Paths};
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use lines::Lines;
use sink::{PROGRAM, Sink};

/// Handle on the log of this process, for what may change while it runs.
#[derive(Clone)]
pub(crate) struct Log {
    lines: Arc<Lines>,
    filter: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Opens the log. From now on every `tracing` event of this process goes there.
    pub(crate) fn start(location: &LogLocation, level: LogLevel, host: String) -> io::Result<Self> {
        let lines = Arc::new(Lines::new(Sink::open(location, host)?));
        let (filter, handle) = reload::Layer::new(filter(level));
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(LineFormat)
            .with_writer(LineWriter(Arc::clone(&lines)));
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(io::Error::other)?;
        log_panics();
        Ok(Self {
            lines,
            filter: handle,
        })
    }

    /// Changes what is left out.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // This fails only when the subscriber is gone, which lives as long as the process.
        let _ = self.filter.modify(|current| *current = filter(level));
    }

    /// Has a thread write from now on, so that nobody waits for the log. To be called when the
    /// process does not fork any more.
    pub(crate) fn write_in_thread(&self) -> io::Result<()> {
        self.lines.write_in_thread()
    }

    /// Opens the file again under its name, after a log rotation has moved it, and says so. The old
    /// one stays in use when that fails.
    pub(crate) fn reopen(&self) {
        self.lines.reopen();
    }

    /// Waits until all is written that was said, but no longer than `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        self.lines.flush(limit);
    }
}

/// The name of this host in log lines; in test mode that of the node's folder, since all nodes
/// share a host.
pub(crate) fn host_name(paths: &Paths) -> String {
    if paths.test_mode() {
        let folder = paths.etcdir().file_name().unwrap_or(OsStr::new("unknown"));
        return folder.to_string_lossy().into_owned();
    }
    nix::unistd::gethostname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Has panics logged: a daemon has no standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!("ctdb fatal error: {panic}");
        for line in backtrace.to_string().lines() {
            tracing::error!("{line}");
        }
    }));
}

/// Logs a line at a level that is known only now.
pub(crate) fn line_at(level: LogLevel, text: &str) {
    match filter(level) {
        LevelFilter::ERROR => tracing::error!("{text}"),
        LevelFilter::WARN => tracing::warn!("{text}"),
        LevelFilter::INFO => tracing::info!("{text}"),
        _ => tracing::debug!("{text}"),
    }
}

/// The most verbose kind of event that this level lets through.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::ERROR => LevelFilter::ERROR,
        level if level < LogLevel::NOTICE => LevelFilter::WARN,
        level if level < LogLevel::DEBUG => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    }
}

/// The level of CTDB that an event has.
fn level_of(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::ERROR,
        Level::WARN => LogLevel::WARNING,
        Level::INFO => LogLevel::NOTICE,
        Level::DEBUG | Level::TRACE => LogLevel::DEBUG,
    }
}

/// The name in front of a line. Parts of the daemon that are programs of their own in the original
/// have their names as targets, so that who looks for `ctdb-recoverd[` finds it (cluster.md 11).
fn program_of(target: &str) -> &'static str {
    let part = ctdb_core::LOG_TARGETS
        .into_iter()
        .find(|part| *part == target);
    part.unwrap_or(PROGRAM)
}

/// Turns an event into the text of one line, without header and newline.
struct LineFormat;

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        // Texts quote bytes of strangers; none may begin a line of its own in the log.
        for c in text.chars() {
            if c.is_control() {
                write!(out, "{}", c.escape_default())?;
            } else {
                out.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Hands whole lines to the sink.
struct LineWriter(Arc<Lines>);

struct LevelWriter<'a> {
    lines: &'a Lines,
    program: &'static str,
    level: LogLevel,
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = LevelWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LevelWriter {
            lines: &self.0,
            program: PROGRAM,
            level: LogLevel::ERROR,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        LevelWriter {
            lines: &self.0,
            program: program_of(meta.target()),
            level: level_of(*meta.level()),
        }
    }
}

impl Write for LevelWriter<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.lines.add(self.program, self.level, text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_between_two_names_show_what_the_more_severe_one_shows() {
        let number = |n| LogLevel::from_number(n).unwrap();
        assert_eq!(filter(number(0)), LevelFilter::ERROR);
        assert_eq!(filter(number(2)), LevelFilter::WARN);
        assert_eq!(filter(number(3)), LevelFilter::INFO);
        assert_eq!(filter(number(9)), LevelFilter::INFO);
        assert_eq!(filter(number(10)), LevelFilter::DEBUG);
    }

    #[test]
    fn a_line_has_fields_behind_its_message_and_no_line_breaks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let location = LogLocation::File(path.clone());
        let sink = Arc::new(Lines::new(Sink::open(&location, "node.7".into()).unwrap()));
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(LineFormat)
            .with_writer(LineWriter(sink));
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(pnn = 3, "recovery failed\nsent by {}", "peer");
        });
        let text = std::fs::read_to_string(path).unwrap();
        let (header, message) = text.split_once("]: ").unwrap();
        assert!(header.contains(" node.7 ctdbd["), "{header}");
        assert_eq!(message, "recovery failed\\nsent by peer pnn=3\n");
    }
}
