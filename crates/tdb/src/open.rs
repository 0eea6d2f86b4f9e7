//! Opening, creating and clearing database files (`tdb.md` 1.1, 4.2 and 5.5).
//!
//! The OPEN lock is held throughout, so that of all who open a file one is the first. With
//! `CLEAR_IF_FIRST` the first one empties it; in a database with mutexes he makes them anew, since
//! nobody can have one locked.

use std::cell::Cell;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::backend::{Backend, Memory};
use crate::db::{Db, Opened};
use crate::error::{Error, OpenError};
use crate::format::{Format, write_new, writer_at};
use crate::image::{Bytes, Image};
use crate::layout::{ByteOrder, HEADER_SIZE, HeaderBytes, MAX_HASH_SIZE};
use crate::lock::{Locks, Range, Rw, Wait};
use crate::map::{Access, FileBackend};
use crate::mutex::{self, MutexArea};

/// Hash size of a new file when none is asked for.
const DEFAULT_HASH_SIZE: u32 = 131;
/// `max_dead` that the `VOLATILE` flag stands for.
const VOLATILE_MAX_DEAD: u32 = 5;

bitflags::bitflags! {
    /// How a database is used. The numbers are those of the C library, since CTDB sends them over
    /// its socket.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct Flags: u32 {
        /// Whoever opens the file while nobody else has it open empties it.
        const CLEAR_IF_FIRST = 1;
        /// In memory, seen by nobody else.
        const INTERNAL = 2;
        /// Take no locks. Implied by read-only.
        const NOLOCK = 4;
        /// Use `pread` and `pwrite` only.
        const NOMMAP = 8;
        /// The file has the other byte order; at creation: shall have.
        const CONVERT = 16;
        /// The file is big-endian. Set by open.
        const BIGENDIAN = 32;
        /// Do not wait for the disk.
        const NOSYNC = 64;
        /// Count changes in the file.
        const SEQNUM = 128;
        /// Let up to 5 dead records stay in each chain.
        const VOLATILE = 256;
        /// Transactions may be nested: the default.
        const ALLOW_NESTING = 512;
        const DISALLOW_NESTING = 1024;
        /// Create with the Jenkins hash. An existing file keeps the hash function it has.
        const INCOMPATIBLE_HASH = 2048;
        /// Create with mutexes for chain locks; needed to write to such a file.
        const MUTEX_LOCKING = 4096;
    }
}

/// How to open or create a database.
///
/// ```no_run
/// # fn main() -> Result<(), tdb::OpenError> {
/// let db = tdb::OpenOptions::new()
///     .flags(tdb::Flags::CLEAR_IF_FIRST | tdb::Flags::MUTEX_LOCKING)
///     .hash_size(100_001)
///     .create(true)
///     .open("locking.tdb.0")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    flags: Flags,
    hash_size: u32,
    mode: u32,
    create: bool,
    create_new: bool,
    read_only: bool,
    max_dead: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            flags: Flags::empty(),
            hash_size: 0,
            mode: 0o600,
            create: false,
            create_new: false,
            read_only: false,
            max_dead: 0,
        }
    }
}

/// Settings.
impl OpenOptions {
    /// To open an existing file for reading and writing.
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// Number of hash chains, if the file is created. 0 stands for 131.
    #[must_use]
    pub fn hash_size(mut self, hash_size: u32) -> Self {
        self.hash_size = hash_size;
        self
    }

    /// Permissions of the file, if it is created. 0600 if not set; the umask applies.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Create the file if it does not exist, or is empty.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Create the file, and fail if it exists.
    #[must_use]
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Open for reading only, without locks: what is read may be in the middle of a change.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Deleted records that may stay in each chain, for reuse.
    #[must_use]
    pub fn max_dead(mut self, max_dead: u32) -> Self {
        self.max_dead = max_dead;
        self
    }
}

/// Opening.
impl OpenOptions {
    /// Opens, and if asked to creates, the database at `path`. May wait for others who open it.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Db, OpenError> {
        let flags = self.effective_flags()?;
        if flags.contains(Flags::INTERNAL) {
            return self.open_memory(Vec::new());
        }
        Opening {
            options: self,
            flags,
            path: path.as_ref(),
        }
        .run()
    }

    /// A database in memory: a new one, or the one whose file has the content `image`. Nobody else
    /// sees its changes.
    pub fn open_memory(&self, image: Vec<u8>) -> Result<Db, OpenError> {
        let flags = self.effective_flags()? | Flags::INTERNAL | Flags::NOLOCK | Flags::NOMMAP;
        let bytes = if image.is_empty() {
            let flags = flags - Flags::MUTEX_LOCKING;
            let mut new = Vec::new();
            write_new(
                &mut new,
                self.wanted_hash_size()?,
                flags | Flags::INCOMPATIBLE_HASH,
            )?;
            new
        } else {
            image
        };
        let header = bytes.first_chunk().ok_or(OpenError::NotTdb)?;
        let format = Format::decode(header, flags)?;
        let start = usize::try_from(format.base()).unwrap_or(usize::MAX);
        let bytes = bytes.get(start..).unwrap_or_default().to_vec();
        u32::try_from(bytes.len()).map_err(|_| OpenError::TooLarge(bytes.len() as u64))?;
        let db = self.assemble(
            Bytes::Other(Box::new(Memory::new(bytes))),
            &format,
            flags,
            |hash_size| Ok(Locks::new(None, None, hash_size)),
            Opened {
                path: PathBuf::new(),
                options: self.clone(),
                identity: None,
                base: format.base(),
                features: format.header.features(),
            },
        )?;
        if !self.read_only {
            db.recover(true).map_err(OpenError::Recovery)?;
            db.size_area().map_err(OpenError::Recovery)?;
        }
        Ok(db)
    }

    /// A database on a backend that a test watches or breaks. Never creates.
    pub fn open_backend(&self, backend: Box<dyn Backend>) -> Result<Db, OpenError> {
        let flags = self.effective_flags()? | Flags::NOLOCK | Flags::NOMMAP;
        let mut header: HeaderBytes = [0; HEADER_SIZE as usize];
        backend
            .read(0, &mut header)
            .map_err(|_| OpenError::NotTdb)?;
        let format = Format::decode(&header, flags)?;
        let opened = Opened {
            path: PathBuf::new(),
            options: self.clone(),
            identity: None,
            base: format.base(),
            features: format.header.features(),
        };
        let locks = |hash_size| Ok(Locks::new(None, None, hash_size));
        let db = self.assemble(Bytes::Other(backend), &format, flags, locks, opened)?;
        db.recover(true).map_err(OpenError::Recovery)?;
        db.size_area().map_err(OpenError::Recovery)?;
        Ok(db)
    }

    /// The flags given, with what they imply.
    fn effective_flags(&self) -> Result<Flags, OpenError> {
        let mut flags = self.flags;
        let nesting = Flags::ALLOW_NESTING | Flags::DISALLOW_NESTING;
        if flags.contains(nesting) {
            return Err(OpenError::Invalid("nesting both allowed and disallowed"));
        }
        if !flags.intersects(nesting) {
            flags |= Flags::ALLOW_NESTING;
        }
        if self.read_only {
            flags -= Flags::CLEAR_IF_FIRST | Flags::MUTEX_LOCKING;
            flags |= Flags::NOLOCK;
        }
        if flags.contains(Flags::MUTEX_LOCKING) {
            if flags.intersects(Flags::INTERNAL | Flags::NOMMAP) {
                return Err(OpenError::Invalid("mutexes need a mapped file"));
            }
            if !mutex::mutexes_work() {
                let source = Errno::ENOSYS.into();
                return Err(OpenError::Io {
                    what: "robust mutexes",
                    source,
                });
            }
            flags |= Flags::INCOMPATIBLE_HASH;
        }
        if flags.contains(Flags::INTERNAL) {
            flags |= Flags::NOLOCK | Flags::NOMMAP | Flags::INCOMPATIBLE_HASH;
        }
        Ok(flags)
    }

    fn wanted_hash_size(&self) -> Result<u32, OpenError> {
        match self.hash_size {
            0 => Ok(DEFAULT_HASH_SIZE),
            size if size > MAX_HASH_SIZE => Err(OpenError::Invalid("hash size is too large")),
            size => Ok(size),
        }
    }

    /// Puts a handle together, after the last checks of the header against the file's size.
    fn assemble(
        &self,
        bytes: Bytes,
        format: &Format,
        mut flags: Flags,
        locks: impl FnOnce(u32) -> Result<Locks, OpenError>,
        opened: Opened,
    ) -> Result<Db, OpenError> {
        let (hash_size, size) = (format.header.hash_size, bytes.backend().size());
        // A file that ends before the head of the last chain is let in, as the C library does.
        let heads = u64::from(HEADER_SIZE) + 4 * u64::from(hash_size);
        if hash_size > MAX_HASH_SIZE || u64::from(size) < heads {
            return Err(OpenError::HashSize { hash_size, size });
        }
        flags.set(Flags::CONVERT, format.order != ByteOrder::NATIVE);
        flags.set(Flags::BIGENDIAN, format.order == ByteOrder::Big);
        let volatile = flags.contains(Flags::VOLATILE) && self.max_dead == 0;
        let max_dead = if volatile {
            VOLATILE_MAX_DEAD
        } else {
            self.max_dead
        };
        Ok(Db {
            image: Image::new(bytes, format.order, hash_size),
            locks: locks(hash_size)?,
            hash: format.hash,
            hash_size,
            flags: Cell::new(flags),
            max_dead: Cell::new(max_dead),
            wait: Cell::new(Wait::Block),
            read_only: self.read_only,
            read_traverses: Cell::new(0),
            transaction: Cell::new(None),
            opened,
        })
    }
}

/// One opening of a file.
struct Opening<'o> {
    options: &'o OpenOptions,
    flags: Flags,
    path: &'o Path,
}

impl Opening<'_> {
    fn run(&self) -> Result<Db, OpenError> {
        let file = Arc::new(self.open_file()?);
        let kernel = (!self.flags.contains(Flags::NOLOCK)).then(|| Arc::clone(&file));
        // For OPEN, ACTIVE and the whole data only: the number of chains is not known yet.
        let locks = Locks::new(kernel.clone(), None, 0);
        locks.lock_range(Range::OPEN, Rw::Write, Wait::Block)?;
        let db = self.open_locked(&file, kernel, &locks);
        locks.unlock_range(Range::OPEN);
        db
    }

    fn open_file(&self) -> Result<File, OpenError> {
        let options = self.options;
        File::options()
            .read(true)
            .write(!options.read_only)
            .create(options.create && !options.read_only)
            .create_new(options.create_new && !options.read_only)
            .mode(options.mode)
            .open(self.path)
            .map_err(OpenError::io("open"))
    }

    /// OPEN is held: nobody else opens, clears or recovers this file now.
    fn open_locked(
        &self,
        file: &Arc<File>,
        kernel: Option<Arc<File>>,
        locks: &Locks,
    ) -> Result<Db, OpenError> {
        let first = Self::is_first(locks)?;
        let created = self.create_or_clear(file, locks, first)?;
        let format = self.read_format(file)?;
        let mutexes = format.has_mutexes() && kernel.is_some();
        if mutexes && first && !created {
            let write = || {
                let mut out = writer_at(file, HEADER_SIZE.into())?;
                mutex::write_unlocked(&mut out, format.header.hash_size)?;
                out.flush()
            };
            write().map_err(OpenError::io("pwrite"))?;
        }
        let metadata = file.metadata().map_err(OpenError::io("fstat"))?;
        let opened = Opened {
            path: self.path.to_owned(),
            options: self.options.clone(),
            identity: Some((metadata.dev(), metadata.ino())),
            base: format.base(),
            features: format.header.features(),
        };
        let backend = self.backend(file, &format)?;
        let new_locks = |hash_size| -> Result<Locks, OpenError> {
            let area = mutexes
                .then(|| MutexArea::open(file, hash_size))
                .transpose()?;
            Ok(Locks::new(kernel, area, hash_size))
        };
        let db =
            self.options
                .assemble(Bytes::File(backend), &format, self.flags, new_locks, opened)?;
        // Everybody who writes shows that the file is in use, so that no other clears it while it
        // is mapped here. (The C library does so only with CLEAR_IF_FIRST or mutexes.)
        locks.lock_range(Range::ACTIVE, Rw::Read, Wait::Block)?;
        self.recover(&db)?;
        Ok(db)
    }

    /// Whether nobody else uses the file. If so the ACTIVE lock is held for writing.
    fn is_first(locks: &Locks) -> Result<bool, OpenError> {
        if !locks.are_real() {
            return Ok(false);
        }
        match locks.lock_range(Range::ACTIVE, Rw::Write, Wait::Try) {
            Ok(()) => Ok(true),
            Err(Error::WouldBlock) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an empty database out of an empty file, or of one that shall be cleared. What is not
    /// empty is never emptied otherwise, whatever it is. (The C library does so on creation.)
    fn create_or_clear(&self, file: &File, locks: &Locks, first: bool) -> Result<bool, OpenError> {
        // Without locks nobody can know who is first: everybody clears.
        let clear = self.flags.contains(Flags::CLEAR_IF_FIRST) && (first || !locks.are_real());
        let empty = file.metadata().map_err(OpenError::io("fstat"))?.len() == 0;
        let create = (self.options.create || self.options.create_new) && !self.options.read_only;
        let wanted = clear || (empty && create);
        if !wanted {
            return Ok(false);
        }
        let hash_size = self.options.wanted_hash_size()?;
        locks.lock_range(Range::DATA, Rw::Write, Wait::Block)?;
        let written = self.replace_content(file, hash_size);
        if written.is_err() {
            // What was written in part must not be taken for a damaged database later.
            let _ = file.set_len(0);
        }
        locks.unlock_range(Range::DATA);
        written?;
        Ok(true)
    }

    fn replace_content(&self, file: &File, hash_size: u32) -> Result<(), OpenError> {
        let failed = |error| OpenError::io("creating the database")(error);
        file.set_len(0).map_err(failed)?;
        let mut out = writer_at(file, 0).map_err(failed)?;
        write_new(&mut out, hash_size, self.flags)?;
        out.flush().map_err(failed)
    }

    fn read_format(&self, file: &File) -> Result<Format, OpenError> {
        let mut header: HeaderBytes = [0; HEADER_SIZE as usize];
        let len = file.metadata().map_err(OpenError::io("fstat"))?.len();
        if len < header.len() as u64 {
            return Err(OpenError::NotTdb);
        }
        file.read_exact_at(&mut header, 0)
            .map_err(OpenError::io("pread"))?;
        Format::decode(&header, self.flags)
    }

    fn backend(&self, file: &Arc<File>, format: &Format) -> Result<FileBackend, OpenError> {
        // Nothing keeps others from clearing the file of a handle that only reads, and to touch
        // the map of a file that has become shorter is deadly.
        let by_calls = self.flags.contains(Flags::NOMMAP) || self.options.read_only;
        let access = if by_calls {
            Access::Calls
        } else {
            Access::Mapped
        };
        let syncs = !self.flags.contains(Flags::NOSYNC);
        let len = file.metadata().map_err(OpenError::io("fstat"))?.len();
        FileBackend::new(Arc::clone(file), format.base(), access, syncs).map_err(
            |error| match error {
                Error::TooLarge => OpenError::TooLarge(len),
                error => error.into(),
            },
        )
    }

    /// Others may be using the file. If they are not, they are kept out meanwhile.
    fn recover(&self, db: &Db) -> Result<(), OpenError> {
        let pending = db.recovery_pending();
        if self.options.read_only {
            let refused = OpenError::Recovery(Error::ReadOnly);
            return if pending { Err(refused) } else { Ok(()) };
        }
        if !pending && db.unsized_area().map_err(OpenError::Recovery)?.is_none() {
            return Ok(());
        }
        // Not waiting: the holder may be in a commit and wait for OPEN.
        let alone = db
            .locks
            .lock_range(Range::DATA, Rw::Write, Wait::Try)
            .is_ok();
        let exclusive = alone && !db.uses_mutexes();
        let result = match (pending, exclusive) {
            (true, _) => db.recover(exclusive),
            (false, true) => db.size_area(),
            (false, false) => Ok(()),
        };
        if alone {
            db.locks.unlock_range(Range::DATA);
        }
        result.map_err(OpenError::Recovery)
    }
}
