//! Merging the copies of a database that a recovery has pulled from the nodes.
//!
//! A thread collects them ([`Copies`]), and when all have come it hands out of each record the copy
//! that wins, in the order of the hash chains. Whoever stores that finds the records of a chain side
//! by side, and those it has to pass are in the processor's cache.

mod copies;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use copies::Copies;
use ctdb_core::{DbAnswer, Ticket};
use ctdb_proto::{DbFlags, Pnn};
use tdb::Db;

use super::DbFile;
use super::work::Pace;
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::Threads;

/// The core task's end of a merge. Dropping it ends the merge.
pub(crate) struct Merger {
    commands: mpsc::Sender<Command>,
    /// Of the reading, once it has begun.
    pace: Option<Arc<Pace>>,
}

enum Command {
    Add(Ticket, Pnn, Bytes),
    Read(Ticket, Arc<Pace>),
}

/// What the leader wants of a merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeRules {
    pub(crate) leader: Pnn,
    pub(crate) flags: DbFlags,
    /// Size at which a batch of merged records is closed.
    pub(crate) batch_limit: usize,
}

impl Merger {
    /// Starts the thread; the ticket is answered when it is ready. The file, if one is needed, is
    /// made in `dir`.
    pub(crate) fn start(
        ticket: Ticket,
        file: &Arc<DbFile>,
        dir: PathBuf,
        rules: MergeRules,
        threads: &Threads,
        lanes: &Lanes,
    ) -> Self {
        let (commands, inbox) = mpsc::channel();
        let (file, lanes) = (Arc::clone(file), lanes.clone());
        threads.run(move || {
            let opened = file.open();
            let ready = opened.as_ref().map(|_| DbAnswer::Done);
            let answer = ready.map_err(Clone::clone);
            lanes.report(ShellEvent::Db { ticket, answer });
            if let Ok(db) = opened {
                serve(&inbox, &file, &db, dir, rules, &lanes);
                file.close(db);
            }
        });
        let pace = None;
        Self { commands, pace }
    }

    /// Takes records. False if the thread has ended.
    pub(crate) fn add(&self, ticket: Ticket, from: Pnn, records: Bytes) -> bool {
        let command = Command::Add(ticket, from, records);
        self.commands.send(command).is_ok()
    }

    /// Reads what was merged, as fast as `pace` allows. False if the thread has ended.
    pub(crate) fn read(&mut self, ticket: Ticket, pace: Arc<Pace>) -> bool {
        self.pace = Some(Arc::clone(&pace));
        self.commands.send(Command::Read(ticket, pace)).is_ok()
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace {
            pace.stop();
        }
    }
}

/// The life of the thread.
fn serve(
    inbox: &mpsc::Receiver<Command>,
    file: &DbFile,
    db: &Db,
    dir: PathBuf,
    rules: MergeRules,
    lanes: &Lanes,
) {
    let mut copies = Copies::new(dir, rules.leader);
    while let Ok(command) = inbox.recv() {
        let (ticket, answer) = match command {
            Command::Add(ticket, from, records) => {
                let added = copies.add(db, from, &records);
                (ticket, added.map(|()| DbAnswer::Done))
            }
            Command::Read(ticket, pace) => {
                let emit = |buffer: Bytes| {
                    let answer = Ok(DbAnswer::Batch(buffer));
                    pace.take_one() && lanes.report_data(ShellEvent::Db { ticket, answer })
                };
                let read = copies.read(file.id, rules, emit);
                (ticket, read.map(DbAnswer::Count))
            }
        };
        let answer = answer.map_err(|problem| file.failure(&problem));
        lanes.report_data(ShellEvent::Db { ticket, answer });
    }
}
