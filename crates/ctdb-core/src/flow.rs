//! How fast the records of a recovery flow: nobody sends more than the other side has room for.
//!
//! The wire protocol knows no window (`cluster.md` 14, row 7). What a node can see is how much it
//! has queued for a peer, and what waits within itself: it goes on when that is little. A peer whose
//! disk is slow stops reading its connection, so it is felt here.
//!
//! | records | next batch when |
//! |---|---|
//! | pulled from this node | little is queued for the leader |
//! | pushed by this leader | little is queued for every node, and this one has stored what it got |

use std::time::Instant;

use ctdb_proto::{DbId, Pnn, ReplyControl};

use crate::effect::{DbOp, Effect, Ticket};
use crate::input::DbFailure;
use crate::node::Node;
use crate::recoverd::{RecoverdInput, Token};
use crate::waiting::{Caller, RoomFor, Waiting};

/// Bytes of records that may be on their way to one node when the next batch is read.
const ROOM: usize = 2 * 1024 * 1024;

/// Records on their way from this node to itself.
#[derive(Debug, Default)]
pub(crate) struct RecordsOnWay {
    bytes: usize,
    /// Who goes on when they are few.
    waiting: Vec<RoomFor>,
}

impl Node {
    /// Lets `what` go on when there is room for more records on the way to `to`.
    pub(crate) fn await_room(&mut self, to: Pnn, what: RoomFor, now: Instant) {
        if to != self.cluster.me {
            let ticket = self.cluster.ticket();
            self.waiting.insert(ticket, Waiting::PeerRoom(what));
            self.cluster.effect(Effect::AwaitPeerRoom {
                pnn: to,
                limit: ROOM,
                ticket,
            });
        } else if self.records_on_way.bytes < ROOM {
            self.go_on(what, now);
        } else {
            self.records_on_way.waiting.push(what);
        }
    }

    /// Little is queued for a peer, or it is gone.
    pub(crate) fn peer_has_room(&mut self, ticket: Ticket, now: Instant) {
        if let Some(Waiting::PeerRoom(what)) = self.waiting.remove(&ticket) {
            self.go_on(what, now);
        }
    }

    /// Has the shell work on records that came to this node.
    pub(crate) fn work_on_records(&mut self, db: DbId, op: DbOp, token: Option<Token>) {
        let bytes = match &op {
            DbOp::Push { records, .. } | DbOp::MergeAdd { records, .. } => records.len(),
            _ => 0,
        };
        self.records_on_way.bytes += bytes;
        let ticket = self.cluster.ticket();
        self.waiting
            .insert(ticket, Waiting::Records { bytes, token });
        self.cluster.effect(Effect::Db { ticket, db, op });
    }

    /// The shell has done so.
    pub(crate) fn worked_on_records(
        &mut self,
        bytes: usize,
        token: Option<Token>,
        done: Result<(), DbFailure>,
        now: Instant,
    ) {
        let way = &mut self.records_on_way;
        way.bytes = way.bytes.saturating_sub(bytes);
        if way.bytes < ROOM {
            for what in std::mem::take(&mut way.waiting) {
                self.go_on(what, now);
            }
        }
        if let Some(token) = token {
            self.merge_answered(token, done.map(|()| ReplyControl::status(0)), now);
        }
    }

    fn go_on(&mut self, what: RoomFor, now: Instant) {
        match what {
            RoomFor::Pull { ticket, db } => {
                if self.waiting.contains_key(&ticket) {
                    self.pace(db, DbOp::ContinueTraverse { ticket });
                }
            }
            RoomFor::Recovery(token) => {
                let result = Ok(ReplyControl::status(0));
                self.tell_recoverd(RecoverdInput::Reply { token, result }, now);
            }
        }
    }

    /// Lets the merge whose reading has this token go on.
    pub(crate) fn continue_merge(&mut self, token: Token, db: DbId) {
        let is_it =
            |waiting: &Waiting| matches!(waiting, Waiting::MergeRead { token: t } if *t == token);
        let found = self.waiting.iter().find(|(_, waiting)| is_it(waiting));
        if let Some((&ticket, _)) = found {
            self.pace(db, DbOp::ContinueTraverse { ticket });
        }
    }

    /// Ends pulls that nobody wants any more: their node is gone, or has gone on.
    pub(crate) fn stop_pulls(&mut self, unwanted: impl Fn(&Caller, DbId) -> bool) {
        let pulls = self
            .waiting
            .iter()
            .filter_map(|(ticket, waiting)| match waiting {
                Waiting::Pull { caller, db, .. } if unwanted(caller, *db) => Some((*ticket, *db)),
                _ => None,
            });
        let mut pulls: Vec<_> = pulls.collect();
        pulls.sort_unstable_by_key(|(ticket, _)| ticket.0);
        for (ticket, db) in pulls {
            self.pace(db, DbOp::StopTraverse { ticket });
        }
    }

    fn pace(&mut self, db: DbId, op: DbOp) {
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::Background);
        self.cluster.effect(Effect::Db { ticket, db, op });
    }
}
