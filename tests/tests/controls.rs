//! Story: a client sends the controls of the data plane (`data-plane.md` 12), right ones and wrong
//! ones, and each is answered with the status that the specification gives. The same story is true
//! of Debian's daemon, but for what would crash it.

use bytes::Bytes;
use ctdb_client::{Client, Database};
use ctdb_e2e::{TestCluster, TestResult, is_ours, step};
use ctdb_proto::control::{KeyData, NotifyData, PidSrvid};
use ctdb_proto::{
    DbFlags, DbId, Dest, GLockType, Generation, Opcode, RecBuffer, RecordHeader, ReplyControl,
    ReqControl, ReqId, Srvid, VnnMap, Wire,
};
use nix::unistd::getpid;

#[test]
fn controls_of_the_data_plane_have_their_statuses() -> TestResult {
    let mut options = TestCluster::options();
    options.nodes = 1;
    let cluster = TestCluster::started(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let asker = Asker::connect(&cluster).await?;
        anything_may_be_asked(&asker).await;
        attaching(&asker).await?;
        databases(&asker).await?;
        records(&asker).await?;
        memory(&cluster);
        registrations(&asker, &Asker::connect(&cluster).await?).await;
        processes(&asker, &cluster).await
    })
}

/// One client of the daemon.
struct Asker(Client);

impl Asker {
    async fn connect(cluster: &TestCluster) -> TestResult<Self> {
        Ok(Self(Client::connect(&cluster.at(0).socket()).await?))
    }

    async fn ask(&self, opcode: Opcode, srvid: u64, data: &[u8]) -> ReplyControl {
        let request = ReqControl {
            srvid: Srvid::new(srvid),
            data: Bytes::copy_from_slice(data),
            ..ctdb_client::control::request(opcode)
        };
        let reply = self.0.raw_control(Dest::Current, request, None).await;
        reply.unwrap_or_else(|error| panic!("{opcode}: {error}"))
    }

    async fn status(&self, opcode: Opcode, data: &[u8]) -> i32 {
        self.ask(opcode, 0, data).await.status
    }

    /// Expects this status.
    async fn expect(&self, opcode: Opcode, data: &[u8], status: i32) {
        let found = self.status(opcode, data).await;
        assert_eq!(found, status, "{opcode} {data:02x?}");
    }

    /// Expects this status of a control whose argument is its srvid.
    async fn expect_of(&self, opcode: Opcode, srvid: u64, status: i32) {
        let found = self.ask(opcode, srvid, b"").await.status;
        assert_eq!(found, status, "{opcode} {srvid:#x}");
    }

    async fn data(&self, opcode: Opcode, data: &[u8]) -> Bytes {
        let reply = self.ask(opcode, 0, data).await;
        assert_eq!(reply.status, 0, "{opcode}");
        reply.data
    }

    async fn attach(&self, name: &str, kind: DbFlags) -> TestResult<Database> {
        Ok(self.0.attach(name, kind).await?)
    }
}

/// Id of no database.
const NO_DB: [u8; 4] = [1, 2, 3, 4];

fn bytes(value: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

async fn anything_may_be_asked(asker: &Asker) {
    for unknown in [2, 12, 162, 999, u32::MAX] {
        asker.expect(Opcode::new(unknown), b"", -1).await;
    }
    for obsolete in [10, 13, 14, 19, 34, 42, 57, 62, 83, 103, 111, 117, 130, 136] {
        asker.expect(Opcode::new(obsolete), b"", -1).await;
    }
    // Arguments of another size than the control has.
    asker.expect(Opcode::GETDBPATH, b"abc", -1).await;
    asker.expect(Opcode::PING, b"x", -1).await;
    asker.expect(Opcode::CHECK_PID_SRVID, &[0; 8], -1).await;
    asker.expect(Opcode::GET_RECMODE, b"", 0).await;
    let map = VnnMap {
        generation: Generation::new(1),
        map: Vec::new(),
    };
    asker.expect(Opcode::SETVNNMAP, &bytes(&map), -1).await;
    let echo = [&9_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"echo"].concat();
    assert_eq!(asker.data(Opcode::ECHO_DATA, &echo).await, echo);
    let text = asker.data(Opcode::DUMP_MEMORY, b"").await;
    assert!(!text.is_empty() && !text.contains(&0), "{text:?}");
    step("controls of the daemon");
}

async fn attaching(asker: &Asker) -> TestResult {
    let (volatile, persistent) = (b"volatile.tdb\0", b"persistent.tdb\0");
    asker.expect(Opcode::DB_ATTACH, volatile, 0).await;
    asker.expect(Opcode::DB_ATTACH, volatile, 0).await;
    asker
        .expect(Opcode::DB_ATTACH_PERSISTENT, volatile, -1)
        .await;
    asker
        .expect(Opcode::DB_ATTACH_REPLICATED, volatile, -1)
        .await;
    asker
        .expect(Opcode::DB_ATTACH_PERSISTENT, persistent, 0)
        .await;
    // It is persistent all the same.
    let id = asker.data(Opcode::DB_ATTACH, persistent).await;
    assert_eq!(id, bytes(&DbId::of_name("persistent.tdb")));
    if is_ours() {
        for refused in [&b"no NUL"[..], b"", b"\0", b"a/b\0", &[b'x'; 256]] {
            asker.expect(Opcode::DB_ATTACH, refused, -1).await;
        }
    }
    asker.expect(Opcode::DB_DETACH, &NO_DB, -1).await;
    // While clients may attach nobody may detach.
    let volatile = asker.attach("volatile.tdb", DbFlags::empty()).await?;
    asker
        .expect(Opcode::DB_DETACH, &bytes(&volatile.id()), -1)
        .await;
    step("attaching");
    Ok(())
}

async fn databases(asker: &Asker) -> TestResult {
    let about_one = [
        Opcode::GETDBPATH,
        Opcode::GET_DBNAME,
        Opcode::DB_OPEN_FLAGS,
        Opcode::DB_GET_HEALTH,
        Opcode::DB_SET_HEALTHY,
        Opcode::GET_DB_STATISTICS,
        Opcode::SET_DB_READONLY,
        Opcode::SET_DB_STICKY,
        Opcode::ENABLE_SEQNUM,
    ];
    for opcode in about_one {
        asker.expect(opcode, &NO_DB, -1).await;
    }
    let volatile = asker.attach("volatile.tdb", DbFlags::empty()).await?;
    let replicated = asker.attach("replicated.tdb", DbFlags::REPLICATED).await?;
    let persistent = asker.attach("persistent.tdb", DbFlags::PERSISTENT).await?;
    let [v, r, p] = [&volatile, &replicated, &persistent].map(|db| bytes(&db.id()));
    let name = asker.data(Opcode::GET_DBNAME, &v).await;
    assert_eq!(name, &b"volatile.tdb\0"[..]);
    let path = asker.data(Opcode::GETDBPATH, &p).await;
    assert!(path.ends_with(b"/persistent.tdb.0\0"), "{path:?}");
    assert!(asker.data(Opcode::DB_GET_HEALTH, &p).await.is_empty());
    asker.expect(Opcode::DB_SET_HEALTHY, &p, 0).await;
    let open_flags = async |db: &[u8]| asker.data(Opcode::DB_OPEN_FLAGS, db).await;
    let counts = 0x80;
    for (db, flags) in [(&v, 0x1C41_i32), (&r, 0x0C41), (&p, 0x400)] {
        assert_eq!(open_flags(db).await, bytes(&flags), "{db:02x?}");
        asker.expect(Opcode::ENABLE_SEQNUM, db, 0).await;
        asker.expect(Opcode::ENABLE_SEQNUM, db, 0).await;
        assert_eq!(open_flags(db).await, bytes(&(flags | counts)), "{db:02x?}");
    }
    for flag in [Opcode::SET_DB_READONLY, Opcode::SET_DB_STICKY] {
        asker.expect(flag, &p, -1).await;
        asker.expect(flag, &r, -1).await;
        asker.expect(flag, &v, 0).await;
        asker.expect(flag, &v, 0).await;
    }
    // The id in eight bytes.
    asker.expect(Opcode::GET_DB_SEQNUM, &p, -1).await;
    let number = asker
        .data(Opcode::GET_DB_SEQNUM, &[&p[..], &[0; 4]].concat())
        .await;
    assert_eq!(number, &[0; 8][..]);
    step("questions about databases");
    Ok(())
}

async fn records(asker: &Asker) -> TestResult {
    let volatile = asker.attach("volatile.tdb", DbFlags::empty()).await?;
    let persistent = asker.attach("persistent.tdb", DbFlags::PERSISTENT).await?;
    let key_of = |db_id| {
        bytes(&KeyData {
            db_id,
            header: RecordHeader::default(),
            key: Bytes::from("key"),
        })
    };
    let records_of = |db_id| {
        let mut records = RecBuffer::builder(db_id);
        let header = RecordHeader::default();
        records.push_record(ReqId::new(0), b"key", &header, b"");
        records.finish().to_bytes()
    };
    let no_db = DbId::new(u32::from_le_bytes(NO_DB));
    asker
        .expect(Opcode::TRANS3_COMMIT, &records_of(no_db), -1)
        .await;
    asker
        .expect(Opcode::UPDATE_RECORD, &records_of(no_db), -1)
        .await;
    asker
        .expect(Opcode::TRY_DELETE_RECORDS, &records_of(no_db), -1)
        .await;
    asker
        .expect(Opcode::SCHEDULE_FOR_DELETION, &key_of(no_db), -1)
        .await;
    asker
        .expect(Opcode::SCHEDULE_FOR_DELETION, &key_of(volatile.id()), 0)
        .await;
    let start = |db_id: DbId| [bytes(&db_id), vec![0; 12]].concat();
    asker
        .expect(Opcode::TRAVERSE_START, &start(no_db), -1)
        .await;
    asker
        .expect(Opcode::TRAVERSE_START, &start(volatile.id())[1..], -1)
        .await;
    asker
        .expect(Opcode::TRAVERSE_START, &start(volatile.id()), 0)
        .await;
    if is_ours() {
        // Each of these is the end of the original.
        let id = persistent.id();
        asker
            .expect(Opcode::SCHEDULE_FOR_DELETION, &key_of(id), -1)
            .await;
        asker
            .expect(Opcode::VACUUM_FETCH, &records_of(id), -1)
            .await;
        asker
            .expect(Opcode::VACUUM_FETCH, &records_of(no_db), -1)
            .await;
        let vacuum = |id: DbId| [bytes(&id), vec![0]].concat();
        asker.expect(Opcode::DB_VACUUM, &vacuum(id), -1).await;
        asker.expect(Opcode::DB_VACUUM, &vacuum(no_db), -1).await;
        // A buffer that promises more records than it has.
        let mut cut = records_of(id).to_vec();
        cut.truncate(cut.len() - 1);
        asker.expect(Opcode::TRANS3_COMMIT, &cut, -1).await;
        asker.expect(Opcode::UPDATE_RECORD, &cut, -1).await;
        asker.expect(Opcode::TRY_DELETE_RECORDS, &cut, -1).await;
    }
    asker.expect(Opcode::START_PERSISTENT_UPDATE, b"", 0).await;
    asker.expect(Opcode::CANCEL_PERSISTENT_UPDATE, b"", 0).await;
    // A lock is a record, and what a transaction stores is one: nothing above has spoilt them.
    let mut transaction = persistent.transaction().await?;
    transaction.store("key", "value").await?;
    transaction.commit().await?;
    let locks = ctdb_client::GLocks::attach(&asker.0).await?;
    locks
        .lock("one", GLockType::Write, 0)
        .await?
        .unlock()
        .await?;
    step("records");
    Ok(())
}

/// The text is for people, and says something else each time.
fn memory(cluster: &TestCluster) {
    for command in ["dumpmemory", "rddumpmemory"] {
        let text = cluster.ctdb(0, &[command, "a word that is ignored"]);
        assert!(text.lines().count() > 1, "{command}: {text:?}");
    }
    let statistics = cluster.ctdb(0, &["statistics"]);
    let used = statistics.lines().find(|line| line.contains("memory_used"));
    let number = used.and_then(|line| line.split_whitespace().last()?.parse::<u32>().ok());
    assert!(number.is_some_and(|bytes| bytes > 10_000), "{used:?}");
    step("use of memory");
}

async fn registrations(asker: &Asker, other: &Asker) {
    let (register, deregister) = (Opcode::REGISTER_SRVID, Opcode::DEREGISTER_SRVID);
    asker.expect_of(deregister, 7, 2).await;
    asker.expect_of(register, 7, 0).await;
    asker.expect_of(register, 7, 0).await;
    other.expect_of(deregister, 7, 2).await;
    for status in [0, 0, 2] {
        asker.expect_of(deregister, 7, status).await;
    }

    let (register, deregister) = (Opcode::REGISTER_NOTIFY, Opcode::DEREGISTER_NOTIFY);
    let notify = bytes(&NotifyData {
        srvid: Srvid::new(8),
        data: Bytes::from("gone"),
    });
    asker.expect(register, &notify, 0).await;
    asker.expect(register, &notify, -1).await;
    other.expect(register, &notify, 0).await;
    asker
        .expect(register, &notify[..notify.len() - 1], -1)
        .await;
    asker.expect(deregister, &8_u64.to_le_bytes(), 0).await;
    asker.expect(deregister, &8_u64.to_le_bytes(), -1).await;

    let (register, deregister) = (Opcode::TUNNEL_REGISTER, Opcode::TUNNEL_DEREGISTER);
    asker.expect_of(deregister, 9, -1).await;
    asker.expect_of(register, 9, 0).await;
    asker.expect_of(register, 9, -1).await;
    other.expect_of(register, 9, -1).await;
    other.expect_of(deregister, 9, -1).await;
    asker.expect_of(deregister, 9, 0).await;
    other.expect_of(register, 9, 0).await;
    step("registrations");
}

async fn processes(asker: &Asker, cluster: &TestCluster) -> TestResult {
    let pid = getpid().as_raw();
    let check = |pid, srvid| {
        bytes(&PidSrvid {
            pid,
            srvid: Srvid::new(srvid),
        })
    };
    asker.expect_of(Opcode::REGISTER_SRVID, 10, 0).await;
    asker
        .expect(Opcode::CHECK_PID_SRVID, &check(pid, 10), 0)
        .await;
    asker
        .expect(Opcode::CHECK_PID_SRVID, &check(pid, 11), -1)
        .await;
    asker
        .expect(Opcode::CHECK_PID_SRVID, &check(1, 10), -1)
        .await;
    asker
        .expect(Opcode::PROCESS_EXISTS, &pid.to_le_bytes(), 0)
        .await;
    // It has no connection to the daemon.
    asker
        .expect(Opcode::PROCESS_EXISTS, &1_i32.to_le_bytes(), -1)
        .await;
    let clients = asker.status(Opcode::PING, b"").await;
    let newest = Asker::connect(cluster).await?;
    newest.expect(Opcode::GET_RECMODE, b"", 0).await;
    asker.expect(Opcode::PING, b"", clients + 1).await;

    // The tool would wait for the rest of the cluster.
    asker.expect(Opcode::STOP_NODE, b"", 0).await;
    asker
        .expect(Opcode::CHECK_PID_SRVID, &check(pid, 10), 0)
        .await;
    asker
        .expect(Opcode::PROCESS_EXISTS, &pid.to_le_bytes(), -1)
        .await;
    newest.0.closed().await;
    asker.expect(Opcode::DB_ATTACH, b"volatile.tdb\0", -1).await;
    step("processes, and a stopped node that has none");
    Ok(())
}
