//! Signals, the end of standard input, and the slow clock.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

use crate::database::locks::REPORT_AFTER;
use crate::event::{ShellEvent, Signal};
use crate::lanes::Lanes;

/// Reports signals from now on, for as long as the daemon runs.
pub(crate) fn watch(lanes: Lanes) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Taken and ignored, as in the original. (SIGPIPE is ignored by every Rust program.)
    let mut ignored = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::Terminate,
                _ = interrupt.recv() => Signal::Terminate,
                _ = hangup.recv() => Signal::ReopenLog,
                _ = ignored.recv() => continue,
            };
            lanes.report(ShellEvent::Signal(signal));
        }
    });
    Ok(())
}

/// Reports a tick now and then.
pub(crate) fn tick(lanes: Lanes) {
    tokio::spawn(async move {
        let mut ticks = interval(REPORT_AFTER);
        loop {
            ticks.tick().await;
            lanes.report(ShellEvent::Tick);
        }
    });
}

/// Reports the end of standard input, if that is a pipe: in test mode the end of the one who
/// started the daemon ends the daemon.
pub(crate) fn watch_stdin(lanes: Lanes) -> io::Result<()> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let stdin = File::from(stdin);
    if !stdin.metadata()?.file_type().is_fifo() {
        return Ok(());
    }
    let mut stdin = pipe::Receiver::from_file(stdin)?;
    tokio::spawn(async move {
        let mut ignored = [0; 256];
        while !matches!(stdin.read(&mut ignored).await, Ok(0) | Err(_)) {}
        lanes.report(ShellEvent::Signal(Signal::StdinClosed));
    });
    Ok(())
}
