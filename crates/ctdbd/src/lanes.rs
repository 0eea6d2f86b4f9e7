//! How everybody reaches the core task: four queues, the more important one first.
//!
//! A flood of record traffic must not delay what keeps the cluster together: in the field, leader
//! broadcasts behind thousands of lock requests led to needless elections.
//!
//! | lane     | carries                                          | when full               |
//! |----------|--------------------------------------------------|-------------------------|
//! | `done`   | answers to what the core task itself asked for   | never: one for each ask |
//! | `urgent` | keepalives, controls, the daemons' own messages  | the reader waits        |
//! | `data`   | what threads read out of whole databases         | the thread waits        |
//! | `work`   | calls, record migration, records that are sent, messages of clients | the reader waits |
//!
//! A reader that waits stops reading its socket, so the sender feels it. Within a lane the packets
//! of one connection keep their order. Between lanes nothing of a peer depends on the order: what
//! is about single records is all in one, so that a revoke stays behind the copy that it revokes.
//! The packets of a client always keep their order, see [`ClientOrder`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ctdb_proto::{Body, Opcode, Packet, Srvid};
use tokio::sync::mpsc;

use crate::event::ShellEvent;

/// Packets that wait for the core task in the urgent lane.
const URGENT_CAPACITY: usize = 1024;

/// Answers of database threads, with up to a megabyte each, that wait for the core task.
const DATA_CAPACITY: usize = 8;

/// Packets that wait for the core task in the work lane.
const WORK_CAPACITY: usize = 4096;

/// The sending ends.
#[derive(Clone)]
pub(crate) struct Lanes {
    done: mpsc::UnboundedSender<ShellEvent>,
    urgent: mpsc::Sender<ShellEvent>,
    data: mpsc::Sender<ShellEvent>,
    work: mpsc::Sender<ShellEvent>,
}

/// The receiving end.
pub(crate) struct Inbox {
    done: mpsc::UnboundedReceiver<ShellEvent>,
    urgent: mpsc::Receiver<ShellEvent>,
    data: mpsc::Receiver<ShellEvent>,
    work: mpsc::Receiver<ShellEvent>,
}

/// Which of the bounded lanes an event takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lane {
    Urgent,
    Work,
}

/// All lanes, empty.
pub(crate) fn lanes() -> (Lanes, Inbox) {
    let (done, done_inbox) = mpsc::unbounded_channel();
    let (urgent, urgent_inbox) = mpsc::channel(URGENT_CAPACITY);
    let (data, data_inbox) = mpsc::channel(DATA_CAPACITY);
    let (work, work_inbox) = mpsc::channel(WORK_CAPACITY);
    let lanes = Lanes {
        done,
        urgent,
        data,
        work,
    };
    let inbox = Inbox {
        done: done_inbox,
        urgent: urgent_inbox,
        data: data_inbox,
        work: work_inbox,
    };
    (lanes, inbox)
}

impl Lanes {
    /// Reports the result of something that the core task asked for. Never waits; may be called
    /// from any thread. Without a core task the daemon is ending, and nobody wants to know.
    pub(crate) fn report(&self, event: ShellEvent) {
        let _ = self.done.send(event);
    }

    /// Hands over what a thread, not a task, has read. Waits for room. False when the daemon is
    /// ending.
    pub(crate) fn report_data(&self, event: ShellEvent) -> bool {
        self.data.blocking_send(event).is_ok()
    }

    /// Queues an event, waiting for room. False when the daemon is ending.
    pub(crate) async fn send(&self, lane: Lane, event: ShellEvent) -> bool {
        match lane {
            Lane::Urgent => self.urgent.send(event).await.is_ok(),
            Lane::Work => self.work.send(event).await.is_ok(),
        }
    }
}

impl Inbox {
    /// The next event in order of importance.
    pub(crate) async fn next(&mut self) -> ShellEvent {
        let event = tokio::select! {
            biased;
            event = self.done.recv() => event,
            event = self.urgent.recv() => event,
            event = self.data.recv() => event,
            event = self.work.recv() => event,
        };
        event.expect("the core task keeps sending ends of all lanes")
    }

    /// The next event, if there is one.
    pub(crate) fn try_next(&mut self) -> Option<ShellEvent> {
        let next = self.done.try_recv().or_else(|_| self.urgent.try_recv());
        next.or_else(|_| self.data.try_recv())
            .or_else(|_| self.work.try_recv())
            .ok()
    }
}

impl Lane {
    /// The lane of a packet from a peer.
    ///
    /// Batches of records that a recovery or `ctdb restoredb` sends as messages are counted by the
    /// controls around them, so they take the lane of the controls.
    pub(crate) fn of_peer(packet: &Packet) -> Self {
        match &packet.body {
            Body::ReqControl(control) if control.opcode == Opcode::UPDATE_RECORD => Self::Work,
            Body::ReqKeepalive(_) | Body::ReqControl(_) | Body::ReplyControl(_) => Self::Urgent,
            Body::ReqMessage(message) if goes_with_controls(message.srvid) => Self::Urgent,
            _ => Self::Work,
        }
    }

    /// The lane of a packet from a client, if it had no predecessors.
    fn of_client(packet: &Packet) -> Self {
        match &packet.body {
            Body::ReqControl(_) => Self::Urgent,
            Body::ReqMessage(message) if goes_with_controls(message.srvid) => Self::Urgent,
            _ => Self::Work,
        }
    }
}

/// Whether a message is part of the talk between daemons (cluster.md, table of messages), or in
/// the middle of a restore.
fn goes_with_controls(srvid: Srvid) -> bool {
    const FIRST: u64 = Srvid::RECOVERY.0;
    const LAST: u64 = Srvid::DISABLE_IP_CHECK.0;
    srvid == Srvid::RESTORE || (FIRST..=LAST).contains(&srvid.0)
}

/// Keeps the packets of one client in order although they take two lanes: an urgent packet takes
/// the work lane while an earlier packet of the same client waits there.
#[derive(Debug, Default)]
pub(crate) struct ClientOrder(Arc<AtomicUsize>);

/// Counts as an earlier packet until it is dropped.
#[derive(Debug)]
pub(crate) struct InWorkLane(Arc<AtomicUsize>);

impl ClientOrder {
    /// The lane for the next packet, and what goes with it until the core task takes it.
    pub(crate) fn place(&self, packet: &Packet) -> (Lane, Option<InWorkLane>) {
        if Lane::of_client(packet) == Lane::Urgent && self.0.load(Ordering::Relaxed) == 0 {
            return (Lane::Urgent, None);
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        (Lane::Work, Some(InWorkLane(Arc::clone(&self.0))))
    }
}

impl Drop for InWorkLane {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ctdb_proto::{
        ClientId, ControlFlags, Generation, Header, ReplyCall, ReqControl, ReqId, ReqMessage,
    };

    use super::*;

    fn packet(body: Body) -> Packet {
        let header = Header {
            generation: Generation(1),
            dest: 0,
            src: 0,
            reqid: ReqId(0),
        };
        Packet { header, body }
    }

    fn control() -> Packet {
        control_of(Opcode::PING)
    }

    fn control_of(opcode: Opcode) -> Packet {
        packet(Body::ReqControl(ReqControl {
            opcode,
            srvid: Srvid(0),
            client_id: ClientId::NONE,
            flags: ControlFlags::empty(),
            data: Bytes::new(),
        }))
    }

    fn message(srvid: Srvid) -> Packet {
        packet(Body::ReqMessage(ReqMessage {
            srvid,
            data: Bytes::new(),
        }))
    }

    #[test]
    fn leader_broadcasts_and_batches_of_records_are_urgent_and_samba_messages_are_not() {
        assert_eq!(Lane::of_peer(&message(Srvid::LEADER)), Lane::Urgent);
        assert_eq!(
            Lane::of_peer(&message(Srvid(Srvid::RECOVERY.0 + 17))),
            Lane::Urgent
        );
        assert_eq!(Lane::of_peer(&message(Srvid::RESTORE)), Lane::Urgent);
        assert_eq!(
            Lane::of_peer(&message(Srvid::SAMBA_NOTIFY_PROXY)),
            Lane::Work
        );
        assert_eq!(Lane::of_peer(&message(Srvid(4711))), Lane::Work);
        assert_eq!(Lane::of_peer(&control()), Lane::Urgent);
    }

    /// A read-only copy comes with a `REPLY_CALL`, and is revoked with `UPDATE_RECORD`: if that came
    /// first, the copy would stay for ever.
    #[test]
    fn a_revoke_does_not_overtake_the_copy() {
        let copy = packet(Body::ReplyCall(ReplyCall {
            status: 0,
            data: Bytes::new(),
        }));
        assert_eq!(
            Lane::of_peer(&control_of(Opcode::UPDATE_RECORD)),
            Lane::of_peer(&copy)
        );
    }

    #[test]
    fn a_control_of_a_client_does_not_overtake_its_own_message() {
        let order = ClientOrder::default();
        assert_eq!(order.place(&control()).0, Lane::Urgent);
        let (lane, waiting) = order.place(&message(Srvid(1)));
        assert_eq!(lane, Lane::Work);
        let (lane, behind) = order.place(&control());
        assert_eq!(lane, Lane::Work);
        drop((waiting, behind));
        assert_eq!(order.place(&control()).0, Lane::Urgent);
    }
}
