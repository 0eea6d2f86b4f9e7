//! The tasks that own the two halves of the socket.

use std::sync::Arc;

use bytes::Bytes;
use ctdb_proto::{Body, FrameReader, Packet, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::client::{Outgoing, Shared};

/// Reads packets and hands them out until the connection ends, then ends all that wait for it.
pub(crate) async fn read(mut socket: OwnedReadHalf, shared: Arc<Shared>) {
    let mut frames = FrameReader::new(Transport::Unix);
    while let Ok(1..) = socket.read_buf(frames.buffer()).await {
        if !hand_out_all(&mut frames, &shared).await {
            break;
        }
    }
    shared.close();
}

/// Hands out all packets that are complete. False after a fatal framing error.
async fn hand_out_all(frames: &mut FrameReader, shared: &Shared) -> bool {
    loop {
        match frames.next_frame() {
            Ok(Some(frame)) => hand_out(frame, shared).await,
            Ok(None) => return true,
            Err(error) if error.is_fatal(Transport::Unix) => return false,
            // The packet has been dropped; the next one may be good.
            Err(_) => {}
        }
    }
}

/// Packets that nobody waits for, or that cannot be read, are dropped, as by the original client.
async fn hand_out(frame: Bytes, shared: &Shared) {
    let Ok(packet) = Packet::decode(frame) else {
        return;
    };
    match packet.body {
        Body::ReqMessage(message) => shared.routes.deliver(packet.header, message).await,
        body @ (Body::ReplyControl(_) | Body::ReplyCall(_) | Body::ReplyError(_)) => {
            shared.answer(packet.header.reqid, body);
        }
        Body::ReqTunnel(packet) => shared.tunnels.deliver(packet).await,
        _ => {}
    }
}

/// Writes packets in the order in which they were queued. A packet is always written whole, even
/// when the request it belongs to has been given up.
pub(crate) async fn write(
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
) {
    while let Some(outgoing) = queue.recv().await {
        match outgoing {
            Outgoing::Packet(packet) => {
                if socket.write_all(&packet).await.is_err() {
                    shared.close();
                    return;
                }
            }
            // Whoever asked may have given up.
            Outgoing::Flush(done) => drop(done.send(())),
        }
    }
}
