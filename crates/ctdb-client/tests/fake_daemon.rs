//! The client against a daemon that does exactly what each test says.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail it")]

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ctdb_client::error::Closed;
use ctdb_client::{CallError, Client, ConnectError, ControlFailure};
use ctdb_proto::{
    Body, ClientId, ControlFlags, DbId, Dest, FrameReader, Generation, Header, Opcode, Packet,
    Padding, ReplyCall, ReplyControl, ReqControl, ReqMessage, ReqTunnel, Srvid, Transport,
    TunnelFlags, TunnelId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const LIMIT: Option<Duration> = Some(Duration::from_secs(20));

/// The daemon's end of one connection.
struct Peer {
    socket: UnixStream,
    frames: FrameReader,
}

impl Peer {
    async fn receive(&mut self) -> Packet {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Packet::decode(frame).unwrap();
            }
            let read = self.socket.read_buf(self.frames.buffer()).await.unwrap();
            assert_ne!(read, 0, "the client hung up");
        }
    }

    async fn send(&mut self, packets: &[Packet]) {
        let mut bytes = BytesMut::new();
        for packet in packets {
            packet.encode_into(&mut bytes, Padding::Daemon);
        }
        self.socket.write_all(&bytes).await.unwrap();
    }
}

/// A client and the daemon's end of its connection.
async fn connected() -> (Client, Peer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (client, accepted) = tokio::join!(Client::connect(&path), listener.accept());
    let peer = Peer {
        socket: accepted.unwrap().0,
        frames: FrameReader::new(Transport::Unix),
    };
    (client.unwrap(), peer, dir)
}

fn answer(request: &Packet, body: Body) -> Packet {
    let header = Header {
        generation: Generation::new(7),
        dest: 0,
        src: 0,
        ..request.header
    };
    Packet { header, body }
}

fn status(request: &Packet, status: i32) -> Packet {
    answer(request, Body::ReplyControl(ReplyControl::status(status)))
}

fn message(srvid: Srvid, data: &'static [u8]) -> Packet {
    let header = Header {
        generation: Generation::new(7),
        dest: 0,
        src: 2,
        reqid: ctdb_proto::ReqId::new(0),
    };
    let data = Bytes::from_static(data);
    Packet {
        header,
        body: Body::ReqMessage(ReqMessage { srvid, data }),
    }
}

fn ping() -> ReqControl {
    ReqControl {
        opcode: Opcode::PING,
        srvid: Srvid::new(0),
        client_id: ClientId::NONE,
        flags: ControlFlags::empty(),
        data: Bytes::new(),
    }
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let (client, mut peer, _dir) = connected().await;
    let daemon = async {
        let (first, second) = (peer.receive().await, peer.receive().await);
        peer.send(&[status(&second, 2), status(&first, 1)]).await;
    };
    let (first, second, ()) = tokio::join!(
        client.raw_control(Dest::Current, ping(), LIMIT),
        client.raw_control(Dest::Current, ping(), LIMIT),
        daemon
    );
    assert_eq!((first.unwrap().status, second.unwrap().status), (1, 2));
}

#[tokio::test]
async fn a_silent_daemon_is_a_timeout_and_its_late_reply_is_dropped() {
    let (client, mut peer, _dir) = connected().await;
    let limit = Some(Duration::ZERO);
    let result = client.raw_control(Dest::Current, ping(), limit).await;
    assert_eq!(
        result.map_err(|error| error.cause),
        Err(ControlFailure::Timeout)
    );
    let daemon = async {
        let (late, next) = (peer.receive().await, peer.receive().await);
        peer.send(&[status(&late, 1), status(&next, 2)]).await;
    };
    let (reply, ()) = tokio::join!(client.raw_control(Dest::Current, ping(), LIMIT), daemon);
    assert_eq!(reply.unwrap().status, 2);
}

#[tokio::test]
async fn the_end_of_the_connection_ends_every_wait() {
    let (client, peer, _dir) = connected().await;
    let waiting = client.raw_control(Dest::Current, ping(), None);
    let (reply, ()) = tokio::join!(waiting, async { drop(peer) });
    assert_eq!(
        reply.map_err(|error| error.cause),
        Err(ControlFailure::Closed(Closed))
    );
    client.closed().await;
    assert!(client.is_closed());
    let later = client.raw_control(Dest::Current, ping(), None).await;
    assert_eq!(
        later.map_err(|error| error.cause),
        Err(ControlFailure::Closed(Closed))
    );
}

#[tokio::test]
async fn a_subscription_gets_all_messages_and_a_watch_the_newest() {
    let (client, mut peer, _dir) = connected().await;
    let srvid = Srvid::new(0xAE00_0000_0000_0001);
    let daemon = async {
        let register = peer.receive().await;
        // Messages before the reply to the registration count.
        peer.send(&[
            message(srvid, b"one"),
            status(&register, 0),
            message(srvid, b"two"),
        ])
        .await;
        let register = peer.receive().await;
        let leader = message(Srvid::LEADER, b"old");
        peer.send(&[status(&register, 0), leader, message(Srvid::LEADER, b"new")])
            .await;
        let request = peer.receive().await;
        peer.send(&[status(&request, 0)]).await;
    };
    let user = async {
        let mut all = client.subscribe(srvid, LIMIT).await.unwrap();
        let mut newest = client.watch(Srvid::LEADER, LIMIT).await.unwrap();
        let first = all.receive().await.unwrap();
        assert_eq!(
            (&first.data[..], first.src.map(ctdb_proto::Pnn::get)),
            (&b"one"[..], Some(2))
        );
        assert_eq!(&all.receive().await.unwrap().data[..], b"two");
        newest.first().await.unwrap();
        // The reply to a later request proves that both leader messages have been read.
        client
            .raw_control(Dest::Current, ping(), LIMIT)
            .await
            .unwrap();
        assert_eq!(&newest.get().unwrap().data[..], b"new");
    };
    tokio::join!(user, daemon);
}

#[tokio::test]
async fn a_refused_registration_is_an_error_with_the_status() {
    let (client, mut peer, _dir) = connected().await;
    let daemon = async {
        let register = peer.receive().await;
        peer.send(&[status(&register, -1)]).await;
    };
    let (result, ()) = tokio::join!(client.subscribe(Srvid::new(5), LIMIT), daemon);
    assert_eq!(result.unwrap_err().code(), -1);
}

#[tokio::test]
async fn a_migration_is_a_call_of_null() {
    let (client, mut peer, _dir) = connected().await;
    let daemon = async {
        let request = peer.receive().await;
        let Body::ReqCall(call) = &request.body else {
            panic!("{request:?}")
        };
        assert_eq!(
            (call.flags.bits(), call.call_id.get(), &call.key[..]),
            (5, 0xFF00_0001, &b"k"[..])
        );
        let reply = ReplyCall {
            status: 0,
            data: Bytes::new(),
        };
        peer.send(&[answer(&request, Body::ReplyCall(reply))]).await;
        let request = peer.receive().await;
        let reply = ReplyCall {
            status: -1,
            data: Bytes::new(),
        };
        peer.send(&[answer(&request, Body::ReplyCall(reply))]).await;
    };
    let key = Bytes::from_static(b"k");
    let user = async {
        client
            .migrate(DbId::new(1), key.clone(), true, LIMIT)
            .await
            .unwrap();
        let refused = client.migrate(DbId::new(1), key.clone(), true, LIMIT).await;
        assert_eq!(refused, Err(CallError::Status { status: -1 }));
    };
    tokio::join!(user, daemon);
}

#[tokio::test]
async fn bad_packets_from_the_daemon_do_not_disturb_others() {
    let (client, mut peer, _dir) = connected().await;
    let daemon = async {
        let request = peer.receive().await;
        let mut bytes = BytesMut::new();
        // A wrong magic, a reply whose data is not there, then the good reply.
        bytes.extend_from_slice(&[40, 0, 0, 0]);
        bytes.extend_from_slice(&[9; 36]);
        let mut broken = status(&request, 1).encode(Padding::Exact).to_vec();
        broken[36] = 200;
        bytes.extend_from_slice(&broken);
        status(&request, 3).encode_into(&mut bytes, Padding::Exact);
        peer.socket.write_all(&bytes).await.unwrap();
    };
    let (reply, ()) = tokio::join!(client.raw_control(Dest::Current, ping(), LIMIT), daemon);
    assert_eq!(reply.unwrap().status, 3);
}

#[tokio::test]
async fn connecting_fails_with_a_clear_reason() {
    let long = PathBuf::from(format!("/{}", "x".repeat(107)));
    let error = Client::connect(&long).await.unwrap_err();
    assert_eq!(error.to_string(), "socket path too long, len=108");
    let error = Client::connect(&PathBuf::from("/nonexistent/socket"))
        .await
        .unwrap_err();
    let ConnectError::Connect { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_second_answer_is_counted() {
    let (client, mut peer, _dir) = connected().await;
    let daemon = async {
        let request = peer.receive().await;
        peer.send(&[status(&request, 1), status(&request, 2)]).await;
        let request = peer.receive().await;
        peer.send(&[status(&request, 3)]).await;
    };
    let user = async {
        let reply = client.raw_control(Dest::Current, ping(), LIMIT).await;
        assert_eq!(reply.unwrap().status, 1);
        let reply = client.raw_control(Dest::Current, ping(), LIMIT).await;
        assert_eq!(reply.unwrap().status, 3);
        assert_eq!(client.unexpected_replies(), 1);
    };
    tokio::join!(user, daemon);
}

#[tokio::test]
async fn a_tunnel_gets_its_packets_until_the_connection_is_closed() {
    let (client, mut peer, _dir) = connected().await;
    let id = TunnelId::new(0xFFFF_FFFF_0000_0001);
    let daemon = async {
        let register = peer.receive().await;
        let packet = ReqTunnel {
            tunnel_id: id,
            flags: TunnelFlags::REQUEST,
            data: Bytes::from_static(b"question"),
        };
        // A packet before the reply to the registration counts.
        let packet = answer(&register, Body::ReqTunnel(packet));
        peer.send(&[packet, status(&register, 0)]).await;
    };
    let user = async {
        let mut tunnel = client.open_tunnel(id, LIMIT).await.unwrap();
        let (flags, data) = tunnel.receive().await.unwrap();
        assert_eq!((flags, &data[..]), (TunnelFlags::REQUEST, &b"question"[..]));
        let again = client.open_tunnel(id, LIMIT).await;
        assert_eq!(again.unwrap_err().code(), -1);
        client.close();
        assert_eq!(tunnel.receive().await, Err(Closed));
    };
    tokio::join!(user, daemon);
}
