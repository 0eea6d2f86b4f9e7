use ctdb_proto::{DbFlags, RecBuffer, RecordFlags, ReqId, Rsn};
use tdb::{OpenOptions, StoreMode};

use super::super::{open_flags, path_in};
use super::*;
use crate::lanes::{Inbox, lanes};

struct Fixture {
    file: Arc<DbFile>,
    /// As the core task's handle.
    handle: Db,
    threads: Threads,
    lanes: Lanes,
    inbox: Inbox,
    _dir: tempfile::TempDir,
}

const FREEZE: Ticket = Ticket(1);

fn me() -> Pnn {
    Pnn::new(0).unwrap()
}

fn fixture(kind: DbFlags) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = path_in(dir.path(), "f.tdb", me());
    let options = OpenOptions::new()
        .flags(open_flags(kind, tdb::mutexes_work()))
        .hash_size(7);
    let handle = options.clone().create(true).open(&path).unwrap();
    let file = Arc::new(DbFile::new("f.tdb".into(), kind, path, options));
    let (lanes, inbox) = lanes();
    Fixture {
        file,
        handle,
        threads: Threads::default(),
        lanes,
        inbox,
        _dir: dir,
    }
}

impl Fixture {
    fn start(&self) -> Freezer {
        Freezer::start(FREEZE, &self.file, me(), &self.threads, &self.lanes)
    }

    async fn next(&mut self) -> ShellEvent {
        let next = tokio::time::timeout(Duration::from_secs(60), self.inbox.next()).await;
        next.expect("the thread answers in time")
    }

    async fn answer(&mut self, expected: Ticket) -> Result<DbAnswer, DbFailure> {
        match self.next().await {
            ShellEvent::Db { ticket, answer } => {
                assert_eq!(ticket, expected);
                answer
            }
            _ => panic!("not an answer"),
        }
    }

    async fn frozen(&mut self) -> Freezer {
        let mut freezer = self.start();
        assert_eq!(self.answer(FREEZE).await, Ok(DbAnswer::Done));
        freezer.note_answer(FREEZE);
        freezer
    }

    async fn work(&mut self, freezer: &Freezer, op: DbOp) -> DbAnswer {
        assert!(freezer.work(Ticket(2), op));
        self.answer(Ticket(2)).await.unwrap()
    }

    async fn thawed(&mut self) {
        assert!(matches!(
            self.next().await,
            ShellEvent::Thawed {
                ticket: Ticket(3),
                ..
            }
        ));
    }
}

fn buffer(file: &DbFile, key: &str, data: &str) -> Bytes {
    let mut builder = RecBuffer::builder(file.id);
    let header = RecordHeader::new(Rsn(4), me(), RecordFlags::empty());
    builder.push_record(ReqId(0), key.as_bytes(), &header, data.as_bytes());
    builder.finish().to_bytes()
}

#[tokio::test]
async fn nobody_gets_at_a_frozen_database_until_it_is_thawed() {
    for kind in [DbFlags::empty(), DbFlags::PERSISTENT] {
        let mut f = fixture(kind);
        let freezer = f.frozen().await;
        assert!(f.handle.try_chainlock(b"key").unwrap().is_none());
        assert_eq!(freezer.thaw(Ticket(3)), None);
        f.thawed().await;
        assert!(f.handle.try_chainlock(b"key").unwrap().is_some());
    }
}

#[tokio::test]
async fn a_freeze_waits_for_those_who_hold_a_chain() {
    let mut f = fixture(DbFlags::empty());
    let other = f.file.open().unwrap();
    let lock = other.chainlock(b"key").unwrap();
    let mut freezer = f.start();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(f.inbox.try_next().is_none());
    drop(lock);
    assert_eq!(f.answer(FREEZE).await, Ok(DbAnswer::Done));
    freezer.note_answer(FREEZE);
    assert_eq!(freezer.thaw(Ticket(3)), None);
    f.thawed().await;
}

#[tokio::test]
async fn a_freeze_that_still_waits_can_be_given_up() {
    let mut f = fixture(DbFlags::empty());
    let other = f.file.open().unwrap();
    let lock = other.chainlock(b"key").unwrap();
    let freezer = f.start();
    assert_eq!(freezer.thaw(Ticket(3)), Some(FREEZE));
    drop(lock);
    // The thread gets the lock late, and gives it back at once.
    assert_eq!(f.answer(FREEZE).await, Ok(DbAnswer::Done));
    f.thawed().await;
    assert!(f.handle.try_chainlock(b"key").unwrap().is_some());
}

#[tokio::test]
async fn a_recovery_replaces_what_is_in_the_database() {
    for kind in [DbFlags::empty(), DbFlags::PERSISTENT, DbFlags::REPLICATED] {
        let mut f = fixture(kind);
        let old = [&[0; 24][..], b"old"].concat();
        f.handle.store(b"old", &old, StoreMode::Replace).unwrap();
        let freezer = f.frozen().await;
        assert_eq!(
            f.work(&freezer, DbOp::TransactionStart).await,
            DbAnswer::Done
        );
        assert_eq!(f.work(&freezer, DbOp::Wipe).await, DbAnswer::Done);
        let records = buffer(&f.file, "new", "data");
        let push = DbOp::Push {
            records: records.clone(),
            vnn_map: None,
        };
        assert_eq!(f.work(&freezer, push).await, DbAnswer::Done);
        assert_eq!(
            f.work(&freezer, DbOp::PushConfirm).await,
            DbAnswer::Count(1)
        );
        assert_eq!(
            f.work(&freezer, DbOp::PushConfirm).await,
            DbAnswer::Count(0)
        );
        assert_eq!(
            f.work(&freezer, DbOp::TransactionCommit).await,
            DbAnswer::Done
        );
        assert!(freezer.pull(Ticket(2), 1000, Arc::new(Pace::unlimited())));
        assert_eq!(f.answer(Ticket(2)).await, Ok(DbAnswer::Batch(records)));
        assert_eq!(f.answer(Ticket(2)).await, Ok(DbAnswer::Count(1)));
        freezer.thaw(Ticket(3));
        f.thawed().await;
        assert!(!f.handle.exists(b"old").unwrap());
        assert!(f.handle.exists(b"new").unwrap());
    }
}

#[tokio::test]
async fn a_pull_keeps_its_pace_and_can_be_stopped() {
    let mut f = fixture(DbFlags::empty());
    for key in [b"a", b"b", b"c"] {
        f.handle.store(key, &[0; 30], StoreMode::Replace).unwrap();
    }
    let freezer = f.frozen().await;
    let pace = Arc::new(Pace::of(1));
    assert!(freezer.pull(Ticket(2), 1, Arc::clone(&pace)));
    assert!(matches!(f.answer(Ticket(2)).await, Ok(DbAnswer::Batch(_))));
    pace.allow_one_more();
    assert!(matches!(f.answer(Ticket(2)).await, Ok(DbAnswer::Batch(_))));
    pace.stop();
    assert!(f.answer(Ticket(2)).await.is_err());
    freezer.thaw(Ticket(3));
    f.thawed().await;
}

#[tokio::test]
async fn a_thaw_cancels_the_open_transaction() {
    let mut f = fixture(DbFlags::PERSISTENT);
    f.handle
        .store(b"old", &[0; 30], StoreMode::Replace)
        .unwrap();
    let freezer = f.frozen().await;
    f.work(&freezer, DbOp::TransactionStart).await;
    f.work(&freezer, DbOp::Wipe).await;
    freezer.thaw(Ticket(3));
    f.thawed().await;
    assert!(f.handle.exists(b"old").unwrap());
}

#[tokio::test]
async fn the_sequence_number_can_be_read_while_frozen() {
    let mut f = fixture(DbFlags::PERSISTENT);
    let value = [&[0; 24][..], &12_u64.to_le_bytes()].concat();
    f.handle
        .store(DB_SEQNUM_KEY, &value, StoreMode::Replace)
        .unwrap();
    let freezer = f.frozen().await;
    assert_eq!(f.work(&freezer, DbOp::Seqnum).await, DbAnswer::Number(12));
}

#[tokio::test]
async fn a_lock_that_is_lost_is_told_and_keeps_nobody_waiting() {
    let mut f = fixture(DbFlags::empty());
    for was_held in [true, false] {
        let (commands, inbox) = mpsc::channel();
        let (file, lanes) = (Arc::clone(&f.file), f.lanes.clone());
        f.threads.run(move || {
            until_thawed(FREEZE, &file, &inbox, &lanes, |held| {
                held.set(was_held);
                panic!("part of the test")
            });
        });
        if was_held {
            let lost = matches!(
                f.next().await,
                ShellEvent::FreezeLost { ticket: FREEZE, .. }
            );
            assert!(lost);
        } else {
            assert!(f.answer(FREEZE).await.is_err());
        }
        commands.send(Command::Work(Ticket(2), DbOp::Wipe)).unwrap();
        assert!(f.answer(Ticket(2)).await.is_err());
        commands.send(Command::Thaw(Ticket(3))).unwrap();
        f.thawed().await;
    }
}
