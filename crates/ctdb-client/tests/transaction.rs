//! What a transaction makes of a commit that fails, against a daemon that does what each test says
//! with the database before it answers (`data-plane.md` 7.2).
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ctdb_client::{Client, Transaction, TransactionError};
use ctdb_proto::control::{DbidEntry, DbidMap};
use ctdb_proto::{
    Body, ControlFlags, DB_SEQNUM_KEY, DbFlags, DbId, FrameReader, MAX_PACKET_LEN, Opcode, Packet,
    Padding, RecBuffer, RecordHeader, ReplyControl, ReqControl, Rsn, Transport, Wire,
};
use tdb::{Flags, OpenOptions, StoreMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const NAME: &str = "accounts.tdb";
const LOCKS: &str = "g_lock.tdb";

/// Does something with the databases; gives the status of the answer.
type Commit = Box<dyn Fn(&Files, &RecBuffer) -> i32 + Send>;

/// The TDB files of the daemon.
struct Files {
    dir: PathBuf,
}

impl Files {
    /// A database with one record, and the record of its lock, here on node 0.
    fn create(dir: &Path) -> Self {
        let files = Self {
            dir: dir.to_owned(),
        };
        for name in [NAME, LOCKS] {
            let options = OpenOptions::new().create(true);
            drop(options.open(dir.join(name)).unwrap());
        }
        files.store(NAME, b"alice", 1, b"10");
        files.store(LOCKS, &lock_key(), 1, b"");
        files
    }

    fn store(&self, name: &str, key: &[u8], rsn: u64, data: &[u8]) {
        let db = OpenOptions::new().open(self.dir.join(name)).unwrap();
        let header = RecordHeader {
            rsn: Rsn::new(rsn),
            ..RecordHeader::default()
        };
        let parts = [&header.to_bytes()[..], data];
        db.store_parts(key, &parts, StoreMode::Replace).unwrap();
    }

    fn apply(&self, records: &RecBuffer) {
        for record in records {
            let (header, data) = record.split().unwrap();
            self.store(NAME, record.key, header.rsn.get(), data);
        }
    }

    fn set_seqnum(&self, number: u64) {
        let mut data = Vec::new();
        number.encode(&mut data);
        self.store(NAME, DB_SEQNUM_KEY, number, &data);
    }
}

fn lock_key() -> Vec<u8> {
    format!("transaction_db_{}\0", DbId::of_name(NAME)).into_bytes()
}

/// Answers as a daemon of node 0 does; takes the next of `commits` for each commit.
async fn serve(mut socket: UnixStream, files: Files, commits: Vec<Commit>) {
    let mut frames = FrameReader::new(Transport::Unix);
    let mut commits = commits.into_iter();
    while let Ok(1..) = socket.read_buf(frames.buffer()).await {
        while let Some(frame) = frames.next_frame().unwrap() {
            let request = Packet::decode(frame).unwrap();
            let Body::ReqControl(control) = &request.body else {
                panic!("{request:?}")
            };
            if control.flags.contains(ControlFlags::NOREPLY) {
                continue;
            }
            let reply = answer(control, &files, &mut commits);
            let packet = Packet {
                header: request.header,
                body: Body::ReplyControl(reply),
            };
            let bytes = packet.encode(Padding::Daemon);
            socket.write_all(&bytes).await.unwrap();
        }
    }
}

fn answer(
    control: &ReqControl,
    files: &Files,
    commits: &mut impl Iterator<Item = Commit>,
) -> ReplyControl {
    let mut data = control.data.clone();
    match control.opcode {
        Opcode::DB_ATTACH => with_data(&DbId::of_name(LOCKS)),
        Opcode::DB_ATTACH_PERSISTENT => with_data(&DbId::of_name(NAME)),
        Opcode::GETDBPATH => {
            let is_locks = DbId::decode(&mut data).unwrap() == DbId::of_name(LOCKS);
            let path = files.dir.join(if is_locks { LOCKS } else { NAME });
            let mut reply = ReplyControl::status(0);
            reply.data = Bytes::from(format!("{}\0", path.display()));
            reply
        }
        Opcode::GET_DBMAP => with_data(&DbidMap {
            dbs: vec![
                DbidEntry {
                    db_id: DbId::of_name(LOCKS),
                    flags: DbFlags::empty(),
                },
                DbidEntry {
                    db_id: DbId::of_name(NAME),
                    flags: DbFlags::PERSISTENT,
                },
            ],
        }),
        Opcode::DB_OPEN_FLAGS => with_data(&Flags::empty().bits()),
        Opcode::TRANS3_COMMIT => {
            let records = RecBuffer::decode(&mut data).unwrap();
            let commit = commits.next().expect("no further commit was expected");
            ReplyControl::status(commit(files, &records))
        }
        // GET_PNN, DB_GET_HEALTH, REGISTER_SRVID.
        _ => ReplyControl::status(0),
    }
}

fn with_data(value: &impl Wire) -> ReplyControl {
    let mut data = BytesMut::new();
    value.encode(&mut data);
    let mut reply = ReplyControl::status(0);
    reply.data = data.freeze();
    reply
}

/// Changes one record in a transaction; the daemon does these things at its commits.
async fn commit(commits: Vec<Commit>) -> Result<(), TransactionError> {
    in_transaction(commits, async |mut transaction| {
        transaction.store("alice", "5").await?;
        transaction.commit().await
    })
    .await
}

/// Does something in a transaction.
async fn in_transaction(
    commits: Vec<Commit>,
    act: impl AsyncFnOnce(Transaction<'_>) -> Result<(), TransactionError>,
) -> Result<(), TransactionError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (client, accepted) = tokio::join!(Client::connect(&path), listener.accept());
    let files = Files::create(dir.path());
    let daemon = tokio::spawn(serve(accepted.unwrap().0, files, commits));
    let client = client.unwrap();
    let database = client.attach(NAME, DbFlags::PERSISTENT).await.unwrap();
    let result = act(database.transaction().await?).await;
    drop((database, client));
    daemon.await.unwrap();
    result
}

#[tokio::test]
async fn what_is_sent_has_the_next_rsn_and_sequence_number() {
    let check = |_: &Files, records: &RecBuffer| {
        let sent: Vec<_> = records
            .iter()
            .map(|record| {
                let (header, data) = record.split().unwrap();
                (record.key.to_vec(), header.rsn.get(), data.to_vec())
            })
            .collect();
        let mut one = Vec::new();
        1_u64.encode(&mut one);
        assert_eq!(
            sent,
            [
                (b"alice".to_vec(), 2, b"5".to_vec()),
                (DB_SEQNUM_KEY.to_vec(), 1, one)
            ]
        );
        0
    };
    commit(vec![Box::new(check)]).await.unwrap();
}

#[tokio::test]
async fn deleting_what_is_not_there_changes_nothing() {
    let no_commits = Vec::new();
    in_transaction(no_commits, async |mut transaction| {
        transaction.delete("nobody").await?;
        transaction.commit().await
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_lock_in_sambas_form_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (client, accepted) = tokio::join!(Client::connect(&path), listener.accept());
    let files = Files::create(dir.path());
    files.store(LOCKS, &lock_key(), 1, &[0xAB; 57]);
    let daemon = tokio::spawn(serve(accepted.unwrap().0, files, Vec::new()));
    let client = client.unwrap();
    let database = client.attach(NAME, DbFlags::PERSISTENT).await.unwrap();
    {
        let mut waiting = Box::pin(database.transaction());
        let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(early.is_err(), "it has begun, or failed: {early:?}");
        let files = Files {
            dir: dir.path().to_owned(),
        };
        files.store(LOCKS, &lock_key(), 1, b"");
        waiting.await.unwrap().cancel().await.unwrap();
    }
    drop((database, client));
    daemon.await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_into_a_packet_is_not_sent() {
    let no_commits = Vec::new();
    let result = in_transaction(no_commits, async |mut transaction| {
        transaction.store("alice", vec![0; MAX_PACKET_LEN]).await?;
        transaction.commit().await
    });
    assert!(matches!(
        result.await,
        Err(TransactionError::TooLarge { size }) if size > MAX_PACKET_LEN
    ));
}

#[tokio::test]
async fn a_commit_that_a_recovery_completed_is_a_success() {
    let completed = |files: &Files, records: &RecBuffer| {
        files.apply(records);
        2
    };
    commit(vec![Box::new(completed)]).await.unwrap();
}

#[tokio::test]
async fn a_commit_that_a_recovery_undid_is_sent_again() {
    let undone = |_: &Files, _: &RecBuffer| 2;
    let stored = |files: &Files, records: &RecBuffer| {
        files.apply(records);
        0
    };
    let commits: Vec<Commit> = vec![Box::new(undone), Box::new(undone), Box::new(stored)];
    commit(commits).await.unwrap();
}

#[tokio::test]
async fn the_commit_of_another_is_not_taken_for_ours() {
    for alice in [1, 2] {
        let of_another = move |files: &Files, _: &RecBuffer| {
            files.store(NAME, b"alice", alice, b"7");
            files.set_seqnum(1);
            -1
        };
        let result = commit(vec![Box::new(of_another)]).await;
        assert!(matches!(result, Err(TransactionError::Overtaken { .. })));
    }
}

#[tokio::test]
async fn who_has_lost_the_lock_does_not_send_again() {
    let lost = |files: &Files, _: &RecBuffer| {
        files.store(LOCKS, &lock_key(), 3, b"");
        -1
    };
    let result = commit(vec![Box::new(lost)]).await;
    assert!(matches!(result, Err(TransactionError::Overtaken { .. })));
}

#[tokio::test]
async fn what_later_commits_hide_is_unknown() {
    let hidden = |files: &Files, _: &RecBuffer| {
        files.store(NAME, b"alice", 5, b"9");
        files.set_seqnum(4);
        2
    };
    let result = commit(vec![Box::new(hidden)]).await;
    assert!(matches!(result, Err(TransactionError::Unknown)));
}
