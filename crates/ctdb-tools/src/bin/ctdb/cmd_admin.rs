//! Orders that change the state of a node or of the cluster (`cli.md` 2.8).

use std::time::Duration;

use ctdb_client::ControlError;
use ctdb_proto::control::BanState;
use ctdb_proto::{Generation, NodeFlags, Pnn, RecMode, UNKNOWN_PNN};
use tokio::time::sleep;

use crate::arguments::number;
use crate::context::Context;
use crate::exit::{EINVAL, Failure, Outcome};
use crate::output::complain;
use crate::takeover_run::takeover_run;

/// How often a change that takes time is looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn ipreallocate(context: &mut Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    takeover_run(context).await
}

pub(crate) async fn disable(context: &mut Context) -> Outcome {
    change_flag(
        context,
        &FlagChange {
            flag: NodeFlags::PERMANENTLY_DISABLED,
            on: true,
            already: "already disabled",
            verb: "disable",
        },
    )
    .await
}

pub(crate) async fn enable(context: &mut Context) -> Outcome {
    change_flag(
        context,
        &FlagChange {
            flag: NodeFlags::PERMANENTLY_DISABLED,
            on: false,
            already: "not disabled",
            verb: "enable",
        },
    )
    .await
}

pub(crate) async fn stop(context: &mut Context) -> Outcome {
    change_flag(
        context,
        &FlagChange {
            flag: NodeFlags::STOPPED,
            on: true,
            already: "already stopped",
            verb: "stop",
        },
    )
    .await
}

pub(crate) async fn continue_node(context: &mut Context) -> Outcome {
    change_flag(
        context,
        &FlagChange {
            flag: NodeFlags::STOPPED,
            on: false,
            already: "not stopped",
            verb: "continue stopped",
        },
    )
    .await
}

pub(crate) async fn ban(context: &mut Context) -> Outcome {
    change_flag(
        context,
        &FlagChange {
            flag: NodeFlags::BANNED,
            on: true,
            already: "already banned",
            verb: "ban",
        },
    )
    .await
}

pub(crate) async fn unban(context: &mut Context) -> Outcome {
    change_flag(
        context,
        &FlagChange {
            flag: NodeFlags::BANNED,
            on: false,
            already: "not banned",
            verb: "unban",
        },
    )
    .await
}

/// A node flag that a command switches.
struct FlagChange {
    flag: NodeFlags,
    /// The state it is to have.
    on: bool,
    /// Text when it has that state already.
    already: &'static str,
    /// For the text of a failure.
    verb: &'static str,
}

/// Switches a flag of the node, waits until the cluster sees it, and has addresses moved.
async fn change_flag(context: &mut Context, change: &FlagChange) -> Outcome {
    let takes_seconds = change.flag == NodeFlags::BANNED && change.on;
    let arguments = usize::from(takes_seconds);
    context.arguments.expect_count(arguments..=arguments)?;
    let node = context.node;
    let is_known = match context.nodemap().await.map(drop) {
        Ok(()) => true,
        Err(Failure::ConnectionClosed) => return Err(Failure::ConnectionClosed),
        // The order is sent all the same.
        Err(failure) => {
            failure.report();
            false
        }
    };
    if is_known && has_flag(context, change.flag) == change.on {
        complain(&format!("Node {node} is {}", change.already));
        return Ok(0);
    }
    let seconds = if takes_seconds {
        ban_seconds(context)?
    } else {
        0
    };
    send_change(context, change, seconds)
        .await
        .map_err(|error| {
            Failure::from(error).and(format!("Failed to {} node {node}", change.verb))
        })?;
    if takes_seconds && context.target().get_tunable("EnableBans").await.ok() == Some(0) {
        // The daemon has ignored the order; the original waits for ever.
        let text = format!("Bans are disabled on node {node} (tunable EnableBans)");
        return Err(Failure::new(text));
    }
    wait_for_flag(context, change).await?;
    takeover_run(context).await
}

async fn send_change(
    context: &Context,
    change: &FlagChange,
    seconds: u32,
) -> Result<(), ControlError> {
    let target = context.target();
    match (change.flag, change.on) {
        (NodeFlags::PERMANENTLY_DISABLED, true) => target.disable_node().await,
        (NodeFlags::PERMANENTLY_DISABLED, false) => target.enable_node().await,
        (NodeFlags::STOPPED, true) => target.stop_node().await,
        (NodeFlags::STOPPED, false) => target.continue_node().await,
        _ => {
            let time = Duration::from_secs(seconds.into());
            target
                .set_ban_state(BanState {
                    pnn: context.node,
                    time,
                })
                .await
        }
    }
}

fn ban_seconds(context: &Context) -> Result<u32, Failure> {
    match number(&context.arguments.text(0).unwrap_or_default())? {
        0 => Err(Failure::with_code(EINVAL, "Ban time cannot be zero")),
        seconds => Ok(seconds),
    }
}

/// Waits without a limit of its own until the node map shows the wanted state.
async fn wait_for_flag(context: &mut Context, change: &FlagChange) -> Result<(), Failure> {
    loop {
        match context.fresh_nodemap().await.map(drop) {
            Ok(()) if has_flag(context, change.flag) == change.on => return Ok(()),
            Ok(()) => {}
            Err(Failure::ConnectionClosed) => return Err(Failure::ConnectionClosed),
            Err(failure) => failure.and("Failed to get nodemap, trying again").report(),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Whether the node the command is about has the flag in the node map that was asked for last.
fn has_flag(context: &Context, flag: NodeFlags) -> bool {
    let nodes = context.known_nodes();
    nodes
        .iter()
        .any(|node| node.pnn == context.node && node.flags.intersects(flag))
}

/// Ends the daemon of the node. The local one is waited for.
pub(crate) async fn shutdown(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let sent = async {
        context.target().shutdown().await?;
        context.client.flush().await
    };
    if sent.await.is_err() {
        return Err(Failure::new(format!(
            "Unable to shutdown node {}",
            context.node
        )));
    }
    if context.node == context.local {
        context.client.closed().await;
    }
    Ok(0)
}

/// Forces a recovery and waits for its end, which a new generation shows.
pub(crate) async fn recover(context: &mut Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let before = settled_generation(context).await?;
    let forced = context.target().set_recmode(RecMode::Active).await;
    forced.map_err(|error| Failure::from(error).and("Failed to set recovery mode active"))?;
    loop {
        let now = generation(context).await;
        if now.map_err(|failure| failure.and("Failed to confirm end of recovery"))? != before {
            return Ok(0);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The generation of the leader's vnn map while it was in no recovery, so that every recovery that
/// has its next step later shows by another one. The original asks for the generation after the
/// recovery mode: it may get that of a recovery that has begun in between, and then wait for
/// another one for ever.
async fn settled_generation(context: &mut Context) -> Result<Generation, Failure> {
    loop {
        let before = generation(context).await?;
        let leader = context.leader().await?.and_then(Pnn::new);
        if let Some(leader) = leader
            && context.at(leader).get_recmode().await.ok() == Some(RecMode::Normal)
        {
            return Ok(before);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The generation of the leader's vnn map, once it is in no recovery.
pub(crate) async fn generation(context: &mut Context) -> Result<Generation, Failure> {
    loop {
        let leader = context.leader().await?;
        let Some(leader) = leader.and_then(Pnn::new) else {
            // The original asks node UNKNOWN, which its daemon refuses.
            let line = "Control GET_RECMODE failed, ret=-1";
            let line_2 = format!("Failed to get recovery mode from node {UNKNOWN_PNN}");
            return Err(Failure::with_code(-1, line).and(line_2));
        };
        let recmode = context.at(leader).get_recmode().await.map_err(|error| {
            Failure::from(error).and(format!("Failed to get recovery mode from node {leader}"))
        })?;
        if recmode == RecMode::Normal {
            let vnnmap = context.at(leader).getvnnmap().await.map_err(|error| {
                Failure::from(error).and(format!("Failed to get generation from node {leader}"))
            })?;
            if vnnmap.generation != Generation::INVALID {
                return Ok(vnnmap.generation);
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}
