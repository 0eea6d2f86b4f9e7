//! The controls that this node answers (wire.md 5), one file for each family.
//!
//! A control comes from a peer, from this node itself, or from a local client by way of this
//! node. Most are answered at once; those that need the shell leave a [`Waiting`] behind and are
//! answered when its work is done.

pub(crate) mod attach;
mod client;
mod database;
mod membership;
mod recovery;
mod seqnum;
mod statistics;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ctdb_proto::control::{ControlDecodeError, Request};
use ctdb_proto::{Body, ClientId, ReplyControl, ReqControl, Wire};
use tracing::{error, warn};

use crate::effect::{DbAnswer, Ticket};
use crate::input::DbFailure;
use crate::node::Node;
use crate::recoverd::RecoverdInput;
use crate::waiting::{Caller, RoomFor, Waiting};

impl Node {
    /// Serves one control and sees to its answer.
    pub(crate) fn serve(&mut self, caller: Caller, control: &ReqControl, now: Instant) {
        match Request::from_control(control) {
            Ok(request) => self.serve_request(caller, control, request, now),
            Err(why) => {
                log_bad_request(&why);
                self.answer_status(caller, -1);
            }
        }
    }

    fn serve_request(
        &mut self,
        caller: Caller,
        control: &ReqControl,
        request: Request,
        now: Instant,
    ) {
        let Err(request) = self.serve_membership(caller, request, now) else {
            return;
        };
        let Err(request) = self.serve_database(caller, control, request, now) else {
            return;
        };
        let Err(request) = self.serve_recovery(caller, request, now) else {
            return;
        };
        let Err(request) = self.serve_client(caller, request) else {
            return;
        };
        let Err(_) = self.serve_statistics(caller, request, now) else {
            return;
        };
        warn!("Control {} is not served yet", control.opcode);
        let text = "control is not served yet";
        self.answer(caller, ReplyControl::error(-1, text));
    }

    /// The client of this node that sent the control, if it still exists. Numbers of clients of
    /// other nodes mean nothing here (wire.md 2.2).
    pub(crate) fn local_client(&self, caller: Caller) -> Option<ClientId> {
        let is_ours = caller.node == self.cluster.me && self.clients.exists(caller.client);
        is_ours.then_some(caller.client)
    }

    pub(crate) fn answer(&mut self, caller: Caller, reply: ReplyControl) {
        if caller.wants_reply {
            self.cluster
                .send(caller.node, caller.reqid, Body::ReplyControl(reply));
        }
    }

    pub(crate) fn answer_status(&mut self, caller: Caller, status: i32) {
        self.answer(caller, ReplyControl::status(status));
    }

    pub(crate) fn answer_data(&mut self, caller: Caller, data: &impl Wire) {
        self.answer(caller, ReplyControl::ok(encoded(data)));
    }

    pub(crate) fn answer_text(&mut self, caller: Caller, text: &str) {
        self.answer(caller, text_reply(text));
    }

    /// The shell has done, or could not do, something with a database.
    pub(crate) fn db_answered(
        &mut self,
        ticket: Ticket,
        answer: Result<DbAnswer, DbFailure>,
        now: Instant,
    ) {
        if self
            .migrator
            .db_answered(ticket, &answer, &mut self.cluster, now)
        {
            return;
        }
        if let Ok(DbAnswer::Batch(records)) = answer {
            return self.batch(ticket, &records, now);
        }
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return;
        };
        if let Err(failure) = &answer {
            error!("{failure}");
        }
        match waiting {
            Waiting::StartAttach => self.start_attach_done(answer, now),
            Waiting::Attach {
                callers,
                db,
                name,
                flags,
            } => {
                self.attach_done(&callers, db, &name, flags, answer, now);
            }
            Waiting::Freeze { db, since } => {
                let waited = now.saturating_duration_since(since);
                self.lock_wait_ended("lock_db", db, waited, answer.is_ok());
                self.freeze_done(ticket, db, answer.is_ok(), now);
            }
            Waiting::Status { caller } => self.answer_status(caller, status_of(&answer)),
            Waiting::TransactionStart {
                caller,
                db,
                transaction,
            } => {
                self.transaction_started(caller, db, transaction, &answer);
            }
            Waiting::TransactionCommit {
                caller,
                db,
                transaction,
            } => {
                self.transaction_committed(caller, db, transaction, &answer);
            }
            Waiting::Pull { caller, .. } => self.answer_count(caller, &answer),
            Waiting::Records { bytes, token } => {
                self.worked_on_records(bytes, token, answer.map(|_| ()), now);
            }
            Waiting::MergeRead { token } => {
                self.merge_answered(token, answer.map(|_| ReplyControl::status(0)), now);
            }
            Waiting::PushConfirm { caller, db } => self.push_confirmed(caller, db, &answer),
            Waiting::Seqnum { caller } => self.answer_seqnum(caller, &answer),
            Waiting::Update {
                caller,
                db,
                started,
            } => {
                self.update_done(caller, db, now.saturating_duration_since(started), &answer);
            }
            Waiting::Traverse {
                origin, traverse, ..
            } => self.traverse_end(origin, traverse),
            Waiting::EnableSeqnum { caller, db } => self.seqnum_enabled(caller, db, &answer, now),
            Waiting::FileSeqnum { db } => self.file_seqnum(db, &answer),
            Waiting::BumpSeqnum { db } => self.file_seqnum_bumped(db, &answer),
            Waiting::Background => {}
            other => error!(?other, "work on a database ended that was none"),
        }
    }

    /// Part of the answer to a pull or a traverse.
    fn batch(&mut self, ticket: Ticket, records: &Bytes, now: Instant) {
        match self.waiting.get(&ticket) {
            Some(Waiting::Pull { caller, db, srvid }) => {
                let (node, db, srvid) = (caller.node, *db, *srvid);
                self.cluster.send_message(node.into(), srvid, records);
                self.await_room(node, RoomFor::Pull { ticket, db }, now);
            }
            Some(Waiting::MergeRead { token }) => {
                let token = *token;
                let records = records.clone();
                self.tell_recoverd(RecoverdInput::Merged { token, records }, now);
            }
            Some(Waiting::Traverse {
                origin, traverse, ..
            }) => {
                let (origin, traverse) = (*origin, *traverse);
                self.traverse_records(ticket, origin, traverse, records, now);
            }
            _ => {}
        }
    }

    fn answer_count(&mut self, caller: Caller, answer: &Result<DbAnswer, DbFailure>) {
        match answer {
            Ok(DbAnswer::Count(count)) => self.answer_data(caller, count),
            _ => self.answer_status(caller, -1),
        }
    }
}

fn log_bad_request(why: &ControlDecodeError) {
    if let Some(cause) = std::error::Error::source(why) {
        error!("{why}: {cause}");
    } else {
        error!("{why}");
    }
}

fn status_of(answer: &Result<DbAnswer, DbFailure>) -> i32 {
    if answer.is_ok() { 0 } else { -1 }
}

/// Text with its NUL.
fn text_reply(text: &str) -> ReplyControl {
    let mut data = BytesMut::with_capacity(text.len() + 1);
    data.extend_from_slice(text.as_bytes());
    data.extend_from_slice(&[0]);
    ReplyControl::ok(data.freeze())
}

pub(crate) fn encoded(value: &impl Wire) -> Bytes {
    let mut bytes = BytesMut::new();
    value.encode(&mut bytes);
    bytes.freeze()
}
