//! The requests of all controls (`wire.md 5`), and what their payloads must look like
//! (`wire.md 8.3`).
//!
//! The tables at the end of the file group the controls by the shape of their argument. A payload
//! that breaks a rule is refused as a whole; what depends on the state of the daemon (is this
//! database known, is that node this node) is not decided here.

use bytes::{Bytes, BytesMut};

use super::{
    AddrInfo, BanState, Connection, ControlDecodeError, ControlFlags, DbVacuum, EchoData,
    GetTunable, Iface, KeyData, NodeFlagChange, NotifyData, PidSrvid, PublicIp, PullDbExt,
    ReqControl, SeqnumDb, SetTunable, TickleList, TransDb, TraverseAll, TraverseAllExt,
    TraverseStart, TraverseStartExt,
};
use crate::text::{decode_cstr, encode_cstr};
use crate::wire::expect_end;
use crate::{
    ClientId, DbId, DecodeError, Opcode, RecBuffer, RecData, RecMode, RecordHeader, SockAddr,
    Srvid, VnnMap, Wire,
};

/// Builds the enum of requests and its codec from the tables below.
macro_rules! requests {
    (
        no_argument { $($none_op:ident => $none:ident,)* }
        argument_ignored { $($ignored_op:ident => $ignored:ident,)* }
        srvid { $($srvid_op:ident => $srvid:ident,)* }
        database_name { $($name_op:ident => $name:ident,)* }
        role { $($role_op:ident => $role:ident,)* }
        data { $($data_op:ident => $data:ident($type:ty) by $decode:ident,)* }
    ) => {
        /// A question or an order to a daemon, named as in `wire.md 5`.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request {
            $($none,)*
            $($ignored,)*
            $($srvid(Srvid),)*
            $($name(String),)*
            $($role(bool),)*
            $($data($type),)*
        }

        impl Request {
            /// Decodes the argument of a control.
            ///
            /// Padding may hold anything. Data of controls without an argument must be empty,
            /// except for a few that never looked at it.
            pub fn decode(
                opcode: Opcode,
                srvid: Srvid,
                data: Bytes,
            ) -> Result<Self, ControlDecodeError> {
                Ok(match opcode {
                    $(Opcode::$none_op => {
                        no_argument(opcode, &data)?;
                        Self::$none
                    })*
                    $(Opcode::$ignored_op => Self::$ignored,)*
                    $(Opcode::$srvid_op => Self::$srvid(srvid),)*
                    $(Opcode::$name_op => Self::$name(database_name(opcode, &data)?),)*
                    $(Opcode::$role_op => Self::$role(fixed::<u32>(opcode, data)? != 0),)*
                    $(Opcode::$data_op => Self::$data($decode(opcode, data)?),)*
                    _ => return Err(not_served(opcode)),
                })
            }

            /// Which control this is.
            pub const fn opcode(&self) -> Opcode {
                match self {
                    $(Self::$none => Opcode::$none_op,)*
                    $(Self::$ignored => Opcode::$ignored_op,)*
                    $(Self::$srvid(_) => Opcode::$srvid_op,)*
                    $(Self::$name(_) => Opcode::$name_op,)*
                    $(Self::$role(_) => Opcode::$role_op,)*
                    $(Self::$data(_) => Opcode::$data_op,)*
                }
            }

            /// The three fields of a packet that say which control this is, and its argument.
            pub fn encode(&self) -> (Opcode, Srvid, Bytes) {
                let mut out = BytesMut::new();
                let mut srvid_field = Srvid(0);
                match self {
                    $(Self::$none)|* => {}
                    $(Self::$ignored)|* => {}
                    $(Self::$srvid(srvid))|* => srvid_field = *srvid,
                    $(Self::$name(name))|* => encode_cstr(name, &mut out),
                    $(Self::$role(role))|* => u32::from(*role).encode(&mut out),
                    $(Self::$data(argument) => argument.encode(&mut out),)*
                }
                (self.opcode(), srvid_field, out.freeze())
            }
        }
    };
}

impl Request {
    /// Decodes the request of a packet.
    pub fn from_control(control: &ReqControl) -> Result<Self, ControlDecodeError> {
        Self::decode(control.opcode, control.srvid, control.data.clone())
    }

    /// The body of a packet with this request, without a client.
    pub fn to_control(&self, flags: ControlFlags) -> ReqControl {
        let (opcode, srvid, data) = self.encode();
        ReqControl {
            opcode,
            srvid,
            client_id: ClientId::NONE,
            flags,
            data,
        }
    }
}

fn not_served(opcode: Opcode) -> ControlDecodeError {
    match opcode.obsolete() {
        Some(old) => ControlDecodeError::Obsolete {
            opcode,
            name: old.logged_as,
            use_instead: old.use_instead,
        },
        None => ControlDecodeError::Unknown { opcode },
    }
}

fn malformed(opcode: Opcode) -> impl Fn(DecodeError) -> ControlDecodeError {
    move |error| ControlDecodeError::Malformed { opcode, error }
}

fn no_argument(opcode: Opcode, data: &Bytes) -> Result<(), ControlDecodeError> {
    match data.len() {
        0 => Ok(()),
        got => Err(ControlDecodeError::BadSize {
            opcode,
            got,
            expected: 0,
        }),
    }
}

/// An argument of one size.
fn fixed<T: Wire>(opcode: Opcode, data: Bytes) -> Result<T, ControlDecodeError> {
    let (got, expected) = (data.len(), T::MIN_LEN);
    if got == expected {
        tail(opcode, data)
    } else {
        Err(ControlDecodeError::BadSize {
            opcode,
            got,
            expected,
        })
    }
}

/// An argument with a length inside, which must reach to the end of the data.
fn exact<T: Wire>(opcode: Opcode, mut data: Bytes) -> Result<T, ControlDecodeError> {
    let value = at_least(opcode, &mut data)?;
    expect_end(&data).map_err(malformed(opcode))?;
    Ok(value)
}

/// An argument with a length or a count inside; nobody ever looked at what follows it.
fn tail<T: Wire>(opcode: Opcode, mut data: Bytes) -> Result<T, ControlDecodeError> {
    at_least(opcode, &mut data)
}

fn at_least<T: Wire>(opcode: Opcode, data: &mut Bytes) -> Result<T, ControlDecodeError> {
    let (got, expected) = (data.len(), T::MIN_LEN);
    if got < expected {
        return Err(ControlDecodeError::BadSize {
            opcode,
            got,
            expected,
        });
    }
    T::decode(data).map_err(malformed(opcode))
}

/// A C string that can be the name of a file.
fn database_name(opcode: Opcode, data: &Bytes) -> Result<String, ControlDecodeError> {
    let field = "name of the database";
    let check = || {
        let name = decode_cstr(data, field)?;
        if name.is_empty() {
            return Err(DecodeError::Empty { field });
        }
        if name.contains('/') {
            return Err(DecodeError::BadValue {
                field,
                value: u64::from(b'/'),
            });
        }
        Ok(name)
    };
    check().map_err(malformed(opcode))
}

/// Without nodes there would be no lmaster.
fn vnn_map(opcode: Opcode, data: Bytes) -> Result<VnnMap, ControlDecodeError> {
    let vnn_map: VnnMap = tail(opcode, data)?;
    if vnn_map.map.is_empty() {
        return Err(malformed(opcode)(DecodeError::Empty { field: "vnn map" }));
    }
    Ok(vnn_map)
}

/// Each record with its header.
fn records(opcode: Opcode, data: Bytes) -> Result<RecBuffer, ControlDecodeError> {
    let records: RecBuffer = tail(opcode, data)?;
    records.check_headers().map_err(malformed(opcode))?;
    Ok(records)
}

/// Each record with its header, and nothing else.
fn headers(opcode: Opcode, data: Bytes) -> Result<RecBuffer, ControlDecodeError> {
    let headers = records(opcode, data)?;
    match headers
        .iter()
        .find(|record| record.data.len() != RecordHeader::LEN)
    {
        None => Ok(headers),
        Some(record) => {
            let extra = record.data.len() - RecordHeader::LEN;
            Err(malformed(opcode)(DecodeError::TooLong { extra }))
        }
    }
}

/// The name must leave the rest of its field empty, and references are not for the caller.
fn iface(opcode: Opcode, data: Bytes) -> Result<Iface, ControlDecodeError> {
    let iface: Iface = fixed(opcode, data)?;
    let bad = |field, value| Err(malformed(opcode)(DecodeError::BadValue { field, value }));
    if iface.name.len() > 16 {
        return bad("length of the interface name", iface.name.len() as u64);
    }
    if iface.references != 0 {
        return bad("references", iface.references.into());
    }
    Ok(iface)
}

requests! {
    // The data must be empty.
    no_argument {
        STATISTICS => Statistics,
        PING => Ping,
        GETVNNMAP => GetVnnMap,
        GET_DEBUG => GetDebug,
        GET_DBMAP => GetDbMap,
        STATISTICS_RESET => StatisticsReset,
        DUMP_MEMORY => DumpMemory,
        FREEZE => Freeze,
        STARTUP => Startup,
        GET_ALL_TUNABLES => GetAllTunables,
        RELOAD_NODES_FILE => ReloadNodesFile,
        RECD_PING => RecdPing,
        GET_PUBLIC_IPS => GetPublicIps,
        GET_NODEMAP => GetNodeMap,
        GET_RECLOCK_FILE => GetReclockFile,
        STOP_NODE => StopNode,
        CONTINUE_NODE => ContinueNode,
        GET_BAN_STATE => GetBanState,
        GET_IFACES => GetIfaces,
        GET_STAT_HISTORY => GetStatHistory,
        RELOAD_PUBLIC_IPS => ReloadPublicIps,
        IPREALLOCATED => IpReallocated,
        GET_RUNSTATE => GetRunState,
        GET_NODES_FILE => GetNodesFile,
        DISABLE_NODE => DisableNode,
        ENABLE_NODE => EnableNode,
        START_IPREALLOCATE => StartIpReallocate,
        EXPLAIN => Explain,
    }
    // Whatever the data is, nobody ever looked at it.
    argument_ignored {
        GET_RECMODE => GetRecMode,
        GET_PID => GetPid,
        GET_PNN => GetPnn,
        SHUTDOWN => Shutdown,
        LIST_TUNABLES => ListTunables,
        UPTIME => Uptime,
        START_RECOVERY => StartRecovery,
        END_RECOVERY => EndRecovery,
        GET_CAPABILITIES => GetCapabilities,
        START_PERSISTENT_UPDATE => StartPersistentUpdate,
        CANCEL_PERSISTENT_UPDATE => CancelPersistentUpdate,
    }
    // The argument is the `srvid` field of the packet; the data is ignored.
    srvid {
        REGISTER_SRVID => RegisterSrvid,
        DEREGISTER_SRVID => DeregisterSrvid,
        TUNNEL_REGISTER => TunnelRegister,
        TUNNEL_DEREGISTER => TunnelDeregister,
    }
    database_name {
        DB_ATTACH => DbAttach,
        DB_ATTACH_PERSISTENT => DbAttachPersistent,
        DB_ATTACH_REPLICATED => DbAttachReplicated,
    }
    // A u32: 0 takes the role away, any other number gives it.
    role {
        SET_LMASTERROLE => SetLmasterRole,
        SET_RECMASTERROLE => SetRecmasterRole,
    }
    data {
        PROCESS_EXISTS => ProcessExists(i32) by fixed,
        GETDBPATH => GetDbPath(DbId) by fixed,
        SETVNNMAP => SetVnnMap(VnnMap) by vnn_map,
        SET_DEBUG => SetDebug(i32) by fixed,
        SET_RECMODE => SetRecMode(RecMode) by fixed,
        TRAVERSE_START => TraverseStart(TraverseStart) by fixed,
        TRAVERSE_ALL => TraverseAll(TraverseAll) by fixed,
        TRAVERSE_DATA => TraverseData(RecData) by exact,
        GET_DBNAME => GetDbName(DbId) by fixed,
        ENABLE_SEQNUM => EnableSeqnum(DbId) by fixed,
        UPDATE_SEQNUM => UpdateSeqnum(DbId) by fixed,
        TCP_CLIENT => TcpClient(Connection) by fixed,
        TCP_ADD => TcpAdd(Connection) by fixed,
        TCP_REMOVE => TcpRemove(Connection) by fixed,
        SET_TUNABLE => SetTunable(SetTunable) by tail,
        GET_TUNABLE => GetTunable(GetTunable) by tail,
        MODIFY_FLAGS => ModifyFlags(NodeFlagChange) by fixed,
        GET_TCP_TICKLE_LIST => GetTcpTickleList(SockAddr) by fixed,
        SET_TCP_TICKLE_LIST => SetTcpTickleList(TickleList) by tail,
        UPDATE_RECORD => UpdateRecord(RecBuffer) by records,
        SEND_GRATUITOUS_ARP => SendGratuitousArp(AddrInfo) by exact,
        WIPE_DATABASE => WipeDatabase(TransDb) by fixed,
        TRY_DELETE_RECORDS => TryDeleteRecords(RecBuffer) by headers,
        ADD_PUBLIC_IP => AddPublicIp(AddrInfo) by exact,
        DEL_PUBLIC_IP => DelPublicIp(AddrInfo) by exact,
        RELEASE_IP => ReleaseIp(PublicIp) by fixed,
        TAKEOVER_IP => TakeoverIp(PublicIp) by fixed,
        TRAVERSE_KILL => TraverseKill(TraverseStart) by fixed,
        RECD_RECLOCK_LATENCY => RecdReclockLatency(f64) by fixed,
        SET_BAN_STATE => SetBanState(BanState) by fixed,
        REGISTER_NOTIFY => RegisterNotify(NotifyData) by exact,
        DEREGISTER_NOTIFY => DeregisterNotify(Srvid) by fixed,
        TRANS3_COMMIT => Trans3Commit(RecBuffer) by records,
        GET_DB_SEQNUM => GetDbSeqnum(SeqnumDb) by fixed,
        DB_SET_HEALTHY => DbSetHealthy(DbId) by fixed,
        DB_GET_HEALTH => DbGetHealth(DbId) by fixed,
        GET_PUBLIC_IP_INFO => GetPublicIpInfo(SockAddr) by fixed,
        SET_IFACE_LINK_STATE => SetIfaceLinkState(Iface) by iface,
        TCP_ADD_DELAYED_UPDATE => TcpAddDelayedUpdate(Connection) by fixed,
        SCHEDULE_FOR_DELETION => ScheduleForDeletion(KeyData) by exact,
        SET_DB_READONLY => SetDbReadonly(DbId) by fixed,
        TRAVERSE_START_EXT => TraverseStartExt(TraverseStartExt) by fixed,
        GET_DB_STATISTICS => GetDbStatistics(DbId) by fixed,
        SET_DB_STICKY => SetDbSticky(DbId) by fixed,
        TRAVERSE_ALL_EXT => TraverseAllExt(TraverseAllExt) by fixed,
        DB_DETACH => DbDetach(DbId) by fixed,
        DB_FREEZE => DbFreeze(DbId) by fixed,
        DB_THAW => DbThaw(DbId) by fixed,
        DB_TRANSACTION_START => DbTransactionStart(TransDb) by fixed,
        DB_TRANSACTION_COMMIT => DbTransactionCommit(TransDb) by fixed,
        DB_TRANSACTION_CANCEL => DbTransactionCancel(DbId) by fixed,
        DB_PULL => DbPull(PullDbExt) by fixed,
        DB_PUSH_START => DbPushStart(PullDbExt) by fixed,
        DB_PUSH_CONFIRM => DbPushConfirm(DbId) by fixed,
        DB_OPEN_FLAGS => DbOpenFlags(DbId) by fixed,
        CHECK_PID_SRVID => CheckPidSrvid(PidSrvid) by fixed,
        VACUUM_FETCH => VacuumFetch(RecBuffer) by tail,
        DB_VACUUM => DbVacuum(DbVacuum) by fixed,
        ECHO_DATA => EchoData(EchoData) by tail,
        TCP_CLIENT_DISCONNECTED => TcpClientDisconnected(Connection) by fixed,
        TCP_CLIENT_PASSED => TcpClientPassed(Connection) by fixed,
    }
}

#[cfg(test)]
mod tests;
