//! Controls with typed arguments and results, sent to one node.
//!
//! Every method is one control; its name is that of the control. What the control means and which
//! statuses it has, `wire.md` 5 tells. Controls whose result is their status give that number.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ctdb_proto::control::{
    BanState, DbidMap, Explanation, GetTunable, Iface, IfaceList, KeyData, NodeMap, PidSrvid,
    PublicIpInfo, PublicIpList, SeqnumDb, SetTunable, TraverseStartExt, TunableList, TunableNames,
    Uptime,
};
use ctdb_proto::{
    Capabilities, ControlFlags, DbFlags, DbId, DbStatistics, DecodeError, Dest, Opcode, RecMode,
    ReqControl, RunState, SockAddr, Srvid, Statistics, StatisticsList, TdbOpenFlags, VnnMap, Wire,
};

use crate::client::Client;
use crate::control::{expect_zero, request};
use crate::error::{Closed, ControlError, ControlFailure};

/// A node that controls are sent to, and how long to wait for each answer.
#[derive(Clone, Copy, Debug)]
pub struct NodeHandle<'a> {
    client: &'a Client,
    dest: Dest,
    limit: Option<Duration>,
}

type Result<T, E = ControlError> = std::result::Result<T, E>;

impl Client {
    /// A node for controls: `Dest::Node` or `Dest::Current`. Without a limit its controls wait
    /// until the connection ends.
    pub fn node(&self, dest: impl Into<Dest>, limit: Option<Duration>) -> NodeHandle<'_> {
        NodeHandle {
            client: self,
            dest: dest.into(),
            limit,
        }
    }
}

/// Identity and state of the node.
impl NodeHandle<'_> {
    /// Number of the node; asked of `Dest::Current` it is that of the daemon connected to.
    pub async fn get_pnn(&self) -> Result<u32> {
        self.value(Opcode::GET_PNN).await
    }

    /// Process id of the daemon.
    pub async fn get_pid(&self) -> Result<u32> {
        self.value(Opcode::GET_PID).await
    }

    /// Number of clients of the daemon.
    pub async fn ping(&self) -> Result<u32> {
        self.value(Opcode::PING).await
    }

    /// Whether a client of the daemon has this pid and runs: the status itself, 0 or -1.
    pub async fn process_exists(&self, pid: i32) -> Result<i32> {
        Ok(self.send(Opcode::PROCESS_EXISTS, &pid).await?.0)
    }

    /// Whether a client with this pid has registered this srvid: the status itself, 0 or -1.
    pub async fn check_pid_srvid(&self, pid: i32, srvid: Srvid) -> Result<i32> {
        Ok(self
            .send(Opcode::CHECK_PID_SRVID, &PidSrvid { pid, srvid })
            .await?
            .0)
    }

    pub async fn get_nodemap(&self) -> Result<NodeMap> {
        self.ask(Opcode::GET_NODEMAP).await
    }

    /// Why things are as they are. Only daemons of this implementation know.
    pub async fn explain(&self) -> Result<Explanation> {
        self.ask(Opcode::EXPLAIN).await
    }

    /// The nodes list as the node reads it now, which need not be the one in force.
    pub async fn get_nodes_file(&self) -> Result<NodeMap> {
        self.ask(Opcode::GET_NODES_FILE).await
    }

    /// Puts the nodes list, read again, into force.
    pub async fn reload_nodes_file(&self) -> Result<()> {
        self.tell(Opcode::RELOAD_NODES_FILE, &NoData).await
    }

    pub async fn getvnnmap(&self) -> Result<VnnMap> {
        self.ask(Opcode::GETVNNMAP).await
    }

    /// The recovery mode. A value other than 0 counts as active.
    pub async fn get_recmode(&self) -> Result<RecMode> {
        Ok(RecMode::from_raw(self.value(Opcode::GET_RECMODE).await?).unwrap_or(RecMode::Active))
    }

    pub async fn set_recmode(&self, mode: RecMode) -> Result<()> {
        self.tell(Opcode::SET_RECMODE, &mode.raw()).await
    }

    pub async fn get_runstate(&self) -> Result<RunState> {
        self.ask(Opcode::GET_RUNSTATE).await
    }

    pub async fn get_capabilities(&self) -> Result<Capabilities> {
        self.ask(Opcode::GET_CAPABILITIES).await
    }

    pub async fn uptime(&self) -> Result<Uptime> {
        self.ask(Opcode::UPTIME).await
    }

    /// The cluster lock as configured, if there is one.
    pub async fn get_reclock_file(&self) -> Result<Option<String>> {
        self.ask_text(Opcode::GET_RECLOCK_FILE, &NoData).await
    }

    /// The log level, as its number.
    pub async fn get_debug(&self) -> Result<i32> {
        self.ask(Opcode::GET_DEBUG).await
    }

    pub async fn set_debug(&self, level: i32) -> Result<()> {
        self.tell(Opcode::SET_DEBUG, &level).await
    }

    pub async fn statistics(&self) -> Result<Statistics> {
        self.ask(Opcode::STATISTICS).await
    }

    /// Statistics of the past, newest first.
    pub async fn get_stat_history(&self) -> Result<StatisticsList> {
        self.ask(Opcode::GET_STAT_HISTORY).await
    }

    /// Sets all counters to zero, those of the databases too.
    pub async fn statistics_reset(&self) -> Result<()> {
        self.tell(Opcode::STATISTICS_RESET, &NoData).await
    }
}

/// Orders to the node.
impl NodeHandle<'_> {
    pub async fn disable_node(&self) -> Result<()> {
        self.tell(Opcode::DISABLE_NODE, &NoData).await
    }

    pub async fn enable_node(&self) -> Result<()> {
        self.tell(Opcode::ENABLE_NODE, &NoData).await
    }

    pub async fn stop_node(&self) -> Result<()> {
        self.tell(Opcode::STOP_NODE, &NoData).await
    }

    pub async fn continue_node(&self) -> Result<()> {
        self.tell(Opcode::CONTINUE_NODE, &NoData).await
    }

    /// Bans a node; a time of zero ends the ban. The node must be the one this is sent to.
    pub async fn set_ban_state(&self, state: BanState) -> Result<()> {
        self.tell(Opcode::SET_BAN_STATE, &state).await
    }

    /// Whether the node may become leader.
    pub async fn set_leader_role(&self, on: bool) -> Result<()> {
        self.tell(Opcode::SET_RECMASTERROLE, &u32::from(on)).await
    }

    /// Whether the node may be lmaster of records.
    pub async fn set_lmaster_role(&self, on: bool) -> Result<()> {
        self.tell(Opcode::SET_LMASTERROLE, &u32::from(on)).await
    }

    /// Ends the daemon. It does not answer.
    pub async fn shutdown(&self) -> Result<(), Closed> {
        self.client
            .order(self.dest, request(Opcode::SHUTDOWN))
            .await
    }
}

/// Tunables.
impl NodeHandle<'_> {
    /// Names of all tunables that are not obsolete.
    pub async fn list_tunables(&self) -> Result<Vec<String>> {
        Ok(self.ask::<TunableNames>(Opcode::LIST_TUNABLES).await?.names)
    }

    pub async fn get_tunable(&self, name: &str) -> Result<u32> {
        let question = GetTunable {
            name: name.to_owned(),
        };
        self.ask_about(Opcode::GET_TUNABLE, &question).await
    }

    /// All values, obsolete ones included, in wire order.
    pub async fn get_all_tunables(&self) -> Result<TunableList> {
        self.ask(Opcode::GET_ALL_TUNABLES).await
    }

    /// Sets a tunable; true when it is obsolete and has no effect.
    pub async fn set_tunable(&self, name: &str, value: u32) -> Result<bool> {
        let order = SetTunable {
            value,
            name: name.to_owned(),
        };
        match self.send(Opcode::SET_TUNABLE, &order).await? {
            (1, _) => Ok(true),
            (0, _) => Ok(false),
            (status, _) => Err(self.refused(Opcode::SET_TUNABLE, status)),
        }
    }
}

/// Databases.
impl NodeHandle<'_> {
    pub async fn get_dbmap(&self) -> Result<DbidMap> {
        self.ask(Opcode::GET_DBMAP).await
    }

    pub async fn get_dbname(&self, db_id: DbId) -> Result<String> {
        Ok(self
            .ask_text(Opcode::GET_DBNAME, &db_id)
            .await?
            .unwrap_or_default())
    }

    /// What takes memory in the daemon, for people to read.
    pub async fn dump_memory(&self) -> Result<Bytes> {
        self.success(request(Opcode::DUMP_MEMORY)).await
    }

    /// Path of the node's own TDB file.
    pub async fn getdbpath(&self, db_id: DbId) -> Result<String> {
        Ok(self
            .ask_text(Opcode::GETDBPATH, &db_id)
            .await?
            .unwrap_or_default())
    }

    /// Why the database is unhealthy; `None` when it is not.
    pub async fn db_get_health(&self, db_id: DbId) -> Result<Option<String>> {
        self.ask_text(Opcode::DB_GET_HEALTH, &db_id).await
    }

    /// The sequence number of the database.
    pub async fn get_db_seqnum(&self, db_id: DbId) -> Result<u64> {
        self.ask_about(Opcode::GET_DB_SEQNUM, &SeqnumDb { db_id })
            .await
    }

    /// How the node has opened the TDB file; a client opens it alike.
    pub async fn db_open_flags(&self, db_id: DbId) -> Result<TdbOpenFlags> {
        self.ask_about(Opcode::DB_OPEN_FLAGS, &db_id).await
    }

    pub async fn get_db_statistics(&self, db_id: DbId) -> Result<DbStatistics> {
        self.ask_about(Opcode::GET_DB_STATISTICS, &db_id).await
    }

    /// Attaches a database by the control that fits its kind, see [`attach_opcode`].
    pub async fn db_attach(&self, name: &str, kind: DbFlags) -> Result<DbId> {
        let opcode = attach_opcode(kind);
        let mut data = BytesMut::with_capacity(name.len() + 1);
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&[0]);
        let reply = self
            .success(ReqControl {
                data: data.freeze(),
                ..request(opcode)
            })
            .await?;
        self.decode(opcode, reply)
    }

    /// Whether read-only copies of records may be handed out.
    pub async fn set_db_readonly(&self, db_id: DbId) -> Result<()> {
        self.tell(Opcode::SET_DB_READONLY, &db_id).await
    }

    pub async fn set_db_sticky(&self, db_id: DbId) -> Result<()> {
        self.tell(Opcode::SET_DB_STICKY, &db_id).await
    }

    /// Has an empty record deleted on all nodes in time.
    pub async fn schedule_for_deletion(&self, record: &KeyData) -> Result<()> {
        self.tell(Opcode::SCHEDULE_FOR_DELETION, record).await
    }

    /// Starts sending all records of a database to a srvid of this client.
    pub async fn traverse_start_ext(&self, traverse: &TraverseStartExt) -> Result<()> {
        self.tell(Opcode::TRAVERSE_START_EXT, traverse).await
    }
}

/// Public addresses and interfaces.
impl NodeHandle<'_> {
    /// The public addresses that the node knows; `only_available` leaves out those that it cannot
    /// host now.
    pub async fn get_public_ips(&self, only_available: bool) -> Result<PublicIpList> {
        let mut question = request(Opcode::GET_PUBLIC_IPS);
        question
            .flags
            .set(ControlFlags::ONLY_AVAILABLE, only_available);
        let reply = self.success(question).await?;
        self.decode(Opcode::GET_PUBLIC_IPS, reply)
    }

    pub async fn get_public_ip_info(&self, address: SockAddr) -> Result<PublicIpInfo> {
        self.ask_about(Opcode::GET_PUBLIC_IP_INFO, &address).await
    }

    pub async fn get_ifaces(&self) -> Result<IfaceList> {
        self.ask(Opcode::GET_IFACES).await
    }

    /// Sets the link state of an interface. Its number of references must be 0.
    pub async fn set_iface_link_state(&self, iface: &Iface) -> Result<()> {
        self.tell(Opcode::SET_IFACE_LINK_STATE, iface).await
    }
}

/// The control that attaches a database of this kind.
pub fn attach_opcode(kind: DbFlags) -> Opcode {
    if kind.contains(DbFlags::PERSISTENT) {
        Opcode::DB_ATTACH_PERSISTENT
    } else if kind.contains(DbFlags::REPLICATED) {
        Opcode::DB_ATTACH_REPLICATED
    } else {
        Opcode::DB_ATTACH
    }
}

/// The steps that all controls share.
impl NodeHandle<'_> {
    /// Sends a control and gives the status and data of its reply.
    async fn send(&self, opcode: Opcode, data: &impl Payload) -> Result<(i32, Bytes)> {
        let request = ReqControl {
            data: data.to_bytes(),
            ..request(opcode)
        };
        let reply = self
            .client
            .raw_control(self.dest, request, self.limit)
            .await?;
        Ok((reply.status, reply.data))
    }

    /// Sends a control and expects status 0.
    async fn success(&self, request: ReqControl) -> Result<Bytes> {
        let opcode = request.opcode;
        let reply = self
            .client
            .raw_control(self.dest, request, self.limit)
            .await?;
        Ok(expect_zero(opcode, self.dest, reply)?.data)
    }

    async fn tell(&self, opcode: Opcode, data: &impl Payload) -> Result<()> {
        self.success(ReqControl {
            data: data.to_bytes(),
            ..request(opcode)
        })
        .await
        .map(drop)
    }

    async fn ask<T: Wire>(&self, opcode: Opcode) -> Result<T> {
        self.ask_about(opcode, &NoData).await
    }

    async fn ask_about<T: Wire>(&self, opcode: Opcode, data: &impl Payload) -> Result<T> {
        let reply = self
            .success(ReqControl {
                data: data.to_bytes(),
                ..request(opcode)
            })
            .await?;
        self.decode(opcode, reply)
    }

    /// A text up to its NUL; `None` for an empty reply.
    async fn ask_text(&self, opcode: Opcode, data: &impl Payload) -> Result<Option<String>> {
        let reply = self
            .success(ReqControl {
                data: data.to_bytes(),
                ..request(opcode)
            })
            .await?;
        let text = reply.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok((!reply.is_empty()).then(|| String::from_utf8_lossy(text).into_owned()))
    }

    /// A control whose result is its status; a negative one is a failure.
    async fn value(&self, opcode: Opcode) -> Result<u32> {
        let (status, _) = self.send(opcode, &NoData).await?;
        u32::try_from(status).map_err(|_| self.refused(opcode, status))
    }

    fn refused(&self, opcode: Opcode, status: i32) -> ControlError {
        let cause = ControlFailure::Status {
            status,
            text: String::new(),
        };
        ControlError {
            opcode,
            dest: self.dest,
            cause,
        }
    }

    /// Bytes behind the value are ignored: a newer daemon may send more.
    fn decode<T: Wire>(&self, opcode: Opcode, mut data: Bytes) -> Result<T> {
        T::decode(&mut data).map_err(|error: DecodeError| ControlError {
            opcode,
            dest: self.dest,
            cause: ControlFailure::Decode(error),
        })
    }
}

/// What a control carries: a structure of the wire, or nothing.
trait Payload {
    fn to_bytes(&self) -> Bytes;
}

/// A control that carries nothing.
struct NoData;

impl Payload for NoData {
    fn to_bytes(&self) -> Bytes {
        Bytes::new()
    }
}

impl<T: Wire> Payload for T {
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }
}
