//! The table of requests that have no reply yet.

use std::collections::HashMap;
use std::sync::Mutex;

use ctdb_proto::{Body, ReqId};
use tokio::sync::oneshot;

use crate::error::Closed;

/// Requests by their id. `None` inside after the connection has ended.
#[derive(Debug)]
pub(crate) struct Pending(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    last: u32,
    waiting: HashMap<ReqId, oneshot::Sender<Body>>,
}

/// A request in the table; leaves it when dropped, so that a late reply is ignored.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pending: &'a Pending,
    pub(crate) reqid: ReqId,
    reply: oneshot::Receiver<Body>,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(State {
            last: 0,
            waiting: HashMap::new(),
        })))
    }

    /// Gives a request its id and a place in the table.
    pub(crate) fn enter(&self) -> Result<Waiting<'_>, Closed> {
        let mut state = self.lock();
        let state = state.as_mut().ok_or(Closed)?;
        let reqid = state.free_id();
        let (sender, reply) = oneshot::channel();
        state.waiting.insert(reqid, sender);
        Ok(Waiting {
            pending: self,
            reqid,
            reply,
        })
    }

    /// An id for a packet that gets no reply.
    pub(crate) fn unanswered_id(&self) -> Result<ReqId, Closed> {
        self.lock().as_mut().map(State::free_id).ok_or(Closed)
    }

    /// Hands a reply to whoever waits for it. False when nobody does.
    pub(crate) fn complete(&self, reqid: ReqId, body: Body) -> bool {
        let sender = self
            .lock()
            .as_mut()
            .and_then(|state| state.waiting.remove(&reqid));
        sender.is_some_and(|sender| sender.send(body).is_ok())
    }

    /// Ends all requests, and every later one, with [`Closed`].
    pub(crate) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<State>> {
        self.0
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl State {
    /// The next id that no request uses: 1, 2, ... as Samba counts; 0 stays free.
    fn free_id(&mut self) -> ReqId {
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            let reqid = ReqId::new(self.last);
            if !self.waiting.contains_key(&reqid) {
                return reqid;
            }
        }
    }
}

impl Waiting<'_> {
    /// The reply, or the end of the connection.
    pub(crate) async fn reply(mut self) -> Result<Body, Closed> {
        (&mut self.reply).await.map_err(|_| Closed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.pending.lock().as_mut() {
            state.waiting.remove(&self.reqid);
        }
    }
}

#[cfg(test)]
mod tests {
    use ctdb_proto::ReplyControl;

    use super::*;

    fn body(status: i32) -> Body {
        Body::ReplyControl(ReplyControl::status(status))
    }

    #[tokio::test]
    async fn a_reply_reaches_its_request_only() {
        let pending = Pending::new();
        let (first, second) = (pending.enter().unwrap(), pending.enter().unwrap());
        assert!(pending.complete(second.reqid, body(2)));
        assert!(pending.complete(first.reqid, body(1)));
        assert_eq!(first.reply().await, Ok(body(1)));
        assert_eq!(second.reply().await, Ok(body(2)));
    }

    #[tokio::test]
    async fn a_given_up_request_leaves_nothing_behind() {
        let pending = Pending::new();
        let reqid = pending.enter().unwrap().reqid;
        assert!(!pending.complete(reqid, body(0)));
    }

    #[tokio::test]
    async fn the_end_of_the_connection_ends_all_requests() {
        let pending = Pending::new();
        let waiting = pending.enter().unwrap();
        pending.close();
        assert_eq!(waiting.reply().await, Err(Closed));
        assert!(pending.enter().is_err());
    }

    #[test]
    fn ids_skip_zero_and_those_in_use() {
        let pending = Pending::new();
        let held = pending.enter().unwrap();
        pending.lock().as_mut().unwrap().last = u32::MAX;
        assert_eq!(
            (held.reqid, pending.enter().unwrap().reqid),
            (ReqId::new(1), ReqId::new(2))
        );
    }
}
