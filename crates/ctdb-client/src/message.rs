//! Messages: packets for a service id (srvid) that somebody registered (`wire.md 6`).

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use ctdb_proto::{Header, Pnn, ReqMessage, Srvid};
use tokio::sync::{mpsc, watch};

use crate::error::Closed;

/// Messages of one [`Subscription`] that may wait to be read. When as many wait, the client stops
/// reading from its socket until one is taken: nothing is lost, but replies wait too. Whoever
/// subscribes therefore keeps receiving.
pub const MESSAGE_QUEUE: usize = 1024;

/// A message as it arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Node it came from; `None` if the sender did not know its own number.
    pub src: Option<Pnn>,
    pub srvid: Srvid,
    pub data: Bytes,
}

/// All messages for one srvid, in order. See [`Client::subscribe`](crate::Client::subscribe).
#[derive(Debug)]
pub struct Subscription {
    srvid: Srvid,
    queue: mpsc::Receiver<Message>,
}

impl Subscription {
    /// The id that was registered.
    pub fn srvid(&self) -> Srvid {
        self.srvid
    }

    /// Waits for the next message. [`Closed`] after the connection has ended.
    pub async fn receive(&mut self) -> Result<Message, Closed> {
        self.queue.recv().await.ok_or(Closed)
    }
}

/// Only the newest message for one srvid. See [`Client::watch`](crate::Client::watch).
#[derive(Clone, Debug)]
pub struct Latest(watch::Receiver<Option<Message>>);

impl Latest {
    /// The newest message, if one has arrived.
    pub fn get(&self) -> Option<Message> {
        self.0.borrow().clone()
    }

    /// Waits until a message has arrived; returns at once if one has. Give it a time limit from
    /// outside.
    pub async fn first(&mut self) -> Result<Message, Closed> {
        let found = self.0.wait_for(Option::is_some).await.map_err(|_| Closed)?;
        found.clone().ok_or(Closed)
    }
}

/// Who gets the messages of which srvid.
#[derive(Debug)]
pub(crate) struct Routes(Mutex<Option<HashMap<Srvid, Route>>>);

#[derive(Clone, Debug)]
enum Route {
    Queue(mpsc::Sender<Message>),
    Latest(watch::Sender<Option<Message>>),
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    /// Opens a queue for a srvid; takes the place of an earlier route.
    pub(crate) fn queue(&self, srvid: Srvid) -> Result<Subscription, Closed> {
        let (sender, queue) = mpsc::channel(MESSAGE_QUEUE);
        self.insert(srvid, Route::Queue(sender))?;
        Ok(Subscription { srvid, queue })
    }

    /// Opens a single place for a srvid; takes the place of an earlier route.
    pub(crate) fn latest(&self, srvid: Srvid) -> Result<Latest, Closed> {
        let (sender, latest) = watch::channel(None);
        self.insert(srvid, Route::Latest(sender))?;
        Ok(Latest(latest))
    }

    pub(crate) fn remove(&self, srvid: Srvid) {
        if let Some(routes) = self.lock().as_mut() {
            routes.remove(&srvid);
        }
    }

    /// Hands a message out; waits while its queue is full. Without a route it is dropped.
    pub(crate) async fn deliver(&self, header: Header, message: ReqMessage) {
        let route = self
            .lock()
            .as_ref()
            .and_then(|routes| routes.get(&message.srvid).cloned());
        let message = Message {
            src: header.src(),
            srvid: message.srvid,
            data: message.data,
        };
        match route {
            // A subscriber that has gone away has no use for the message.
            Some(Route::Queue(queue)) => drop(queue.send(message).await),
            Some(Route::Latest(latest)) => drop(latest.send(Some(message))),
            None => {}
        }
    }

    /// Ends all subscriptions: receivers get what waits, then [`Closed`].
    pub(crate) fn close(&self) {
        self.lock().take();
    }

    fn insert(&self, srvid: Srvid, route: Route) -> Result<(), Closed> {
        self.lock().as_mut().ok_or(Closed)?.insert(srvid, route);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<Srvid, Route>>> {
        self.0
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
