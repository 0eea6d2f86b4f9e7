//! The socket of the cluster of a case.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use ctdb_proto::control::{Reply, Request};
use ctdb_proto::{
    Body, CURRENT_NODE, DisableMessage, FrameReader, Generation, Header, Packet, Padding, RecData,
    ReplyCall, ReqId, ReqMessage, Srvid, SrvidMessage, Transport, Wire, decode_exact,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::state::State;

/// A daemon that answers for all nodes; ends when dropped.
pub(crate) struct FakeDaemon {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// Listens on the socket of test mode before it returns.
    pub(crate) fn start(base: &Path, cluster: &Value) -> Self {
        let socket = base.join("run/ctdbd.socket");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (cluster, db_dir) = (cluster.clone(), base.join("var/db"));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, async {
                let daemon = Rc::new(Daemon::new(State::new(&cluster, db_dir)));
                let serving = serve(daemon, socket, ready);
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().expect("the fake daemon has not panicked");
        }
    }
}

struct Daemon {
    state: RefCell<State>,
    clients: RefCell<Clients>,
}

/// Who is connected, and who wants which messages.
#[derive(Default)]
struct Clients {
    count: i32,
    registered: HashMap<Srvid, mpsc::UnboundedSender<Bytes>>,
}

impl Daemon {
    fn new(state: State) -> Self {
        Self {
            state: RefCell::new(state),
            clients: RefCell::default(),
        }
    }
}

async fn serve(daemon: Rc<Daemon>, socket: PathBuf, ready: std::sync::mpsc::Sender<()>) {
    let listener = UnixListener::bind(socket).unwrap();
    ready.send(()).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        spawn_local(client(Rc::clone(&daemon), stream));
    }
}

async fn client(daemon: Rc<Daemon>, stream: UnixStream) {
    let (read_half, mut write_half) = stream.into_split();
    let (queue, mut packets) = mpsc::unbounded_channel::<Bytes>();
    spawn_local(async move {
        while let Some(packet) = packets.recv().await {
            if write_half.write_all(&packet).await.is_err() {
                return;
            }
        }
    });
    daemon.clients.borrow_mut().count += 1;
    read_packets(&daemon, read_half, &queue).await;
    let mut clients = daemon.clients.borrow_mut();
    clients.count -= 1;
    clients
        .registered
        .retain(|_, registered| !registered.same_channel(&queue));
}

async fn read_packets(
    daemon: &Daemon,
    mut socket: OwnedReadHalf,
    queue: &mpsc::UnboundedSender<Bytes>,
) {
    let mut frames = FrameReader::new(Transport::Unix);
    while let Ok(1..) = socket.read_buf(frames.buffer()).await {
        while let Some(frame) = frames.next_frame().unwrap() {
            daemon.packet(Packet::decode(frame).unwrap(), queue);
        }
    }
}

impl Daemon {
    fn packet(&self, packet: Packet, queue: &mpsc::UnboundedSender<Bytes>) {
        let header = packet.header;
        match packet.body {
            Body::ReqControl(control) => {
                let request = Request::from_control(&control).unwrap();
                let reply = self.control(&header, request.clone());
                send(queue, header.reqid, Body::ReplyControl(reply.to_control()));
                self.after_reply(&request, queue);
            }
            Body::ReqCall(call) => {
                self.state.borrow().migrate(call.db_id, &call.key);
                let reply = ReplyCall {
                    status: 0,
                    data: Bytes::new(),
                };
                send(queue, header.reqid, Body::ReplyCall(reply));
            }
            Body::ReqMessage(message) if message.srvid == Srvid::TAKEOVER_RUN => {
                let question: SrvidMessage = decode_exact(message.data).unwrap();
                self.send_number(question.srvid, self.state.borrow().leader);
            }
            Body::ReqMessage(message) if message.srvid == Srvid::DISABLE_RECOVERIES => {
                let question: DisableMessage = decode_exact(message.data).unwrap();
                self.send_number(question.srvid, header.dest);
            }
            other => panic!("unexpected packet {other:?}"),
        }
    }

    fn control(&self, header: &Header, request: Request) -> Reply {
        let mut state = self.state.borrow_mut();
        let pnn = if header.dest == CURRENT_NODE {
            state.current
        } else {
            header.dest
        };
        if !state.has_node(pnn) {
            return Reply::FAILED;
        }
        state.answer(pnn, self.clients.borrow().count, request)
    }

    /// What follows the reply to some controls: messages.
    fn after_reply(&self, request: &Request, queue: &mpsc::UnboundedSender<Bytes>) {
        match *request {
            Request::RegisterSrvid(srvid) => {
                self.clients
                    .borrow_mut()
                    .registered
                    .insert(srvid, queue.clone());
                if srvid == Srvid::LEADER {
                    // A real leader repeats this each second.
                    self.send_number(srvid, self.state.borrow().leader);
                }
            }
            Request::DeregisterSrvid(srvid) => {
                self.clients.borrow_mut().registered.remove(&srvid);
            }
            Request::TraverseStartExt(traverse) => {
                let start = traverse.start;
                for (key, data) in self.state.borrow().records(start.db_id) {
                    let record = RecData {
                        reqid: start.reqid,
                        key: key.into(),
                        data: data.into(),
                    };
                    self.send_message(start.srvid, &record);
                }
                self.send_message(start.srvid, &RecData::end(start.reqid));
            }
            _ => {}
        }
    }

    fn send_number(&self, srvid: Srvid, number: u32) {
        self.send_message(srvid, &number);
    }

    fn send_message(&self, srvid: Srvid, data: &impl Wire) {
        let mut bytes = BytesMut::new();
        data.encode(&mut bytes);
        let message = ReqMessage {
            srvid,
            data: bytes.freeze(),
        };
        let clients = self.clients.borrow();
        let queue = clients
            .registered
            .get(&srvid)
            .expect("somebody registered this srvid");
        send(queue, ReqId::new(0), Body::ReqMessage(message));
    }
}

fn send(queue: &mpsc::UnboundedSender<Bytes>, reqid: ReqId, body: Body) {
    let header = Header {
        generation: Generation(1_234_567),
        dest: 0,
        src: 0,
        reqid,
    };
    let packet = Packet { header, body }.encode(Padding::Daemon);
    // The tool may have gone away.
    drop(queue.send(packet));
}
