//! What an administrator does with `ctdb`, on the node itself.

use std::time::Duration;

use ctdb_proto::control::Request;
use ctdb_proto::{
    BanState, Body, CURRENT_NODE, ControlFlags, Generation, Header, Packet, Pnn, ReqId,
};

use crate::observed::Observed;
use crate::world::World;

/// Gives an order to the daemon of a node, unless it is down or stands still.
pub fn order(node: Pnn, request: &Request, world: &mut World) {
    obeyed(node, request, world);
}

/// Whether the daemon has done at once what it was told.
fn obeyed(node: Pnn, request: &Request, world: &mut World) -> bool {
    if world.is_paused(node) {
        return false;
    }
    let Some(client) = world.connect_client(node, 1) else {
        return false;
    };
    world.note(format!("ctdb -n {node}: {}", request.opcode()));
    let header = Header {
        generation: Generation(0),
        dest: CURRENT_NODE,
        src: 0,
        reqid: ReqId(1),
    };
    let body = Body::ReqControl(request.to_control(ControlFlags::empty()));
    world.client_sends(node, client, Packet { header, body });
    let done = |packet: &Packet| matches!(&packet.body, Body::ReplyControl(r) if r.status == 0);
    let obeyed = world.inbox(node, client).iter().any(done);
    world.disconnect_client(node, client);
    obeyed
}

/// Bans a node; no time ends the ban.
pub fn ban(node: Pnn, time: Duration, world: &mut World) {
    let time = Duration::from_secs(time.as_secs());
    let banned = obeyed(
        node,
        &Request::SetBanState(BanState { pnn: node, time }),
        world,
    );
    if banned {
        let until = (!time.is_zero()).then(|| world.elapsed() + time);
        world.observe(Observed::Banned { node, until });
    }
}
