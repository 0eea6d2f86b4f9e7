//! A client that waits: one socket, one request at a time, no runtime.
//!
//! For measurements and for tests that want to know exactly what is on the wire and when. Programs
//! that have anything else to do use `ctdb-client`.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use ctdb_proto::control::KeyData;
use ctdb_proto::{
    Body, CURRENT_NODE, CallFlags, CallId, ClientId, ControlFlags, DbId, FrameReader, Generation,
    Header, Opcode, Packet, Padding, Pnn, RecordHeader, ReplyCall, ReplyControl, ReplyError,
    ReqCall, ReqControl, ReqId, ReqMessage, Srvid, Transport, Wire as _,
};

/// A connection to a daemon.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    frames: FrameReader,
    last_reqid: u32,
    pnn: Pnn,
    /// Messages that came while a reply was waited for.
    messages: VecDeque<ReqMessage>,
    limit: Duration,
    /// How long the socket is set to wait for bytes.
    read_timeout: Option<Duration>,
    /// Packets that [`Connection::flush`] will send.
    queued: BytesMut,
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the daemon closed the connection")]
    Closed,
    #[error("the daemon sent something that is no packet: {0}")]
    Frame(#[from] ctdb_proto::FrameError),
    #[error("a packet from the daemon cannot be read: {0}")]
    Decode(#[from] ctdb_proto::DecodeError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{opcode} failed with status {status}: {error}")]
    Failed {
        opcode: Opcode,
        status: i32,
        error: String,
    },
    #[error("a call failed with status {status}: {error}")]
    CallFailed { status: i32, error: String },
    #[error("database: {0}")]
    Open(#[from] tdb::OpenError),
    #[error("database: {0}")]
    Tdb(#[from] tdb::Error),
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

impl Connection {
    /// Connects to the daemon's socket and learns which node it is.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let unknown = Pnn::new(0).expect("0 is a node number");
        let mut connection = Self {
            stream,
            frames: FrameReader::new(Transport::Unix),
            last_reqid: 0,
            pnn: unknown,
            messages: VecDeque::new(),
            limit: REPLY_LIMIT,
            read_timeout: None,
            queued: BytesMut::new(),
        };
        // The status of the reply is the number.
        let reply =
            connection.raw_control(CURRENT_NODE, Opcode::GET_PNN, Srvid(0), Bytes::new())?;
        let pnn = u32::try_from(reply.status).ok().and_then(Pnn::new);
        connection.pnn = pnn.ok_or_else(|| failed(Opcode::GET_PNN, &reply))?;
        Ok(connection)
    }

    /// Node of the daemon.
    pub fn pnn(&self) -> Pnn {
        self.pnn
    }

    /// How long a reply may take; 10 s at first.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// The socket, to send what is no request.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a control and waits for its reply; fails unless the status is 0.
    pub fn control(
        &mut self,
        dest: u32,
        opcode: Opcode,
        srvid: Srvid,
        data: Bytes,
    ) -> Result<Bytes> {
        let reply = self.raw_control(dest, opcode, srvid, data)?;
        if reply.status == 0 {
            Ok(reply.data)
        } else {
            Err(failed(opcode, &reply))
        }
    }

    /// As [`Connection::control`], whatever the status.
    pub fn raw_control(
        &mut self,
        dest: u32,
        opcode: Opcode,
        srvid: Srvid,
        data: Bytes,
    ) -> Result<ReplyControl> {
        let request = ReqControl {
            opcode,
            srvid,
            client_id: ClientId::NONE,
            flags: ControlFlags::empty(),
            data,
        };
        let reqid = self.send(dest, Body::ReqControl(request))?;
        loop {
            match self.receive(self.limit)? {
                (header, Body::ReplyControl(reply)) if header.reqid == reqid => return Ok(reply),
                _ => {}
            }
        }
    }

    /// Asks for the messages of a service id.
    pub fn register(&mut self, srvid: Srvid) -> Result<()> {
        self.control(CURRENT_NODE, Opcode::REGISTER_SRVID, srvid, Bytes::new())
            .map(drop)
    }

    /// Sends a message; nobody answers it.
    pub fn send_message(&mut self, dest: u32, srvid: Srvid, data: Bytes) -> Result<()> {
        self.send(dest, Body::ReqMessage(ReqMessage { srvid, data }))
            .map(drop)
    }

    /// The next message for a registered service id; `None` when none comes within the limit.
    pub fn receive_message(&mut self, limit: Duration) -> Result<Option<ReqMessage>> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(Some(message));
        }
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left) {
                Err(ClientError::TimedOut(_)) => return Ok(None),
                Err(error) => return Err(error),
                Ok(_) => {
                    if let Some(message) = self.messages.pop_front() {
                        return Ok(Some(message));
                    }
                }
            }
        }
    }

    /// Sends a call and waits for its result.
    pub fn call(&mut self, call: ReqCall) -> Result<ReplyCall> {
        let reqid = self.send(CURRENT_NODE, Body::ReqCall(call))?;
        loop {
            match self.receive(self.limit)? {
                (header, Body::ReplyCall(reply)) if header.reqid == reqid => return Ok(reply),
                (header, Body::ReplyError(reply)) if header.reqid == reqid => {
                    return Err(call_failed(&reply));
                }
                _ => {}
            }
        }
    }

    /// Sends many calls and waits for all results, none of which is shown: for an amount of work
    /// in which nobody would wait for each.
    pub fn call_all(&mut self, calls: impl IntoIterator<Item = ReqCall>) -> Result<()> {
        let mut waiting = HashSet::new();
        for call in calls {
            waiting.insert(self.send(CURRENT_NODE, Body::ReqCall(call))?);
        }
        while !waiting.is_empty() {
            match self.receive(self.limit)? {
                (header, Body::ReplyCall(_)) => _ = waiting.remove(&header.reqid),
                (header, Body::ReplyError(reply)) if waiting.contains(&header.reqid) => {
                    return Err(call_failed(&reply));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Queues a message; nothing is sent before [`Connection::flush`].
    pub fn queue_message(&mut self, dest: u32, srvid: Srvid, data: Bytes) {
        self.queue(dest, ReqId(0), Body::ReqMessage(ReqMessage { srvid, data }));
    }

    /// Queues a call that its reply is to be recognised by; nothing is sent before
    /// [`Connection::flush`].
    pub fn queue_call(&mut self, reqid: ReqId, call: ReqCall) {
        self.queue(CURRENT_NODE, reqid, Body::ReqCall(call));
    }

    /// Sends what was queued.
    pub fn flush(&mut self) -> Result<()> {
        if !self.queued.is_empty() {
            self.stream.write_all(&self.queued)?;
            self.queued.clear();
        }
        Ok(())
    }

    /// Reads what has come; waits only if there is nothing.
    pub fn read_more(&mut self) -> Result<()> {
        self.read_within(self.limit)
    }

    /// The next of the packets that have been read.
    pub fn next_read(&mut self) -> Result<Option<Packet>> {
        let frame = self.frames.next_frame()?;
        Ok(frame.map(Packet::decode).transpose()?)
    }

    /// Attaches a volatile database and opens the daemon's file of it.
    pub fn attach(&mut self, name: &str) -> Result<Database> {
        let mut data = BytesMut::from(name.as_bytes());
        data.put_u8(0);
        let mut id = self.control(CURRENT_NODE, Opcode::DB_ATTACH, Srvid(0), data.freeze())?;
        let id = DbId::decode(&mut id)?;
        let mut argument = BytesMut::new();
        id.encode(&mut argument);
        let argument = argument.freeze();
        let path = self.control(CURRENT_NODE, Opcode::GETDBPATH, Srvid(0), argument.clone())?;
        let path = String::from_utf8_lossy(&path)
            .trim_end_matches('\0')
            .to_owned();
        let mut flags = self.control(CURRENT_NODE, Opcode::DB_OPEN_FLAGS, Srvid(0), argument)?;
        let flags = tdb::Flags::from_bits_retain(u32::decode(&mut flags)?);
        let file = tdb::OpenOptions::new()
            .flags(flags)
            .open(PathBuf::from(path))?;
        Ok(Database { id, file })
    }

    fn send(&mut self, dest: u32, body: Body) -> Result<ReqId> {
        self.last_reqid = self.last_reqid.wrapping_add(1);
        let reqid = ReqId(self.last_reqid);
        self.queue(dest, reqid, body);
        self.flush()?;
        Ok(reqid)
    }

    fn queue(&mut self, dest: u32, reqid: ReqId, body: Body) {
        let header = Header {
            generation: Generation(0),
            dest,
            src: self.pnn.get(),
            reqid,
        };
        Packet { header, body }.encode_into(&mut self.queued, Padding::Client);
    }

    /// The next packet; a message is put aside as well.
    fn receive(&mut self, limit: Duration) -> Result<(Header, Body)> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                let packet = Packet::decode(frame)?;
                if let Body::ReqMessage(message) = &packet.body {
                    self.messages.push_back(message.clone());
                }
                return Ok((packet.header, packet.body));
            }
            self.read_some(deadline, limit)?;
        }
    }

    fn read_some(&mut self, deadline: Instant, limit: Duration) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::TimedOut(limit));
        }
        self.read_within(left)
    }

    fn read_within(&mut self, limit: Duration) -> Result<()> {
        if self.read_timeout != Some(limit) {
            self.stream.set_read_timeout(Some(limit))?;
            self.read_timeout = Some(limit);
        }
        let mut some = [0; 16 * 1024];
        match self.stream.read(&mut some) {
            Ok(0) => Err(ClientError::Closed),
            Ok(count) => {
                self.frames.push(some.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::TimedOut(limit))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A database that a client has attached and opened.
pub struct Database {
    id: DbId,
    file: tdb::Db,
}

impl Database {
    pub fn id(&self) -> DbId {
        self.id
    }

    /// Fetches a record with its lock, migrating it to this node if need be, and stores what
    /// `change` makes of its data (`data-plane.md` 3.14). Says how often the daemon was asked.
    pub fn update(
        &self,
        connection: &mut Connection,
        key: &[u8],
        change: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<u32> {
        let mut asked = 0;
        let mut change = Some(change);
        loop {
            let update = |data: &[u8]| change.take().map_or_else(Vec::new, |change| change(data));
            if self.update_here(connection.pnn(), key, update)? {
                return Ok(asked);
            }
            connection.call(self.migrate(key))?;
            asked += 1;
        }
    }

    /// Empties a record as [`Database::update`] changes one, and has the daemon remove its remains
    /// in time; nobody confirms that.
    pub fn delete(&self, connection: &mut Connection, key: &[u8]) -> Result<()> {
        self.update(connection, key, |_| Vec::new())?;
        let value = self.file.fetch(key)?.unwrap_or_default();
        // Whoever has taken the record away meanwhile has to see to it.
        let Ok((header, [])) = RecordHeader::split(&value) else {
            return Ok(());
        };
        let mut data = BytesMut::new();
        KeyData {
            db_id: self.id,
            header,
            key: Bytes::copy_from_slice(key),
        }
        .encode(&mut data);
        let order = ReqControl {
            opcode: Opcode::SCHEDULE_FOR_DELETION,
            srvid: Srvid(self.id.get().into()),
            client_id: ClientId::NONE,
            flags: ControlFlags::NOREPLY,
            data: data.freeze(),
        };
        connection
            .send(CURRENT_NODE, Body::ReqControl(order))
            .map(drop)
    }

    /// Brings many records to this node, for [`Database::update`] to find them there.
    pub fn bring(&self, connection: &mut Connection, keys: &[Vec<u8>]) -> Result<()> {
        connection.call_all(keys.iter().map(|key| self.migrate(key)))
    }

    /// The daemon's file.
    pub fn file(&self) -> &tdb::Db {
        &self.file
    }

    /// As [`Database::update`] if the record is on this node now; says whether it is.
    pub fn update_here(
        &self,
        pnn: Pnn,
        key: &[u8],
        change: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<bool> {
        let _lock = self.file.chainlock(key)?;
        let value = self.file.fetch(key)?.unwrap_or_default();
        let Ok((header, data)) = RecordHeader::split(&value) else {
            return Ok(false);
        };
        if header.dmaster() != Some(pnn) {
            return Ok(false);
        }
        let (header, data) = (header.to_bytes(), change(data));
        self.file
            .store_parts(key, &[&header, &data], tdb::StoreMode::Replace)?;
        Ok(true)
    }

    /// The call that brings a record to this node.
    pub fn migrate(&self, key: &[u8]) -> ReqCall {
        self.request(CallFlags::IMMEDIATE_MIGRATION, CallId::NULL, key)
    }

    /// The call that reads a record, wherever it is.
    pub fn fetch(&self, key: &[u8]) -> ReqCall {
        self.request(CallFlags::empty(), CallId::FETCH, key)
    }

    fn request(&self, flags: CallFlags, call_id: CallId, key: &[u8]) -> ReqCall {
        ReqCall {
            flags,
            db_id: self.id,
            call_id,
            hopcount: 0,
            key: Bytes::copy_from_slice(key),
            data: Bytes::new(),
        }
    }
}

fn call_failed(reply: &ReplyError) -> ClientError {
    ClientError::CallFailed {
        status: reply.status,
        error: reply.text().into_owned(),
    }
}

fn failed(opcode: Opcode, reply: &ReplyControl) -> ClientError {
    let error = String::from_utf8_lossy(&reply.error).into_owned();
    ClientError::Failed {
        opcode,
        status: reply.status,
        error,
    }
}

/// Long enough for a recovery to pass.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
