//! Replacing all records of a database on all active nodes, by the controls of a recovery
//! (`cli.md` 2.7, wipedb and restoredb).

use ctdb_proto::control::{PullDbExt, Request, TransDb};
use ctdb_proto::{
    ControlFlags, DbId, NodeFlags, Pnn, RecBuffer, RecMode, ReplyControl, Srvid, Wire,
};

use crate::at_once::all;
use crate::cmd_admin::generation;
use crate::context::Context;
use crate::exit::{EINVAL, ENOMEM, Failure};

/// A database, and the nodes whose copies of it are replaced.
pub(crate) struct Replacement<'a> {
    context: &'a Context,
    db_id: DbId,
    transaction: TransDb,
    nodes: Vec<Pnn>,
}

impl<'a> Replacement<'a> {
    /// Finds out which nodes take part.
    pub(crate) async fn new(context: &'a mut Context, db_id: DbId) -> Result<Self, Failure> {
        let nodemap = context.nodemap().await;
        let nodemap =
            nodemap.map_err(|failure| failure.and("Failed to get nodemap").code_is(ENOMEM))?;
        let active = |flags: NodeFlags| !flags.is_inactive();
        let nodes = nodemap.nodes.iter().filter(|node| active(node.flags));
        let nodes = nodes.map(|node| node.pnn).collect();
        let tid = generation(context)
            .await
            .map_err(|failure| failure.and("Failed to get current generation"))?;
        Ok(Self {
            context,
            db_id,
            transaction: TransDb { db_id, tid },
            nodes,
        })
    }

    /// Keeps everybody else out, and empties the database.
    pub(crate) async fn begin(&self) -> Result<(), Failure> {
        self.step(&Request::DbFreeze(self.db_id)).await?;
        self.step(&Request::DbTransactionStart(self.transaction))
            .await?;
        self.step(&Request::WipeDatabase(self.transaction)).await?;
        Ok(())
    }

    /// Keeps what was done, and lets everybody in again.
    pub(crate) async fn end(&self) -> Result<(), Failure> {
        self.step(&Request::DbSetHealthy(self.db_id)).await?;
        self.step(&Request::DbTransactionCommit(self.transaction))
            .await?;
        self.step(&Request::DbThaw(self.db_id)).await?;
        Ok(())
    }

    /// Has the nodes wait for records.
    pub(crate) async fn start_push(&self) -> Result<(), Failure> {
        let push = PullDbExt {
            db_id: self.db_id,
            lmaster: 0,
            srvid: Srvid::RESTORE,
        };
        self.step(&Request::DbPushStart(push)).await.map(drop)
    }

    /// Sends records to all nodes; none of them answers yet.
    pub(crate) async fn push(&self, records: &RecBuffer) -> Result<(), Failure> {
        let data = records.to_bytes();
        for pnn in &self.nodes {
            let client = &self.context.client;
            client
                .send_message((*pnn).into(), Srvid::RESTORE, data.clone())
                .await?;
        }
        Ok(())
    }

    /// Asks the nodes whether all records have arrived.
    pub(crate) async fn confirm_push(&self, records: u64) -> Result<(), Failure> {
        let replies = self.step(&Request::DbPushConfirm(self.db_id)).await?;
        for (pnn, mut reply) in self.nodes.iter().zip(replies) {
            let received = u32::decode(&mut reply.data).map_err(|_| {
                let line = format!("Invalid response from node {pnn}");
                Failure::with_code(EINVAL, line)
            })?;
            if u64::from(received) != records {
                let line = format!("Node {pnn} received {received} of {records} records");
                return Err(Failure::with_code(EINVAL, line));
            }
        }
        Ok(())
    }

    /// Has a recovery repair what a failed step left behind.
    pub(crate) async fn or_recover(&self, result: Result<(), Failure>) -> Result<(), Failure> {
        if result.is_err() {
            // Nothing more can be done about it here.
            let _ = self.context.here().set_recmode(RecMode::Active).await;
        }
        result
    }

    /// Sends a control to all nodes at once. The code of a failure is that of the first node that
    /// has one; nothing is printed.
    async fn step(&self, request: &Request) -> Result<Vec<ReplyControl>, Failure> {
        let asked = self.nodes.iter().map(|pnn| self.ask(*pnn, request));
        all(asked).await.into_iter().collect()
    }

    async fn ask(&self, pnn: Pnn, request: &Request) -> Result<ReplyControl, Failure> {
        let control = request.to_control(ControlFlags::empty());
        let (client, limit) = (&self.context.client, self.context.limit());
        let reply = client.raw_control(pnn.into(), control, Some(limit)).await;
        match reply.map_err(|error| Failure::silent(error.code()))? {
            reply if reply.status == 0 => Ok(reply),
            reply => Err(Failure::silent(reply.status)),
        }
    }
}
