use bytes::Bytes;
use ctdb_proto::{
    ClientId, ControlFlags, FrameReader, Generation, Header, Opcode, Padding, ReqControl, ReqId,
    ReqMessage, Srvid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::lanes::{Inbox, lanes};

const CLIENT: ClientId = ClientId(7);
const NO_LIMIT: u32 = u32::MAX;

struct Fixture {
    clients: Clients,
    inbox: Inbox,
    far: UnixStream,
}

fn fixture() -> Fixture {
    let (lanes, inbox) = lanes();
    let mut clients = Clients::new(lanes);
    let (near, far) = UnixStream::pair().unwrap();
    assert!(clients.add(CLIENT, near));
    Fixture {
        clients,
        inbox,
        far,
    }
}

impl Fixture {
    async fn next(&mut self) -> ShellEvent {
        let next = timeout(Duration::from_secs(60), self.inbox.next()).await;
        next.expect("something happens in time")
    }

    /// Request id of the next packet.
    async fn next_packet(&mut self) -> u32 {
        match self.next().await {
            ShellEvent::ClientPacket { packet, .. } => packet.header.reqid.get(),
            _ => panic!("not a packet"),
        }
    }
}

fn packet(number: u32, body: Body) -> Packet {
    let header = Header {
        generation: Generation(1),
        dest: 0,
        src: 0,
        reqid: ReqId(number),
    };
    Packet { header, body }
}

fn message(number: u32, size: usize) -> Packet {
    let data = Bytes::from(vec![1; size]);
    packet(
        number,
        Body::ReqMessage(ReqMessage {
            srvid: Srvid(9),
            data,
        }),
    )
}

fn control(number: u32) -> Packet {
    packet(
        number,
        Body::ReqControl(ReqControl {
            opcode: Opcode::PING,
            srvid: Srvid(0),
            client_id: ClientId::NONE,
            flags: ControlFlags::empty(),
            data: Bytes::new(),
        }),
    )
}

#[tokio::test]
async fn packets_of_any_length_come_in_the_order_in_which_they_were_sent() {
    let mut f = fixture();
    let mut bytes = Vec::new();
    for number in 0..10 {
        let packet = if number % 3 == 0 {
            control(number)
        } else {
            message(number, 5)
        };
        bytes.extend_from_slice(&packet.encode(Padding::Exact));
    }
    assert!(bytes.len() % 8 != 0);
    f.far.write_all(&bytes).await.unwrap();
    for number in 0..10 {
        assert_eq!(f.next_packet().await, number);
    }
}

#[tokio::test]
async fn short_and_foreign_packets_are_dropped_and_the_connection_is_kept() {
    let mut f = fixture();
    let mut foreign = message(1, 0).encode(Padding::Exact).to_vec();
    foreign[4] = b'X';
    f.far.write_all(&foreign).await.unwrap();
    f.far.write_all(&[20, 0, 0, 0]).await.unwrap();
    f.far.write_all(&[0; 16]).await.unwrap();
    let mut too_much_data = message(2, 4).encode(Padding::Exact).to_vec();
    too_much_data[40] = 200;
    f.far.write_all(&too_much_data).await.unwrap();
    f.far
        .write_all(&message(3, 0).encode(Padding::Exact))
        .await
        .unwrap();
    assert_eq!(f.next_packet().await, 3);
}

#[tokio::test]
async fn a_packet_of_length_zero_ends_the_connection() {
    let mut f = fixture();
    f.far.write_all(&[0; 4]).await.unwrap();
    assert!(matches!(
        f.next().await,
        ShellEvent::ClientLost { client: CLIENT }
    ));
    assert!(f.clients.remove(CLIENT));
    assert_eq!(f.far.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(!f.clients.remove(CLIENT));
}

#[tokio::test]
async fn what_a_client_said_last_is_heard_before_its_end() {
    let mut f = fixture();
    f.far
        .write_all(&message(1, 0).encode(Padding::Exact))
        .await
        .unwrap();
    f.far
        .write_all(&control(2).encode(Padding::Exact))
        .await
        .unwrap();
    f.far.shutdown().await.unwrap();
    assert_eq!(f.next_packet().await, 1);
    assert_eq!(f.next_packet().await, 2);
    assert!(matches!(
        f.next().await,
        ShellEvent::ClientLost { client: CLIENT }
    ));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up_when_too_many_messages_wait() {
    let mut f = fixture();
    let mut sent = 0;
    while f.clients.send(CLIENT, &message(sent, 10_000), 20).is_none() {
        assert!(f.clients.flush().is_empty());
        sent += 1;
        assert!(sent < 1000, "the limit has no effect");
    }
    // A reply is never refused.
    assert_eq!(f.clients.send(CLIENT, &control(sent), 20), None);
    // Everything up to the limit still arrives, in order.
    let mut frames = FrameReader::new(Transport::Unix);
    let mut next = 0;
    while next < sent {
        assert!(f.far.read_buf(frames.buffer()).await.unwrap() > 0);
        while let Some(frame) = frames.next_frame().unwrap() {
            assert_eq!(Packet::decode(frame).unwrap().header.reqid, ReqId(next));
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_client_that_is_gone_is_noticed_when_writing() {
    let mut f = fixture();
    drop(f.far);
    assert_eq!(f.clients.send(CLIENT, &message(0, 0), NO_LIMIT), None);
    assert_eq!(f.clients.flush(), [CLIENT]);
}

#[tokio::test]
async fn the_pid_of_a_client_is_that_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let (lanes, mut inbox) = lanes();
    tokio::spawn(accept_clients(UnixListener::bind(&path).unwrap(), lanes));
    let _client = UnixStream::connect(&path).await.unwrap();
    let event = timeout(Duration::from_secs(60), inbox.next())
        .await
        .unwrap();
    let ShellEvent::ClientAccepted { pid, .. } = event else {
        panic!("not a client")
    };
    assert_eq!(u32::try_from(pid).unwrap(), std::process::id());
}

#[tokio::test]
async fn what_waits_for_all_clients_is_bounded_too() {
    const SIZE: usize = 8 * 1024 * 1024;
    let mut f = fixture();
    let mut far = Vec::new();
    for id in 100..110 {
        let (near, end) = UnixStream::pair().unwrap();
        assert!(f.clients.add(ClientId(id), near));
        far.push(end);
    }
    // One more for the first, so that its queue is the longest.
    assert_eq!(
        f.clients.send(ClientId(100), &message(0, SIZE), NO_LIMIT),
        None
    );
    let mut clients = (100..110).map(ClientId).cycle();
    let gone = std::iter::repeat_with(|| clients.next().unwrap())
        .find_map(|id| f.clients.send(id, &message(0, SIZE), NO_LIMIT));
    assert_eq!(gone, Some(ClientId(100)));
    let waiting = f.clients.backlog.bytes();
    assert!(waiting <= BACKLOG_LIMIT + 2 * SIZE, "{waiting}");
    assert!(f.clients.remove(ClientId(100)));
    // The queue goes with the task that would have written it.
    while f.clients.backlog.bytes() > waiting - 4 * SIZE {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn room_is_reported_when_the_client_has_read() {
    let mut fixture = fixture();
    let Fixture {
        clients,
        inbox,
        far,
    } = &mut fixture;
    clients.await_room(CLIENT, Ticket(1));
    let next = timeout(Duration::from_secs(60), inbox.next()).await;
    assert!(matches!(next, Ok(ShellEvent::ClientRoom { ticket }) if ticket == Ticket(1)));

    assert_eq!(clients.send(CLIENT, &message(1, 4 * ROOM), NO_LIMIT), None);
    assert!(clients.flush().is_empty());
    clients.await_room(CLIENT, Ticket(2));
    let early = timeout(Duration::from_millis(50), inbox.next()).await;
    assert!(early.is_err(), "the client has read nothing");
    let mut bytes = vec![0; 4 * ROOM];
    far.read_exact(&mut bytes).await.unwrap();
    let next = timeout(Duration::from_secs(60), inbox.next()).await;
    assert!(matches!(next, Ok(ShellEvent::ClientRoom { ticket }) if ticket == Ticket(2)));
}

#[tokio::test]
async fn who_waits_for_room_hears_of_a_client_that_goes() {
    let mut fixture = fixture();
    let clients = &mut fixture.clients;
    assert_eq!(clients.send(CLIENT, &message(1, 4 * ROOM), NO_LIMIT), None);
    clients.await_room(CLIENT, Ticket(1));
    assert!(clients.remove(CLIENT));
    clients.await_room(CLIENT, Ticket(2));
    let mut heard = Vec::new();
    while heard.len() < 2 {
        if let ShellEvent::ClientRoom { ticket } = fixture.next().await {
            heard.push(ticket);
        }
    }
    heard.sort_unstable();
    assert_eq!(heard, [Ticket(1), Ticket(2)]);
}

/// A request of this many bytes.
fn request(number: u32, size: usize) -> Packet {
    let Body::ReqControl(request) = control(number).body else {
        unreachable!()
    };
    let data = Bytes::from(vec![0; size]);
    packet(number, Body::ReqControl(ReqControl { data, ..request }))
}

fn reply(number: u32) -> Packet {
    packet(
        number,
        Body::ReplyControl(ctdb_proto::ReplyControl::status(0)),
    )
}

/// How many packets come before nothing more does; each is checked to be the next one.
async fn come_in_order(f: &mut Fixture, from: u32) -> u32 {
    let mut next = from;
    while let Ok(event) = timeout(Duration::from_millis(300), f.inbox.next()).await {
        let ShellEvent::ClientPacket { packet, .. } = event else {
            panic!("not a packet")
        };
        assert_eq!(packet.header.reqid.get(), next);
        next += 1;
    }
    next - from
}

#[tokio::test]
async fn who_asks_too_much_at_once_is_read_from_again_when_something_is_answered() {
    const MORE: u32 = 50;
    let limit = u32::try_from(crate::unanswered::REQUEST_LIMIT).unwrap();
    let mut f = fixture();
    let (mut near, far) = UnixStream::pair().unwrap();
    std::mem::swap(&mut near, &mut f.far);
    assert!(f.clients.add(ClientId(8), far));
    let writer = tokio::spawn(async move {
        for number in 0..limit + MORE {
            let bytes = request(number, 4).encode(Padding::Client);
            near.write_all(&bytes).await.unwrap();
        }
        near
    });
    assert_eq!(come_in_order(&mut f, 0).await, limit);
    // Another client does not notice.
    let other = request(1, 4).encode(Padding::Client);
    f.far.write_all(&other).await.unwrap();
    assert!(matches!(
        f.next().await,
        ShellEvent::ClientPacket {
            client: ClientId(8),
            ..
        }
    ));
    // What is no answer changes nothing.
    f.clients.send(CLIENT, &message(0, 1), NO_LIMIT);
    f.clients.send(CLIENT, &reply(limit + 7), NO_LIMIT);
    assert_eq!(come_in_order(&mut f, limit).await, 0);
    for number in 0..MORE {
        f.clients.send(CLIENT, &reply(number), NO_LIMIT);
    }
    assert_eq!(come_in_order(&mut f, limit).await, MORE);
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn what_waits_for_answers_is_bounded_in_bytes_too() {
    const SIZE: usize = 8 * 1024 * 1024;
    let limit = u32::try_from(crate::unanswered::REQUEST_BYTES_LIMIT / SIZE).unwrap();
    let mut f = fixture();
    let (mut near, far) = UnixStream::pair().unwrap();
    std::mem::swap(&mut near, &mut f.far);
    let writer = tokio::spawn(async move {
        for number in 0..=limit {
            let bytes = request(number, SIZE).encode(Padding::Client);
            near.write_all(&bytes).await.unwrap();
        }
        near
    });
    for number in 0..limit {
        assert_eq!(f.next_packet().await, number);
    }
    assert_eq!(come_in_order(&mut f, limit).await, 0);
    f.clients.send(CLIENT, &reply(3), NO_LIMIT);
    assert_eq!(f.next_packet().await, limit);
    drop((writer.await.unwrap(), far));
}

#[tokio::test]
async fn a_client_that_goes_while_it_is_not_read_from_is_noticed() {
    let limit = u32::try_from(crate::unanswered::REQUEST_LIMIT).unwrap();
    let mut f = fixture();
    let (mut near, far) = UnixStream::pair().unwrap();
    std::mem::swap(&mut near, &mut f.far);
    let writer = tokio::spawn(async move {
        for number in 0..=limit {
            let bytes = request(number, 4).encode(Padding::Client);
            near.write_all(&bytes).await.unwrap();
        }
        near
    });
    assert_eq!(come_in_order(&mut f, 0).await, limit);
    drop(writer.await.unwrap());
    // What it has sent last is heard first.
    assert_eq!(f.next_packet().await, limit);
    assert!(matches!(
        f.next().await,
        ShellEvent::ClientLost { client: CLIENT }
    ));
    drop(far);
}
