//! A frozen database: a thread holds the lock over all its records, and works on it for a
//! recovery (data-plane.md 6.5, 6.6).
//!
//! The thread has two handles. One holds the lock for real, so that everybody else waits. The
//! other is marked as holding it, and does the work: transactions do not nest inside of locks.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_core::{DbAnswer, DbFailure, DbOp, Ticket};
use ctdb_proto::{DB_SEQNUM_KEY, Pnn, RecordHeader};
use tdb::Db;
use tracing::{error, warn};

use super::batch::{self, Ascent, Selection};
use super::locks::REPORT_AFTER;
use super::work::Pace;
use super::{Database, DbFile};
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::Threads;

/// The core task's end of a freeze.
pub(crate) struct Freezer {
    ticket: Ticket,
    commands: mpsc::Sender<Command>,
    since: Instant,
    reported: Duration,
    held: bool,
}

enum Command {
    Work(Ticket, DbOp),
    Pull(Ticket, usize, Arc<Pace>),
    Thaw(Ticket),
}

impl Freezer {
    /// Starts to freeze. [`ShellEvent::Db`] tells when it has worked.
    pub(crate) fn start(
        ticket: Ticket,
        file: &Arc<DbFile>,
        me: Pnn,
        threads: &Threads,
        lanes: &Lanes,
    ) -> Self {
        let (commands, inbox) = mpsc::channel();
        let (file, lanes) = (Arc::clone(file), lanes.clone());
        threads.run(move || {
            until_thawed(ticket, &file, &inbox, &lanes, |held| {
                freeze(ticket, &file, me, &inbox, &lanes, held)
            });
        });
        Self {
            ticket,
            commands,
            since: Instant::now(),
            reported: Duration::ZERO,
            held: false,
        }
    }

    /// Has the thread do something. False if it has ended.
    pub(crate) fn work(&self, ticket: Ticket, op: DbOp) -> bool {
        self.commands.send(Command::Work(ticket, op)).is_ok()
    }

    /// Has the thread read all records into buffers of that size, as fast as `pace` allows. False if
    /// it has ended.
    pub(crate) fn pull(&self, ticket: Ticket, limit: usize, pace: Arc<Pace>) -> bool {
        self.commands
            .send(Command::Pull(ticket, limit, pace))
            .is_ok()
    }

    /// Gives the lock back as soon as the work handed in before is done. Returns the ticket of the
    /// freeze if it was still waiting for the lock.
    pub(crate) fn thaw(self, ticket: Ticket) -> Option<Ticket> {
        let _ = self.commands.send(Command::Thaw(ticket));
        (!self.held).then_some(self.ticket)
    }

    /// Whether it is the freeze with this ticket.
    pub(crate) fn is(&self, ticket: Ticket) -> bool {
        self.ticket == ticket
    }

    /// Notes that the lock is held, if the ticket is that of the freeze.
    pub(crate) fn note_answer(&mut self, ticket: Ticket) {
        self.held |= self.ticket == ticket;
    }

    /// Whether a failure with this ticket means that the lock will never be held.
    pub(crate) fn has_failed(&self, ticket: Ticket) -> bool {
        self.ticket == ticket && !self.held
    }

    /// Mentions a lock that takes long to get. Returns whether it did.
    pub(crate) fn report_long_wait(&mut self, db_name: &str, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let mentioned = !self.held && waited >= self.reported + REPORT_AFTER;
        if mentioned {
            self.reported = waited;
            let seconds = waited.as_secs();
            warn!("Unable to get DB lock on database {db_name} for {seconds} seconds");
        }
        mentioned
    }
}

/// Runs the `life` of a freeze and tells how it ended, also if it panics: nobody may wait for ever
/// for a database whose lock is gone. It sets its argument once the lock is held.
fn until_thawed(
    ticket: Ticket,
    file: &DbFile,
    inbox: &mpsc::Receiver<Command>,
    lanes: &Lanes,
    life: impl FnOnce(&Cell<bool>) -> Result<Option<Ticket>, DbFailure>,
) {
    let held = Cell::new(false);
    let end = catch_unwind(AssertUnwindSafe(|| life(&held)))
        .unwrap_or_else(|_| Err(file.failure(&"the thread that froze it has failed")));
    let db = file.id;
    let thawed = end.unwrap_or_else(|failure| {
        lanes.report(if held.get() {
            ShellEvent::FreezeLost { ticket, db }
        } else {
            let answer = Err(failure.clone());
            ShellEvent::Db { ticket, answer }
        });
        refuse_all(inbox, &failure, lanes)
    });
    if let Some(ticket) = thawed {
        lanes.report(ShellEvent::Thawed { ticket, db });
    }
}

/// The life of the thread. Returns the ticket of the thaw; `None` if the daemon is ending.
fn freeze(
    ticket: Ticket,
    file: &Arc<DbFile>,
    me: Pnn,
    inbox: &mpsc::Receiver<Command>,
    lanes: &Lanes,
    held: &Cell<bool>,
) -> Result<Option<Ticket>, DbFailure> {
    let failed = |error: tdb::Error| file.failure(&error);
    let holder = file.open()?;
    let db = file.open()?;
    let lock = holder.lockall().map_err(failed)?;
    db.lockall_mark().map_err(failed)?;
    held.set(true);
    lanes.report(ShellEvent::Db {
        ticket,
        answer: Ok(DbAnswer::Done),
    });
    let mut frozen = Frozen {
        file,
        db: &db,
        me,
        pushed: 0,
        ascent: Ascent::default(),
        lanes,
    };
    let thawed = loop {
        match inbox.recv() {
            Ok(Command::Work(ticket, op)) => {
                let answer = frozen.carry_out(op);
                lanes.report_data(ShellEvent::Db { ticket, answer });
            }
            Ok(Command::Pull(ticket, limit, pace)) => {
                let answer = frozen.pull(ticket, limit, &pace);
                lanes.report_data(ShellEvent::Db { ticket, answer });
            }
            Ok(Command::Thaw(ticket)) => break Some(ticket),
            Err(mpsc::RecvError) => break None,
        }
    };
    match frozen
        .cancel_transaction()
        .and_then(|()| db.lockall_unmark())
    {
        Ok(()) => file.close(db),
        // A handle in that state is of no use to anybody else.
        Err(error) => error!("{}", file.failure(&error)),
    }
    drop(lock);
    file.close(holder);
    Ok(thawed)
}

/// The database could not be frozen: nothing else works either.
fn refuse_all(
    inbox: &mpsc::Receiver<Command>,
    failure: &DbFailure,
    lanes: &Lanes,
) -> Option<Ticket> {
    loop {
        match inbox.recv() {
            Ok(Command::Work(ticket, _) | Command::Pull(ticket, ..)) => {
                lanes.report(ShellEvent::Db {
                    ticket,
                    answer: Err(failure.clone()),
                });
            }
            Ok(Command::Thaw(ticket)) => return Some(ticket),
            Err(mpsc::RecvError) => return None,
        }
    }
}

/// The database as its thread sees it.
struct Frozen<'a> {
    file: &'a DbFile,
    db: &'a Db,
    me: Pnn,
    /// Records stored since the last [`DbOp::PushConfirm`].
    pushed: u32,
    /// What is known of the order in which they come.
    ascent: Ascent,
    lanes: &'a Lanes,
}

impl Frozen<'_> {
    fn carry_out(&mut self, op: DbOp) -> Result<DbAnswer, DbFailure> {
        let file = self.file;
        let failed = |error: tdb::Error| file.failure(&error);
        if !matches!(op, DbOp::Push { .. }) {
            self.ascent = Ascent::default();
        }
        match op {
            DbOp::TransactionStart => {
                self.cancel_transaction().map_err(failed)?;
                self.db.transaction_start().map_err(failed)?;
            }
            DbOp::TransactionCancel => self.cancel_transaction().map_err(failed)?,
            DbOp::TransactionCommit => self.db.transaction_commit().map_err(failed)?,
            DbOp::Wipe => {
                self.db.wipe_to_rewrite().map_err(failed)?;
                self.ascent = Ascent::of_empty();
            }
            DbOp::Push { records, vnn_map } => {
                let (db, me) = (self.db, self.me);
                let pushed =
                    batch::push_records(db, me, &records, vnn_map.as_ref(), &mut self.ascent);
                self.pushed += pushed.map_err(|error| self.file.failure(&error))?;
            }
            DbOp::PushConfirm => return Ok(DbAnswer::Count(std::mem::take(&mut self.pushed))),
            DbOp::Seqnum => return seqnum(self.db).map(DbAnswer::Number).map_err(failed),
            other => return Err(self.file.failure(&format!("frozen, cannot do {other:?}"))),
        }
        Ok(DbAnswer::Done)
    }

    fn cancel_transaction(&self) -> tdb::Result<()> {
        if self.db.in_transaction() {
            self.db.transaction_cancel()
        } else {
            Ok(())
        }
    }

    fn pull(&self, ticket: Ticket, limit: usize, pace: &Pace) -> Result<DbAnswer, DbFailure> {
        let mut stopped = false;
        let emit = |buffer: Bytes| {
            let answer = Ok(DbAnswer::Batch(buffer));
            let goes_on =
                pace.take_one() && self.lanes.report_data(ShellEvent::Db { ticket, answer });
            stopped |= !goes_on;
            goes_on
        };
        let read = batch::read_records(self.db, self.file.id, Selection::ALL, limit, emit);
        if stopped {
            return Err(self.file.failure(&"nobody wants the records any more"));
        }
        read.map(DbAnswer::Count)
            .map_err(|error| self.file.failure(&error))
    }
}

/// The sequence number of a persistent or replicated database (data-plane.md 1.7).
pub(crate) fn seqnum(db: &Db) -> tdb::Result<u64> {
    let value = db.fetch(DB_SEQNUM_KEY)?.unwrap_or_default();
    let number = RecordHeader::split(&value)
        .ok()
        .and_then(|(_, data)| data.try_into().ok());
    Ok(number.map_or(0, |bytes: [u8; 8]| u64::from_le_bytes(bytes)))
}

impl Database {
    /// Whether work on this database goes through the thread that has it frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        self.freezer.as_ref().is_some_and(|freezer| freezer.held)
    }
}

#[cfg(test)]
mod tests;
