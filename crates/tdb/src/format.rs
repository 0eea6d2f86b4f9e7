//! The header of a file: what it says of the database, and writing a new one (`tdb.md` 1.1).

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};

use crate::error::OpenError;
use crate::hash::HashKind;
use crate::layout::{ByteOrder, FEATURE_MUTEX, FileHeader, HeaderBytes, VERSION, data_start};
use crate::mutex;
use crate::open::Flags;

/// What the header says, once it is known to be one.
pub(crate) struct Format {
    pub(crate) header: FileHeader,
    pub(crate) order: ByteOrder,
    pub(crate) hash: HashKind,
}

impl Format {
    /// The checks of `tdb.md` 1.1, numbers 2 to 8.
    pub(crate) fn decode(bytes: &HeaderBytes, flags: Flags) -> Result<Self, OpenError> {
        let order = ByteOrder::NATIVE;
        let native = FileHeader::decode(bytes, order).ok_or(OpenError::NotTdb)?;
        let (header, order) = if native.version == VERSION {
            (native, order)
        } else {
            let order = order.other();
            let foreign = FileHeader::decode(bytes, order).ok_or(OpenError::NotTdb)?;
            if foreign.version != VERSION {
                return Err(OpenError::Version(native.version));
            }
            (foreign, order)
        };
        if !header.marker_is_known() {
            return Err(OpenError::FormatMarker(header.marker));
        }
        if header.hash_size == 0 {
            return Err(OpenError::NoBuckets);
        }
        if header.features() & !FEATURE_MUTEX != 0 {
            return Err(OpenError::Features(header.features()));
        }
        let format = Self {
            header,
            order,
            hash: HashKind::Old,
        };
        format.check_mutexes(flags)?;
        let suggested = suggested_hash(flags);
        let hash = header
            .hash_kind(suggested, order)
            .ok_or(OpenError::UnknownHash)?;
        Ok(Self { hash, ..format })
    }

    /// A database with mutexes can be used with them, or without any locks.
    fn check_mutexes(&self, flags: Flags) -> Result<(), OpenError> {
        if !self.has_mutexes() || flags.contains(Flags::NOLOCK) {
            return Ok(());
        }
        if !flags.contains(Flags::MUTEX_LOCKING) {
            return Err(OpenError::UsesMutexes);
        }
        let found = self.header.mutex_size;
        let expected = mutex::area_size(self.header.hash_size);
        if u64::from(found) == expected {
            Ok(())
        } else {
            Err(OpenError::MutexSize { found, expected })
        }
    }

    pub(crate) fn has_mutexes(&self) -> bool {
        self.header.features() & FEATURE_MUTEX != 0
    }

    /// Where the database begins in the file.
    pub(crate) fn base(&self) -> u64 {
        if self.has_mutexes() {
            self.header.mutex_size.into()
        } else {
            0
        }
    }
}

fn suggested_hash(flags: Flags) -> HashKind {
    if flags.contains(Flags::INCOMPATIBLE_HASH) {
        HashKind::Jenkins
    } else {
        HashKind::Old
    }
}

/// Writes a new, empty database. With mutexes it has megabytes, so it is never whole in memory.
pub(crate) fn write_new(
    out: &mut impl Write,
    hash_size: u32,
    flags: Flags,
) -> Result<(), OpenError> {
    let convert = flags.contains(Flags::CONVERT);
    let order = if convert {
        ByteOrder::NATIVE.other()
    } else {
        ByteOrder::NATIVE
    };
    let mutexes = flags.contains(Flags::MUTEX_LOCKING);
    let mutex_size = if mutexes {
        mutex::area_size(hash_size)
    } else {
        0
    };
    let mutex_size = u32::try_from(mutex_size)
        .map_err(|_| OpenError::Invalid("hash size is too large for mutexes"))?;
    let header = FileHeader::new(hash_size, suggested_hash(flags), order, mutex_size);
    let header = header.encode(order);
    let mut write = || {
        if mutexes {
            // This header is read at open only. Behind the mutexes follows the one that changes.
            out.write_all(&header)?;
            mutex::write_unlocked(out, hash_size)?;
        }
        out.write_all(&header)?;
        mutex::write_zeros(out, data_start(hash_size) as usize - header.len())
    };
    write().map_err(OpenError::io("creating the database"))
}

/// A writer for a part of a file that begins at `start`.
pub(crate) fn writer_at(mut file: &File, start: u64) -> io::Result<BufWriter<&File>> {
    const BUFFER: usize = 64 * 1024;
    file.seek(SeekFrom::Start(start))?;
    Ok(BufWriter::with_capacity(BUFFER, file))
}
