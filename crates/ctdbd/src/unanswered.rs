//! The requests of one client that have no answer yet, and how many there may be.
//!
//! A client that has that many is not read from until some are answered. So nothing is lost and
//! nothing refused: what it sends more stays in its socket, and it notices that only when the
//! socket is full. Nobody else notices. The original takes whatever comes, until the memory ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ctdb_proto::{Body, ControlFlags, Packet, ReqId};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Requests of one client that may wait for their answers. Samba has one or two of them.
pub(crate) const REQUEST_LIMIT: usize = 10_000;

/// Bytes that those requests may have together, but for the last one.
pub(crate) const REQUEST_BYTES_LIMIT: usize = 64 * 1024 * 1024;

/// Between two looks whether a client that is not read from is still there.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Shared by the task that reads the requests and by the core task, which answers them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unanswered(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Requests>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Requests {
    /// How many have this id (one, if the client knows what it does), and their bytes.
    by_reqid: HashMap<ReqId, (usize, usize)>,
    count: usize,
    bytes: usize,
}

impl Requests {
    fn is_full(&self) -> bool {
        self.count >= REQUEST_LIMIT || self.bytes >= REQUEST_BYTES_LIMIT
    }

    fn add(&mut self, reqid: ReqId, bytes: usize) {
        let same = self.by_reqid.entry(reqid).or_default();
        *same = (same.0 + 1, same.1 + bytes);
        self.count += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, reqid: ReqId) {
        let Some(same) = self.by_reqid.get_mut(&reqid) else {
            return;
        };
        self.count -= 1;
        same.0 -= 1;
        if same.0 == 0 {
            self.bytes -= same.1;
            self.by_reqid.remove(&reqid);
        }
    }
}

impl Unanswered {
    /// Counts a packet of the client, if it is to be answered.
    pub(crate) fn asked(&self, packet: &Packet) {
        if let Some(bytes) = request_bytes(&packet.body) {
            self.lock().add(packet.header.reqid, bytes);
        }
    }

    /// Takes note of a packet for the client: it may be an answer.
    pub(crate) fn answered(&self, packet: &Packet) {
        if !is_answer(&packet.body) {
            return;
        }
        let mut requests = self.lock();
        let was_full = requests.is_full();
        requests.remove(packet.header.reqid);
        if was_full {
            self.0.answered.notify_one();
        }
    }

    /// Waits until there may be another request; not if the client is gone, which nothing else
    /// tells while its socket is not read from.
    pub(crate) async fn room(&self, is_gone: impl Fn() -> bool) {
        while self.is_full() && !is_gone() {
            let _ = timeout(LOOK_PAUSE, self.0.answered.notified()).await;
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        let requests = self.0.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request keeps in memory while it waits; `None` for what nobody answers.
fn request_bytes(body: &Body) -> Option<usize> {
    match body {
        Body::ReqCall(call) => Some(call.key.len() + call.data.len()),
        Body::ReqControl(control) if !control.flags.contains(ControlFlags::NOREPLY) => {
            Some(control.data.len())
        }
        _ => None,
    }
}

fn is_answer(body: &Body) -> bool {
    matches!(
        body,
        Body::ReplyCall(_) | Body::ReplyError(_) | Body::ReplyControl(_)
    )
}
