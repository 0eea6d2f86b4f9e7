//! What the nodes of a cluster say of it, all the while, and how long it takes until they say
//! something else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ctdb_client::{Client, ControlError, Latest};
use ctdb_proto::{Dest, Generation, Message, NodeFlags, Pnn, RecMode, Srvid};
use ctdb_tools::local_cluster::{Node, wait_until};
use tokio::task::JoinSet;

use crate::{TestCluster, in_runtime};

/// What a node says at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct View {
    pub generation: Generation,
    /// The vnn map.
    pub map: Vec<usize>,
    /// Recovery mode is normal.
    pub normal: bool,
    /// Whom it heard last say that he leads.
    pub leader: Option<usize>,
    /// Flags of all nodes.
    pub flags: Vec<NodeFlags>,
}

/// Asks all nodes of a cluster again and again.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    asking: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// `None` while a node does not answer.
    views: Mutex<Vec<Option<View>>>,
    ended: AtomicBool,
}

impl Watch {
    pub fn new(cluster: &TestCluster) -> Self {
        let sockets: Vec<PathBuf> = cluster.nodes().iter().map(Node::socket).collect();
        let shared = Arc::new(Shared {
            views: Mutex::new(vec![None; sockets.len()]),
            ended: AtomicBool::new(false),
        });
        let asking = thread::spawn({
            let shared = Arc::clone(&shared);
            move || in_runtime(ask_all(shared, sockets))
        });
        Self {
            shared,
            asking: Some(asking),
        }
    }

    /// What all nodes say now.
    pub fn views(&self) -> Vec<Option<View>> {
        self.shared.views().clone()
    }

    /// Waits until what these nodes say is as wanted; returns how long it is since `begin`, `None`
    /// when it does not come to that in time or one of them does not answer.
    pub fn until(
        &self,
        nodes: &[usize],
        begin: Instant,
        limit: Duration,
        wanted: impl Fn(&[View]) -> bool,
    ) -> Option<Duration> {
        let reached = wait_until(limit, || {
            let mut views = self.views();
            let views: Option<Vec<View>> = nodes.iter().map(|&pnn| views[pnn].take()).collect();
            views.is_some_and(|views| wanted(&views))
        });
        reached.then(|| begin.elapsed())
    }

    /// Whom all these nodes follow, if it is the same and one of them.
    pub fn leader(&self, nodes: &[usize]) -> Option<usize> {
        let views = self.views();
        let mut leaders = nodes.iter().map(|&pnn| views[pnn].as_ref()?.leader);
        let first = leaders.next()??;
        (nodes.contains(&first) && leaders.all(|leader| leader == Some(first))).then_some(first)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(asking) = self.asking.take()
            && asking.join().is_err()
        {
            eprintln!("the watch panicked");
        }
    }
}

impl View {
    /// These nodes, and no others, are in the vnn map, and records can be used.
    pub fn has_recovered(&self, members: &[usize]) -> bool {
        self.normal && self.map == members
    }

    /// As [`View::has_recovered`], and each of them is `OK`.
    pub fn is_healthy(&self, members: &[usize]) -> bool {
        let ok = |&pnn: &usize| self.flags.get(pnn).is_some_and(NodeFlags::is_empty);
        self.has_recovered(members) && members.iter().all(ok)
    }
}

/// Whether they are all in the same generation.
pub fn agree(views: &[View]) -> bool {
    views
        .windows(2)
        .all(|pair| pair[0].generation == pair[1].generation)
}

impl Shared {
    fn views(&self) -> MutexGuard<'_, Vec<Option<View>>> {
        self.views.lock().expect("nobody panics while holding it")
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

async fn ask_all(shared: Arc<Shared>, sockets: Vec<PathBuf>) {
    let mut tasks = JoinSet::new();
    for (pnn, socket) in sockets.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            while !shared.has_ended() {
                if let Ok(client) = Client::connect(&socket).await {
                    let _ = ask(&shared, pnn, &client).await;
                }
                shared.views()[pnn] = None;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    tasks.join_all().await;
}

/// Goes on until the connection ends or the node does not answer in time.
async fn ask(shared: &Shared, pnn: usize, client: &Client) -> Result<(), ControlError> {
    let leader = client.watch(Srvid::LEADER, Some(LIMIT)).await?;
    while !shared.has_ended() {
        let view = view(client, &leader).await?;
        shared.views()[pnn] = Some(view);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn view(client: &Client, leader: &Latest) -> Result<View, ControlError> {
    let node = client.node(Dest::Current, Some(LIMIT));
    let vnn_map = node.getvnnmap().await?;
    Ok(View {
        generation: vnn_map.generation,
        map: vnn_map.map.iter().map(|pnn| pnn.index()).collect(),
        normal: node.get_recmode().await? == RecMode::Normal,
        leader: named_leader(leader),
        flags: node
            .get_nodemap()
            .await?
            .nodes
            .iter()
            .map(|node| node.flags)
            .collect(),
    })
}

fn named_leader(latest: &Latest) -> Option<usize> {
    let message = latest.get()?;
    match Message::decode(message.srvid, message.data) {
        Ok(Message::Leader(leader)) => leader.map(Pnn::index),
        _ => None,
    }
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);
/// A node that does not answer for so long says nothing.
const LIMIT: Duration = Duration::from_millis(500);
