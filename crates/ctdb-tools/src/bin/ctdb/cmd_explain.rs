//! `explain`: why things are as they are, in plain words. A command of our own; the daemon's side is
//! `EXPLAIN` (`docs/explain.md`).

use ctdb_client::ControlFailure;
use ctdb_proto::control::{Explanation, Topic};
use ctdb_proto::{NodeFlags, Pnn};

use crate::arguments::number;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::explain_text::{machine_text, text};
use crate::node_flags::flag_names;
use crate::output::print;

/// Shows what a node says, and what its leader adds: why it recovered the cluster or banned a node,
/// only the leader knows.
pub(crate) async fn explain(context: &mut Context) -> Outcome {
    context.arguments.expect_count(0..=1)?;
    let node = match context.arguments.text(0) {
        Some(word) => chosen(number(&word)?)?,
        None => context.node,
    };
    let flags = flags_of(context, node).await?;
    let said = ask(context, node).await?;
    if let Some(separator) = context.separator() {
        print(&machine_text(&said, separator))?;
        return Ok(0);
    }
    let leader = said.about(Topic::LEADER).find_map(|says| says.about);
    let leaders = match leader.filter(|leader| *leader != node) {
        Some(leader) => Some((leader, ask(context, leader).await.ok())),
        None => None,
    };
    let all = context.options.verbose;
    print(&text(&said, &flags, leaders.as_ref(), all)).map(|()| 0)
}

fn chosen(number: u32) -> Result<Pnn, Failure> {
    Pnn::new(number).ok_or_else(|| Failure::new(format!("Node {number} does not exist")))
}

/// What the node map says of the node, in words; a node that cannot be reached is not asked.
async fn flags_of(context: &mut Context, pnn: Pnn) -> Result<String, Failure> {
    let nodemap = context.nodemap().await?;
    let node = nodemap.nodes.iter().find(|node| node.pnn == pnn);
    let node = node.ok_or_else(|| Failure::new(format!("Node {pnn} does not exist")))?;
    let names = flag_names(node.flags);
    if node
        .flags
        .intersects(NodeFlags::DISCONNECTED | NodeFlags::DELETED)
    {
        return Err(Failure::new(format!("Node {pnn} has status {names}")));
    }
    Ok(format!("{names} ({})", node.addr.ip()))
}

async fn ask(context: &Context, pnn: Pnn) -> Result<Explanation, Failure> {
    context.at(pnn).explain().await.map_err(|error| {
        let line = match &error.cause {
            ControlFailure::Status { .. } => {
                format!("Node {pnn} cannot explain: its ctdbd is an original one, or is gone")
            }
            ControlFailure::Decode(why) => {
                format!("Node {pnn} explains in a way that this tool does not understand: {why}")
            }
            _ => return Failure::from(error),
        };
        Failure::new(line)
    })
}
