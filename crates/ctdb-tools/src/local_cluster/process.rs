//! Processes that are not our children: daemons detach, so only `/proc` knows how they are.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

use super::wait::wait_until;

pub use nix::sys::signal::Signal;

/// A process, known by its number and the time it started.
///
/// A number alone may name another process after the first has ended; a signal sent through this
/// type never reaches such a stranger (but for the instant between the look and the signal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    start_time: u64,
}

impl Process {
    /// The process that has this number now; `None` if there is none or only a zombie of it.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!stat.is_dead()).then_some(Self {
            pid,
            start_time: stat.start_time,
        })
    }

    /// The process named by a pid file, if it runs.
    pub fn from_pid_file(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        Self::find(text.trim().parse().ok()?)
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn is_alive(&self) -> bool {
        self.stat().is_some()
    }

    /// Sends a signal. A process that has ended in the meantime is no error: it needs none.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until the process has ended; says whether it has.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        wait_until(limit, || !self.is_alive())
    }

    /// Sends a signal to every process of the group that this process leads.
    pub fn signal_group(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.pid), signal);
    }

    /// Waits until no process of the group that this process leads is left.
    pub fn wait_group_gone(&self, limit: Duration) -> bool {
        wait_until(limit, || !group_lives(self.pid))
    }

    /// Processor time used so far by the process and by its children that have ended.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.stat()
            .map(|stat| Duration::from_millis(stat.cpu_ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Name of the program as the kernel keeps it: at most 15 characters.
    pub fn name(&self) -> Option<String> {
        self.stat().map(|stat| stat.name)
    }

    /// Resident memory in bytes without the mappings of files whose path ends in `but_for`.
    ///
    /// Daemons lock their memory, so the pages of mapped databases count as resident although they
    /// are shared with every client; `but_for` leaves them out.
    pub fn resident_memory(&self, but_for: impl Fn(&str) -> bool) -> Option<u64> {
        self.stat()?;
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", self.pid)).ok()?;
        Some(resident_bytes(&smaps, but_for))
    }

    fn stat(&self) -> Option<Stat> {
        let stat = Stat::read(self.pid)?;
        (stat.start_time == self.start_time && !stat.is_dead()).then_some(stat)
    }
}

/// The fields of `/proc/PID/stat` that matter here (proc(5)).
struct Stat {
    name: String,
    state: char,
    group: i32,
    cpu_ticks: u64,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name stands in parentheses and may itself contain some: the last one closes it.
        let (head, tail) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        // The field that proc(5) numbers 3 comes first.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
            group: fields.get(5 - 3)?.parse().ok()?,
            cpu_ticks: number(14)? + number(15)? + number(16)? + number(17)?,
            start_time: number(22)?,
        })
    }

    /// A zombie waits for its parent only; what it held is gone.
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Whether a process of this group is alive: one that signals could still reach.
fn group_lives(group: i32) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .any(|stat| stat.group == group && !stat.is_dead())
}

/// Sums the `Rss` lines of the mappings in `/proc/PID/smaps`.
fn resident_bytes(smaps: &str, but_for: impl Fn(&str) -> bool) -> u64 {
    let mut counted = true;
    let mut kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Rss:"), Some(size)) if counted => kib += size.parse().unwrap_or(0),
            (Some(key), _) if key.ends_with(':') => {}
            // Head of a mapping: range, rights, offset, device, inode, path.
            _ => counted = !line.split_ascii_whitespace().nth(5).is_some_and(&but_for),
        }
    }
    kib * 1024
}

/// Unit of the times in `/proc/PID/stat`: 100 on every Linux that runs this (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 10 20 3 4 20 0 1 0 777 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state), ("a) b", 'S'));
        assert_eq!((stat.cpu_ticks, stat.start_time), (37, 777));
    }

    #[test]
    fn a_cut_off_line_is_no_process() {
        assert!(Stat::parse("7 (a) S 1 7").is_none());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn a_child_is_alive_until_it_has_ended_and_no_zombie_counts() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::find(child.id().try_into().unwrap()).unwrap();
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL);
        // Not waited for yet: it stays as a zombie.
        assert!(process.wait_gone(Duration::from_secs(10)));
        child.wait().unwrap();
    }

    #[test]
    fn mappings_left_out_do_not_count_as_resident() {
        let smaps = "\
00400000-00452000 r-xp 00000000 08:02 173521 /usr/sbin/ctdbd
Size: 328 kB
Rss: 100 kB
7f00-7f10 rw-s 00000000 08:02 99 /x/locking.tdb.0
Rss: 5000 kB
7fff-8000 rw-p 00000000 00:00 0
Rss: 11 kB
";
        assert_eq!(
            resident_bytes(smaps, |path| path.contains(".tdb")),
            111 * 1024
        );
        assert_eq!(resident_bytes(smaps, |_| false), 5111 * 1024);
    }
}
