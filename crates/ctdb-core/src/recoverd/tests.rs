//! Tests of the whole recovery daemon, and the helpers that the tests of its parts share.

use std::sync::OnceLock;
use std::time::Instant;

use ctdb_conf::Tunables;
use ctdb_proto::{Capabilities, Generation, NodeFlags, Pnn, RecMode, RunState, SockAddr, VnnMap};

use crate::recoverd::view::{NodeView, View};

mod chaos;
mod cuts;
mod fake;
mod stories;
mod world;

/// A point in time that all tests of this process share.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "some instant is needed to count from"
    )]
    *EPOCH.get_or_init(Instant::now)
}

pub(crate) fn pnn(raw: u32) -> Pnn {
    Pnn::new(raw).unwrap()
}

/// What the own daemon knows, for tests to change and to look at.
#[derive(Clone, Debug)]
pub(crate) struct FakeNode {
    pub(crate) me: Pnn,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) vnn_map: VnnMap,
    pub(crate) rec_mode: RecMode,
    pub(crate) run_state: RunState,
    pub(crate) tunables: Tunables,
    pub(crate) capabilities: Capabilities,
    pub(crate) all_frozen: bool,
}

impl FakeNode {
    /// Node `me` of a healthy cluster of `count` nodes that has recovered.
    pub(crate) fn new(me: u32, count: u32) -> Self {
        let nodes = (0..count).map(|raw| NodeView {
            pnn: pnn(raw),
            flags: NodeFlags::empty(),
            addr: SockAddr(([127, 0, 0, 1], 4379).into()),
            keepalive_version: None,
            closed: false,
        });
        Self {
            me: pnn(me),
            nodes: nodes.collect(),
            vnn_map: VnnMap {
                generation: Generation(1000),
                map: (0..count).map(pnn).collect(),
            },
            rec_mode: RecMode::Normal,
            run_state: RunState::Running,
            tunables: Tunables::default(),
            capabilities: Capabilities::DEFAULT,
            all_frozen: false,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            me: self.me,
            nodes: &self.nodes,
            vnn_map: &self.vnn_map,
            rec_mode: self.rec_mode,
            run_state: self.run_state,
            tunables: &self.tunables,
            capabilities: self.capabilities,
            all_frozen: self.all_frozen,
        }
    }

    pub(crate) fn set_flags(&mut self, pnn: Pnn, flags: NodeFlags) {
        self.nodes[pnn.index()].flags = flags;
    }
}
