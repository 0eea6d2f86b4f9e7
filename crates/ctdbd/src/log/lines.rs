//! Lines on their way into the log.
//!
//! A disk or a `syslogd` that is stuck holds up who writes to it. That must not be the core task:
//! the other nodes would take this one for dead. So a thread writes, and the others only queue.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ctdb_conf::LogLevel;
use tracing::{info, warn};

use super::sink::{Line, PROGRAM, Sink};

/// Bytes of lines that may wait. More are dropped, and counted.
const QUEUE_LIMIT: usize = 4 * 1024 * 1024;

/// A log to which any thread may add lines.
pub(super) struct Lines {
    sink: Mutex<Sink>,
    queue: Mutex<Queue>,
    came: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Of all lines that are not written yet, those included that the thread has taken.
    bytes: usize,
    dropped: u64,
    /// There is a thread that writes; before that everybody writes himself.
    has_writer: bool,
    /// The thread is at work on what it has taken from here.
    is_writing: bool,
}

enum Item {
    Line(Line),
    /// Open the file again: what comes behind goes into the new one.
    Reopen,
}

impl Lines {
    pub(super) fn new(sink: Sink) -> Self {
        Self {
            sink: Mutex::new(sink),
            queue: Mutex::default(),
            came: Condvar::new(),
            written: Condvar::new(),
        }
    }

    /// Adds a line. Waits for the log only before [`Self::write_in_thread`].
    pub(super) fn add(&self, program: &'static str, level: LogLevel, text: &[u8]) {
        let line = Line {
            program,
            level,
            at: since_1970(),
            text: text.to_vec(),
        };
        let mut queue = lock(&self.queue);
        if !queue.has_writer {
            drop(queue);
            return lock(&self.sink).write_line(&line);
        }
        if queue.bytes + text.len() > QUEUE_LIMIT {
            queue.dropped += 1;
            return;
        }
        queue.bytes += text.len();
        queue.items.push_back(Item::Line(line));
        self.came.notify_one();
    }

    /// Has the file opened anew, after a rotation has moved it.
    pub(super) fn reopen(&self) {
        lock(&self.queue).items.push_back(Item::Reopen);
        self.came.notify_one();
    }

    /// From now on a thread writes. A process with threads cannot fork any more.
    pub(super) fn write_in_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let lines = Arc::clone(self);
        let thread = std::thread::Builder::new().name("ctdbd-log".into());
        let mut queue = lock(&self.queue);
        thread.spawn(move || lines.write_for_ever())?;
        queue.has_writer = true;
        Ok(())
    }

    /// Waits until everything is written, but no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut queue = lock(&self.queue);
        while queue.is_writing || !queue.items.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.written.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_for_ever(&self) {
        let mut queue = lock(&self.queue);
        loop {
            while queue.items.is_empty() {
                let waited = self.came.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
            }
            let items = mem::take(&mut queue.items);
            let dropped = mem::take(&mut queue.dropped);
            let bytes = queue.bytes;
            queue.is_writing = true;
            drop(queue);
            self.write(items, dropped);
            queue = lock(&self.queue);
            queue.is_writing = false;
            queue.bytes -= bytes;
            self.written.notify_all();
        }
    }

    fn write(&self, items: VecDeque<Item>, dropped: u64) {
        for item in items {
            match item {
                Item::Line(line) => lock(&self.sink).write_line(&line),
                Item::Reopen => {
                    let opened = lock(&self.sink).reopen();
                    match opened {
                        Ok(()) => info!("Reopened logs"),
                        Err(error) => warn!("Failed to reopen logs: {error}"),
                    }
                }
            }
        }
        if dropped > 0 {
            lock(&self.sink).write_line(&Line {
                program: PROGRAM,
                level: LogLevel::WARNING,
                at: since_1970(),
                text: format!("[Dropped {dropped} log messages]").into_bytes(),
            });
        }
    }
}

/// A clock before 1970 is as wrong as one that shows 1970.
fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A panic while a line was written leaves nothing behind that the next line could trip over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use ctdb_conf::LogLocation;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn lines_in(path: &Path) -> Arc<Lines> {
        let location = LogLocation::File(path.to_owned());
        Arc::new(Lines::new(Sink::open(&location, "h".into()).unwrap()))
    }

    /// What follows the header of each line.
    fn texts(log: &str) -> Vec<&str> {
        let text = |line: &'_ str| line.find("]: ").map(|at| at + 3);
        log.lines()
            .map(|line| &line[text(line).unwrap()..])
            .collect()
    }

    #[test]
    fn a_log_that_takes_nothing_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stuck");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Whoever opens one end of it waits for the other.
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || std::fs::File::open(path).unwrap())
        };
        let lines = lines_in(&path);
        let mut reader = reader.join().unwrap();
        lines.write_in_thread().unwrap();
        let long = [b'x'; 1000];
        let count = QUEUE_LIMIT / long.len() + 1000;
        for _ in 0..count {
            lines.add(PROGRAM, LogLevel::ERROR, &long);
        }
        lines.flush(Duration::from_millis(50));
        // Read again, it has what there was room for, and tells how much there was not.
        let reading = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            all
        });
        lines.flush(LONG);
        lines.add(PROGRAM, LogLevel::ERROR, b"last");
        lines.flush(LONG);
        // The end of the pipe: the file is opened elsewhere.
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        lines.reopen();
        lines.flush(LONG);
        let all = reading.join().unwrap();
        let (texts, mut written) = (texts(&all), 0);
        let mut dropped = 0;
        for text in &texts {
            match text.strip_prefix("[Dropped ") {
                Some(rest) => dropped += rest.split(' ').next().unwrap().parse::<usize>().unwrap(),
                None => written += 1,
            }
        }
        assert_eq!(texts.last(), Some(&"last"));
        assert!(dropped > 0);
        assert_eq!(written + dropped, count + 1);
    }

    #[test]
    fn after_rotation_lines_go_to_the_new_file_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let lines = lines_in(&path);
        lines.add(PROGRAM, LogLevel::ERROR, b"before there is a thread");
        lines.write_in_thread().unwrap();
        lines.add(PROGRAM, LogLevel::ERROR, b"old");
        lines.flush(LONG);
        std::fs::rename(&path, &moved).unwrap();
        lines.reopen();
        lines.add(PROGRAM, LogLevel::ERROR, b"new");
        lines.flush(LONG);
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(texts(&read(moved)), ["before there is a thread", "old"]);
        assert_eq!(texts(&read(path)), ["new"]);
    }
}
