//! The nodes list while the node runs: what of a list that was read again is taken over, and what
//! is refused (cluster.md 1.3 and 9.4).
//!
//! A pnn belongs to a node for ever: records carry it. So a line may be commented out, which leaves
//! its number taken, and may come back, and lines may be added at the end. Everything else would
//! give a node the number of another one. The original believes such a list, and ends when it
//! cannot be read at all; here the list that was in force stays in force.

use std::net::{IpAddr, SocketAddr};

use ctdb_proto::{NodeFlags, Pnn};

use crate::cluster::NodeEntry;
use crate::config::ConfiguredNode;
use crate::effect::Ticket;
use crate::waiting::Caller;

/// How many may wait for the next reading. Who comes then is told that it failed.
const QUEUE_LIMIT: usize = 256;

/// Flags of a node that is listed, and has not connected yet.
pub(crate) const EXPECTED: NodeFlags = NodeFlags::UNHEALTHY.union(NodeFlags::DISCONNECTED);
/// Flags of a node whose line is commented out.
pub(crate) const GONE: NodeFlags = NodeFlags::DELETED.union(NodeFlags::DISCONNECTED);

impl From<&ConfiguredNode> for NodeEntry {
    fn from(line: &ConfiguredNode) -> Self {
        Self {
            addr: line.addr,
            flags: if line.deleted { GONE } else { EXPECTED },
        }
    }
}

/// Why a list is not taken over.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it has {listed} nodes, {known} are known: numbers of nodes must stay taken")]
    Shorter { listed: usize, known: usize },
    #[error("node {pnn} would change its address from {known} to {listed}")]
    Moved {
        pnn: Pnn,
        known: IpAddr,
        listed: IpAddr,
    },
    #[error("this node, {0}, is not in it any more")]
    WithoutMe(Pnn),
}

/// One line that is not as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// A new number, perhaps already commented out.
    New(ConfiguredNode),
    Deleted(Pnn),
    Undeleted(Pnn, SocketAddr),
}

/// Compares the list with what is known, number by number.
pub(crate) fn changes(
    known: &[NodeEntry],
    list: &[ConfiguredNode],
    me: Pnn,
) -> Result<Vec<Change>, Refused> {
    if list.len() < known.len() {
        let (listed, known) = (list.len(), known.len());
        return Err(Refused::Shorter { listed, known });
    }
    let mut changes = Vec::new();
    let numbered = (0..).map_while(Pnn::new).zip(known.iter().zip(list));
    for (pnn, (old, new)) in numbered {
        let was_deleted = old.flags.contains(NodeFlags::DELETED);
        match (was_deleted, new.deleted) {
            (true, false) => changes.push(Change::Undeleted(pnn, new.addr)),
            (false, true) if pnn == me => return Err(Refused::WithoutMe(me)),
            (false, true) => changes.push(Change::Deleted(pnn)),
            (false, false) if old.addr.ip() != new.addr.ip() => {
                let (known, listed) = (old.addr.ip(), new.addr.ip());
                return Err(Refused::Moved { pnn, known, listed });
            }
            (true, true) | (false, false) => {}
        }
    }
    let more = list.iter().skip(known.len());
    changes.extend(more.map(|line| Change::New(*line)));
    Ok(changes)
}

/// What somebody wants the list read for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// `GET_NODES_FILE`: to see it.
    Show,
    /// `RELOAD_NODES_FILE`: to take it over.
    Reload,
}

/// Who wants the list read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Asker {
    pub(crate) caller: Caller,
    pub(crate) purpose: Purpose,
}

/// The readings of the list. There is one at a time, however many ask: who asks while one is under
/// way gets the next one, since the list may have changed since that one began.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    running: Option<Ticket>,
    served: Vec<Asker>,
    next: Vec<Asker>,
}

impl Readings {
    /// Puts somebody in line; false if there are too many.
    pub(crate) fn ask(&mut self, asker: Asker) -> bool {
        let has_room = self.next.len() < QUEUE_LIMIT;
        if has_room {
            self.next.push(asker);
        }
        has_room
    }

    /// Whether a reading is to be started now.
    pub(crate) fn is_due(&self) -> bool {
        self.running.is_none() && !self.next.is_empty()
    }

    /// A reading starts: it serves all who wait now.
    pub(crate) fn start(&mut self, ticket: Ticket) {
        self.running = Some(ticket);
        self.served = std::mem::take(&mut self.next);
    }

    /// A reading has ended: whom it serves.
    pub(crate) fn end(&mut self, ticket: Ticket) -> Vec<Asker> {
        if self.running != Some(ticket) {
            return Vec::new();
        }
        self.running = None;
        std::mem::take(&mut self.served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pnn(raw: u32) -> Pnn {
        Pnn::new(raw).unwrap()
    }

    /// A list by the last bytes of its addresses; 0 is a line that is commented out.
    fn list(hosts: &[u8]) -> Vec<ConfiguredNode> {
        let line = |host: &u8| ConfiguredNode {
            addr: SocketAddr::from(([10, 0, 0, *host], 4379)),
            deleted: *host == 0,
        };
        hosts.iter().map(line).collect()
    }

    fn compare(known: &[u8], listed: &[u8]) -> Result<Vec<Change>, Refused> {
        let known: Vec<NodeEntry> = list(known).iter().map(NodeEntry::from).collect();
        changes(&known, &list(listed), pnn(0))
    }

    #[test]
    fn lines_may_come_at_the_end_go_and_come_back() {
        assert_eq!(compare(&[1, 2], &[1, 2]), Ok(vec![]));
        let [new, gone] = list(&[3, 0])[..] else {
            panic!("two lines")
        };
        assert_eq!(
            compare(&[1, 2], &[1, 2, 3, 0]),
            Ok(vec![Change::New(new), Change::New(gone)])
        );
        assert_eq!(
            compare(&[1, 2, 3], &[1, 0, 3]),
            Ok(vec![Change::Deleted(pnn(1))])
        );
        // Its number may go to another address: no node has it now.
        assert_eq!(
            compare(&[1, 0, 0], &[1, 7, 0]),
            Ok(vec![Change::Undeleted(pnn(1), list(&[7])[0].addr)])
        );
    }

    #[test]
    fn no_node_gets_another_number() {
        let moved = Refused::Moved {
            pnn: pnn(1),
            known: [10, 0, 0, 2].into(),
            listed: [10, 0, 0, 3].into(),
        };
        assert_eq!(compare(&[1, 2, 3], &[1, 3, 2]), Err(moved.clone()));
        assert_eq!(compare(&[1, 2, 3], &[1, 3, 3]), Err(moved));
        let (listed, known) = (2, 3);
        assert_eq!(
            compare(&[1, 2, 3], &[1, 2]),
            Err(Refused::Shorter { listed, known })
        );
        assert_eq!(compare(&[1, 2], &[0, 2]), Err(Refused::WithoutMe(pnn(0))));
    }

    #[test]
    fn who_asks_during_a_reading_gets_the_next_one() {
        let asker = |reqid| Asker {
            caller: Caller {
                node: pnn(0),
                reqid: ctdb_proto::ReqId(reqid),
                client: ctdb_proto::ClientId::NONE,
                wants_reply: true,
                generation: ctdb_proto::Generation(1),
            },
            purpose: Purpose::Show,
        };
        let mut readings = Readings::default();
        assert!(readings.ask(asker(1)) && readings.ask(asker(2)));
        assert!(readings.is_due());
        readings.start(Ticket(1));
        assert!(readings.ask(asker(3)));
        assert!(!readings.is_due(), "one at a time");
        assert_eq!(readings.end(Ticket(9)), [], "of no reading that runs");
        assert_eq!(readings.end(Ticket(1)), [asker(1), asker(2)]);
        assert!(readings.is_due());
        readings.start(Ticket(2));
        assert_eq!(readings.end(Ticket(2)), [asker(3)]);
        assert!(!readings.is_due());
    }

    #[test]
    fn the_line_of_askers_has_an_end() {
        let caller = Caller {
            node: pnn(0),
            reqid: ctdb_proto::ReqId(1),
            client: ctdb_proto::ClientId::NONE,
            wants_reply: true,
            generation: ctdb_proto::Generation(1),
        };
        let mut readings = Readings::default();
        let purpose = Purpose::Reload;
        let taken = (0..QUEUE_LIMIT + 5).filter(|_| readings.ask(Asker { caller, purpose }));
        assert_eq!(taken.count(), QUEUE_LIMIT);
    }
}
