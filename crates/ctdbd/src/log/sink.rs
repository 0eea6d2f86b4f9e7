//! Where lines of the log end up: a file, standard error or one of the syslog ways.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctdb_conf::{LogLevel, LogLocation};
use ctdb_sys::LocalTime;

/// Name of this program in headers.
pub(super) const PROGRAM: &str = "ctdbd";

/// Longest datagram to syslog; what is longer is cut.
const SYSLOG_LIMIT: usize = 1023;

/// A line of the log.
pub(super) struct Line {
    /// The name in the header: of this program, or of the part of it that is a program of its own in
    /// the original (`ctdb-recoverd`).
    pub(super) program: &'static str,
    pub(super) level: LogLevel,
    /// When it was said, since 1970.
    pub(super) at: Duration,
    pub(super) text: Vec<u8>,
}

/// An open log.
pub(super) struct Sink {
    host: String,
    target: Target,
}

enum Target {
    /// Every line in one write to a file opened for appending, so that lines of several processes
    /// do not mix. `line` is kept for its memory.
    File {
        path: PathBuf,
        file: File,
        line: Vec<u8>,
    },
    /// The message alone, for a person at a terminal.
    Stderr,
    Syslog {
        socket: SyslogSocket,
        format: SyslogFormat,
        dropped: u32,
    },
}

enum SyslogSocket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

#[derive(Clone, Copy)]
enum SyslogFormat {
    /// `<PRI>PROG[PID]: TEXT`
    Rfc3164,
    /// `<PRI>1 TIME HOST PROG PID - - TEXT`
    Rfc5424,
}

impl Sink {
    pub(super) fn open(location: &LogLocation, host: String) -> io::Result<Self> {
        let target = match location {
            LogLocation::File(path) => {
                let file = open_log_file(path)?;
                Target::File {
                    path: path.clone(),
                    file,
                    line: Vec::new(),
                }
            }
            LogLocation::Stderr => Target::Stderr,
            LogLocation::Syslog => syslog(dev_log(false)?, SyslogFormat::Rfc3164),
            LogLocation::SyslogNonblocking => syslog(dev_log(true)?, SyslogFormat::Rfc3164),
            LogLocation::SyslogUdp => syslog(local_udp()?, SyslogFormat::Rfc3164),
            LogLocation::SyslogUdpRfc5424 => syslog(local_udp()?, SyslogFormat::Rfc5424),
        };
        Ok(Self { host, target })
    }

    /// Writes one line. A log that cannot be written has nobody to complain to: the line is lost.
    pub(super) fn write_line(&mut self, said: &Line) {
        let Line {
            program, at, text, ..
        } = said;
        let pid = std::process::id();
        match &mut self.target {
            Target::Stderr => {
                let _ = io::stderr().write_all(&[text.as_slice(), b"\n"].concat());
            }
            Target::File { file, line, .. } => {
                line.clear();
                let _ = write!(line, "{} {} {program}[{pid}]: ", Stamp(*at), self.host);
                line.extend_from_slice(text);
                line.push(b'\n');
                let _ = file.write_all(line);
            }
            Target::Syslog {
                socket,
                format,
                dropped,
            } => {
                if *dropped > 0 {
                    let note = Line {
                        text: format!("[Dropped {dropped} log messages]").into_bytes(),
                        ..*said
                    };
                    if !socket.send(&format.datagram(&note, &self.host)) {
                        *dropped = dropped.saturating_add(1);
                        return;
                    }
                    *dropped = 0;
                }
                if !socket.send(&format.datagram(said, &self.host)) {
                    *dropped = dropped.saturating_add(1);
                }
            }
        }
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { path, file, .. } = &mut self.target {
            *file = open_log_file(path)?;
        }
        Ok(())
    }
}

fn open_log_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
}

fn syslog(socket: SyslogSocket, format: SyslogFormat) -> Target {
    Target::Syslog {
        socket,
        format,
        dropped: 0,
    }
}

fn dev_log(nonblocking: bool) -> io::Result<SyslogSocket> {
    let socket = UnixDatagram::unbound()?;
    socket.connect("/dev/log")?;
    socket.set_nonblocking(nonblocking)?;
    Ok(SyslogSocket::Unix(socket))
}

fn local_udp() -> io::Result<SyslogSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect("127.0.0.1:514")?;
    Ok(SyslogSocket::Udp(socket))
}

impl SyslogSocket {
    /// Whether the line was taken, or lost for a reason that trying again would not mend.
    fn send(&self, datagram: &[u8]) -> bool {
        let sent = match self {
            Self::Unix(socket) => socket.send(datagram),
            Self::Udp(socket) => socket.send(datagram),
        };
        !matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl SyslogFormat {
    fn datagram(self, line: &Line, host: &str) -> Vec<u8> {
        const FACILITY_DAEMON: u8 = 24;
        let priority = FACILITY_DAEMON + severity(line.level);
        let program = line.program;
        let pid = std::process::id();
        let mut out = match self {
            Self::Rfc3164 => format!("<{priority}>{program}[{pid}]: ").into_bytes(),
            Self::Rfc5424 => {
                let time = Stamp(line.at);
                format!("<{priority}>1 {time} {host} {program} {pid} - - ").into_bytes()
            }
        };
        out.extend_from_slice(&line.text);
        out.truncate(SYSLOG_LIMIT);
        out
    }
}

/// Severity of syslog for a level (config.md 5.2).
fn severity(level: LogLevel) -> u8 {
    match level.number() {
        0 => 3,
        1 => 4,
        2..=5 => 5,
        6..=9 => 6,
        _ => 7,
    }
}

/// Time since 1970, shown as `2026-11-20T16:45:20.705143+00:00` in local time.
struct Stamp(Duration);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.as_secs()).unwrap_or(i64::MAX);
        let Some(time) = LocalTime::from_unix(seconds) else {
            return write!(f, "@{seconds}");
        };
        let LocalTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = time;
        let (sign, offset_hours, offset_minutes) = time.offset();
        let microseconds = self.0.subsec_micros();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microseconds:06}\
             {sign}{offset_hours:02}:{offset_minutes:02}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: LogLevel, text: &[u8]) -> Line {
        Line {
            program: PROGRAM,
            level,
            at: Duration::from_secs(1_795_193_120),
            text: text.to_vec(),
        }
    }

    #[test]
    fn a_line_in_a_file_has_time_host_and_program_in_front() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut sink = Sink::open(&LogLocation::File(path.clone()), "h".into()).unwrap();
        sink.write_line(&line(LogLevel::NOTICE, b"PNN is 3"));
        let text = std::fs::read_to_string(path).unwrap();
        let words: Vec<_> = text.splitn(4, ' ').collect();
        assert_eq!(words[0].len(), "2026-11-20T16:45:20.705143+00:00".len());
        assert_eq!(
            words[1..3],
            ["h", &format!("ctdbd[{}]:", std::process::id())]
        );
        assert_eq!(words[3], "PNN is 3\n");
    }

    #[test]
    fn after_rotation_lines_go_to_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = Sink::open(&LogLocation::File(path.clone()), "h".into()).unwrap();
        sink.write_line(&line(LogLevel::ERROR, b"old"));
        std::fs::rename(&path, &moved).unwrap();
        sink.reopen().unwrap();
        sink.write_line(&line(LogLevel::ERROR, b"new"));
        assert!(std::fs::read_to_string(moved).unwrap().ends_with("old\n"));
        assert!(std::fs::read_to_string(path).unwrap().ends_with("new\n"));
    }

    #[test]
    fn syslog_datagrams_are_cut_and_carry_their_severity() {
        let datagram = SyslogFormat::Rfc3164.datagram(&line(LogLevel::WARNING, &[b'x'; 5000]), "h");
        assert_eq!(datagram.len(), SYSLOG_LIMIT);
        let start = format!("<28>ctdbd[{}]: xxx", std::process::id());
        assert!(datagram.starts_with(start.as_bytes()));
        let modern = SyslogFormat::Rfc5424.datagram(&line(LogLevel::ERROR, b"text"), "h");
        let modern = String::from_utf8(modern).unwrap();
        assert!(modern.starts_with("<27>1 20"), "{modern}");
        assert!(modern.ends_with(" - - text"), "{modern}");
    }
}
