use bytes::Bytes;
use ctdb_proto::{Body, Generation, Header, Padding, ReqId, ReqMessage, Srvid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::lanes::{Inbox, lanes};

const PEER: Pnn = match Pnn::new(1) {
    Some(pnn) => pnn,
    None => panic!("1 is a node number"),
};

/// Our end of a pair of nodes, and the peer's listener.
struct Fixture {
    peers: Peers,
    inbox: Inbox,
    listener: TcpListener,
}

async fn fixture() -> Fixture {
    let (lanes, inbox) = lanes();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peers = Peers::new("127.0.0.2".parse().unwrap(), lanes);
    peers.connect(PEER, listener.local_addr().unwrap());
    Fixture {
        peers,
        inbox,
        listener,
    }
}

impl Fixture {
    async fn next(&mut self) -> ShellEvent {
        let next = timeout(Duration::from_secs(60), self.inbox.next()).await;
        next.expect("something happens in time")
    }

    /// Waits until our connection stands; returns the peer's end of it.
    async fn connected(&mut self) -> TcpStream {
        let (far, from) = self.listener.accept().await.unwrap();
        assert_eq!(
            from.ip(),
            self.peers.own_ip,
            "the peer knows us by our address"
        );
        let ShellEvent::PeerConnected { pnn, link, socket } = self.next().await else {
            panic!("not connected")
        };
        assert!(self.peers.connected(pnn, link, socket));
        far
    }

    /// Accepts a connection of the peer; returns the peer's end of it.
    async fn accepted(&mut self) -> TcpStream {
        let ours = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let far = TcpStream::connect(ours.local_addr().unwrap())
            .await
            .unwrap();
        self.peers.accepted(PEER, ours.accept().await.unwrap().0);
        far
    }

    /// Waits for the loss of the connections, and connects again.
    async fn lost(&mut self) -> String {
        let ShellEvent::PeerLost { pnn, link, end } = self.next().await else {
            panic!("not lost")
        };
        assert!(self.peers.is_current(pnn, link));
        self.peers.reconnect(pnn);
        assert!(!self.peers.is_current(pnn, link));
        end.why
    }
}

fn message(srvid: Srvid, number: u32) -> Packet {
    let header = Header {
        generation: Generation(1),
        dest: 0,
        src: 1,
        reqid: ReqId(number),
    };
    Packet {
        header,
        body: Body::ReqMessage(ReqMessage {
            srvid,
            data: Bytes::new(),
        }),
    }
}

#[tokio::test]
async fn packets_go_out_on_the_connection_that_we_opened() {
    let mut f = fixture().await;
    // Not connected yet: dropped.
    f.peers.send(PEER, &message(Srvid(5), 1));
    let mut far = f.connected().await;
    f.peers.send(PEER, &message(Srvid(5), 2));
    f.peers.send(PEER, &message(Srvid(5), 3));
    assert!(f.peers.flush().is_empty());
    let mut bytes = [0; 96];
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!((bytes[28], bytes[48 + 28]), (2, 3));
}

#[tokio::test]
async fn packets_come_in_on_the_connection_that_we_accepted_urgent_ones_first() {
    let mut f = fixture().await;
    let _out = f.connected().await;
    let mut far = f.accepted().await;
    let mut bytes = Vec::new();
    for (srvid, number) in [(Srvid(5), 1), (Srvid(5), 2), (Srvid::LEADER, 3)] {
        bytes.extend_from_slice(&message(srvid, number).encode(Padding::Daemon));
    }
    // One byte at the end comes late: the last packet is whole only then.
    let (most, last) = bytes.split_at(bytes.len() - 1);
    far.write_all(most).await.unwrap();
    far.flush().await.unwrap();
    tokio::task::yield_now().await;
    far.write_all(last).await.unwrap();
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        let ShellEvent::PeerPacket { from, link, packet } = f.next().await else {
            panic!("not a packet")
        };
        assert_eq!(from, PEER);
        assert!(f.peers.is_current(PEER, link));
        numbers.push(packet.header.reqid.get());
    }
    let of_samba: Vec<_> = numbers.iter().filter(|number| **number < 3).collect();
    assert_eq!(of_samba, [&1, &2]);
}

#[tokio::test]
async fn the_end_of_either_connection_is_a_loss_and_we_connect_again() {
    let mut f = fixture().await;
    let out = f.connected().await;
    drop(out);
    assert_eq!(f.lost().await, "connection closed");
    let _out = f.connected().await;
    let incoming = f.accepted().await;
    drop(incoming);
    assert_eq!(f.lost().await, "connection closed");
    let _out = f.connected().await;
}

#[tokio::test]
async fn data_on_our_own_connection_is_a_loss() {
    let mut f = fixture().await;
    let mut out = f.connected().await;
    out.write_all(b"x").await.unwrap();
    assert_eq!(f.lost().await, "data came on the outgoing connection");
}

#[tokio::test]
async fn bytes_that_are_no_packets_end_the_connection_but_not_the_daemon() {
    let mut f = fixture().await;
    for garbage in [
        &[0; 8][..],
        &[31, 0, 0, 0, 9, 9, 9, 9, 1, 0, 0, 0],
        &[0xFF; 64],
    ] {
        let _out = f.connected().await;
        let mut far = f.accepted().await;
        far.write_all(garbage).await.unwrap();
        f.lost().await;
    }
}

#[tokio::test]
async fn an_invalid_body_costs_the_packet_only() {
    let mut f = fixture().await;
    let _out = f.connected().await;
    let mut far = f.accepted().await;
    let mut bytes = message(Srvid(5), 1).encode(Padding::Daemon).to_vec();
    // The message claims more data than there is.
    bytes[40] = 0xFF;
    far.write_all(&bytes).await.unwrap();
    far.write_all(&message(Srvid(5), 2).encode(Padding::Daemon))
        .await
        .unwrap();
    let ShellEvent::PeerPacket { packet, .. } = f.next().await else {
        panic!("not a packet")
    };
    assert_eq!(packet.header.reqid, ReqId(2));
}

#[tokio::test]
async fn a_refused_connection_is_tried_again() {
    let (lanes, mut inbox) = lanes();
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let mut peers = Peers::new("127.0.0.2".parse().unwrap(), lanes);
    peers.connect(PEER, address);
    sleep(FIRST_RETRY / 2).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let _far = timeout(Duration::from_secs(60), listener.accept())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(
        inbox.next().await,
        ShellEvent::PeerConnected { .. }
    ));
}
