//! A database in a file, mapped into memory together with other processes.
//!
//! One of the two files with `unsafe` code. The mapping is never seen as a slice: other processes
//! write to it at any time. Words are read and written at once by volatile accesses. Longer runs of
//! bytes are copied, and not looked at where they lie: whatever is written meanwhile, the copy is
//! plain bytes.
//!
//! Growing allocates the blocks of the file before they are mapped, therefore a full disk is an
//! error of [`Backend::grow`] and never a `SIGBUS`. A file that somebody else has made sparse gets
//! its blocks first. If there is no room for them it is not mapped, and whoever wants to write to it
//! gets the error before anything is changed.
#![expect(
    unsafe_code,
    reason = "memory shared with other processes is accessed by pointer"
)]
#![expect(clippy::cast_ptr_alignment, reason = "every such cast is checked")]

use std::cell::{Cell, RefCell};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate, posix_fallocate};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layout::ByteOrder;

/// The bytes of a file from `base` on.
pub(crate) struct FileBackend {
    file: Arc<File>,
    /// Length of the mutex area in front of the database.
    base: u64,
    size: Cell<u32>,
    access: Access,
    /// The database, and room for it to grow without being mapped again. `None` if mapping failed.
    map: RefCell<Option<MmapRaw>>,
    /// The part of `map` that is known to be in the file.
    window: Cell<Window>,
    syncs: bool,
    /// Blocks of the file are missing, and there is no room for them.
    holes: Cell<bool>,
}

/// Address and length of the part of a mapping that may be touched; no length without one.
#[derive(Clone, Copy)]
struct Window {
    address: *mut u8,
    len: usize,
}

// SAFETY: the address leads to memory that is owned by the same `FileBackend` and not tied to a
// thread.
unsafe impl Send for Window {}

impl Window {
    const NONE: Self = Self {
        address: std::ptr::null_mut(),
        len: 0,
    };
}

/// How the bytes of a file are reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Through shared memory.
    Mapped,
    /// With `pread` and `pwrite`.
    Calls,
}

/// Address space, in bytes, that is mapped behind the end of a small file. Costs no memory.
const MAP_AHEAD: usize = 1 << 20;

/// Copies of at least as many bytes are left to `memcpy`.
const BULK: usize = 32;

/// Where some bytes of the database are. Valid until [`FileBackend::follow_size`] is called.
enum Place {
    Mapped(*mut u8),
    /// Position in the file.
    File(u64),
}

impl FileBackend {
    /// Fails if the file is larger than the format allows.
    pub(crate) fn new(file: Arc<File>, base: u64, access: Access, syncs: bool) -> Result<Self> {
        let (size, map, window) = (Cell::new(0), RefCell::new(None), Cell::new(Window::NONE));
        let new = Self {
            file,
            base,
            size,
            access,
            map,
            window,
            syncs,
            holes: Cell::new(false),
        };
        new.refresh()?;
        Ok(new)
    }

    /// An empty file without a name in a folder, for this process alone. It is gone when closed.
    pub(crate) fn nameless(dir: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let flags = libc::O_TMPFILE | libc::O_CLOEXEC;
        let file = options.custom_flags(flags).open(dir);
        let file = file.map_err(Error::io("open"))?;
        Self::new(Arc::new(file), 0, Access::Mapped, false)
    }

    /// Finds bytes `offset..offset + len`, which lie inside the file.
    #[inline]
    fn place(&self, offset: u32, len: usize) -> Result<Place> {
        let window = self.window.get();
        match (offset as usize).checked_add(len) {
            Some(end) if end <= window.len => {
                // SAFETY: `offset` is at most `end`, and `end` at most the length of the mapping.
                Ok(Place::Mapped(unsafe {
                    window.address.add(offset as usize)
                }))
            }
            _ => self.place_again(offset, len),
        }
    }

    /// The same, for bytes that were not mapped when this was last looked at.
    #[cold]
    fn place_again(&self, offset: u32, len: usize) -> Result<Place> {
        let end = u64::from(offset) + len as u64;
        if end > u64::from(self.size.get()) && end > u64::from(self.refresh()?) {
            return Err(Error::OutOfBounds {
                offset,
                len,
                size: self.size.get(),
            });
        }
        let window = self.window.get();
        if end <= window.len as u64 {
            // SAFETY: as in `place`.
            return Ok(Place::Mapped(unsafe {
                window.address.add(offset as usize)
            }));
        }
        Ok(Place::File(self.base + u64::from(offset)))
    }

    /// Adds `len` bytes from `offset` on to `out`. Reserves nothing before it is known that they
    /// exist.
    #[inline]
    pub(crate) fn append_to(&self, offset: u32, len: u32, out: &mut Vec<u8>) -> Result<()> {
        let (len, start) = (len as usize, out.len());
        match self.place(offset, len)? {
            Place::Mapped(source) => {
                if out.capacity() == 0 {
                    *out = Vec::with_capacity(len);
                } else {
                    out.reserve(len);
                }
                // SAFETY: `place` found that many bytes mapped, and the mapping is the same since;
                // the vector has room for them, and all of them are written before it is longer.
                unsafe {
                    load(source, out.as_mut_ptr().add(start), len);
                    out.set_len(start + len);
                }
                Ok(())
            }
            Place::File(at) => {
                out.resize(start + len, 0);
                self.file
                    .read_exact_at(&mut out[start..], at)
                    .map_err(Error::io("pread"))
            }
        }
    }

    /// The `N` words from `offset` on, each read at once if it is aligned in the file.
    #[expect(clippy::inline_always, reason = "the words stay in registers")]
    #[expect(
        clippy::host_endian_bytes,
        reason = "the bytes as they lie in the file"
    )]
    #[inline(always)]
    pub(crate) fn words<const N: usize>(&self, offset: u32) -> Result<[[u8; 4]; N]> {
        match self.place(offset, 4 * N)? {
            Place::Mapped(source) if source.cast::<u32>().is_aligned() => {
                Ok(std::array::from_fn(|index| {
                    // SAFETY: `place` found all `N` words mapped, and the mapping is the same
                    // since.
                    unsafe { source.cast::<u32>().add(index).read_volatile() }.to_ne_bytes()
                }))
            }
            _ => self.read_words(offset),
        }
    }

    /// The same for words that are not aligned, or not mapped.
    #[cold]
    fn read_words<const N: usize>(&self, offset: u32) -> Result<[[u8; 4]; N]> {
        let mut words = [[0; 4]; N];
        self.read(offset, words.as_flattened_mut())?;
        Ok(words)
    }

    /// Gives a sparse file all its blocks. False if that is not possible.
    fn fill_holes(&self, metadata: &Metadata) -> bool {
        const BLOCK: u64 = 512;
        if metadata.blocks().saturating_mul(BLOCK) >= metadata.len() {
            return true;
        }
        let Ok(len) = i64::try_from(metadata.len()) else {
            return false;
        };
        loop {
            // Not `posix_fallocate`, which might write to what others are writing to, or make the
            // file larger that another has made smaller meanwhile.
            match fallocate(&*self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, len) {
                Err(Errno::EINTR) => {}
                // Files of file systems that compress look sparse. They are mapped as they are.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Fails if blocks are missing and there is still no room for them.
    fn insist_on_blocks(&self) -> Result<()> {
        if !self.holes.get() {
            return Ok(());
        }
        let metadata = self.file.metadata().map_err(Error::io("fstat"))?;
        if !self.fill_holes(&metadata) {
            return Err(Error::NoSpace {
                wanted: metadata.len(),
            });
        }
        self.holes.set(false);
        self.follow_size();
        Ok(())
    }

    /// Follows a change of the file's size. Bytes behind its end are mapped ahead and not touched;
    /// a mapping that is long enough stays, and with it the pages that it knows.
    fn follow_size(&self) {
        let size = self.size.get() as usize;
        let mut map = self.map.borrow_mut();
        if self.holes.get() {
            *map = None;
        } else if map.as_ref().is_none_or(|map| map.len() < size) {
            *map = self.map(size);
        }
        self.window
            .set(map.as_ref().map_or(Window::NONE, |map| Window {
                address: map.as_mut_ptr(),
                len: size,
            }));
    }

    /// Maps `size` bytes and more. Where that is not possible, calls are used instead.
    fn map(&self, size: usize) -> Option<MmapRaw> {
        let ahead = size.next_power_of_two().max(MAP_AHEAD);
        let mut options = MmapOptions::new();
        options.offset(self.base).len(size + ahead);
        match self.access {
            Access::Mapped if size > 0 => options.map_raw(&*self.file).ok(),
            _ => None,
        }
    }

    /// Makes `len` bytes of the file real from `start` on. A file system that cannot allocate
    /// ahead gets them written.
    fn allocate(&self, start: u64, len: u64) -> io::Result<()> {
        let position = |n: u64| i64::try_from(n).map_err(io::Error::other);
        match posix_fallocate(&*self.file, position(start)?, position(len)?) {
            Err(Errno::ENOSPC) => Err(Errno::ENOSPC.into()),
            Err(_) => write_zeros(&self.file, start, len),
            Ok(()) => Ok(()),
        }
    }
}

impl Backend for FileBackend {
    fn size(&self) -> u32 {
        self.size.get()
    }

    fn refresh(&self) -> Result<u32> {
        let metadata = self.file.metadata().map_err(Error::io("fstat"))?;
        let size = metadata.size().saturating_sub(self.base);
        let size = u32::try_from(size).map_err(|_| Error::TooLarge)?;
        if self.size.replace(size) != size {
            self.holes.set(!self.fill_holes(&metadata));
            self.follow_size();
        }
        Ok(size)
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> Result<()> {
        match self.place(offset, out.len())? {
            // SAFETY: `place` found that many bytes mapped, and the mapping is the same since.
            Place::Mapped(source) => unsafe { load(source, out.as_mut_ptr(), out.len()) },
            Place::File(at) => self
                .file
                .read_exact_at(out, at)
                .map_err(Error::io("pread"))?,
        }
        Ok(())
    }

    fn write(&self, offset: u32, data: &[u8]) -> Result<()> {
        match self.place(offset, data.len())? {
            // SAFETY: `place` found that many bytes mapped, writable as all our mappings are, and the
            // mapping is the same since.
            Place::Mapped(target) => unsafe { store(target, data) },
            Place::File(at) => {
                self.insist_on_blocks()?;
                self.file
                    .write_all_at(data, at)
                    .map_err(Error::io("pwrite"))?;
            }
        }
        Ok(())
    }

    fn grow(&self, new_size: u32) -> Result<()> {
        let old_size = self.size.get();
        let Some(more) = new_size.checked_sub(old_size) else {
            return Ok(());
        };
        self.insist_on_blocks()?;
        let start = self.base + u64::from(old_size);
        if let Err(error) = self.allocate(start, u64::from(more)) {
            // The file may have grown in part. Its old end is what everybody knows.
            self.file.set_len(start).map_err(Error::io("ftruncate"))?;
            return Err(match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Error::NoSpace {
                    wanted: self.base + u64::from(new_size),
                },
                _ => Error::Io {
                    what: "growing the file",
                    source: error,
                },
            });
        }
        self.refresh().map(drop)
    }

    fn sync(&self) -> Result<()> {
        // On Linux this writes back what was changed through mappings too: no `msync` needed.
        if self.syncs {
            self.file.sync_data().map_err(Error::io("fdatasync"))
        } else {
            Ok(())
        }
    }

    fn word(&self, offset: u32) -> Result<[u8; 4]> {
        self.words::<1>(offset).map(|[word]| word)
    }

    #[inline]
    fn matches(&self, offset: u32, expected: &[u8]) -> Result<bool> {
        match self.place(offset, expected.len())? {
            // SAFETY: `place` found that many bytes mapped, and the mapping is the same since.
            Place::Mapped(source) => Ok(unsafe { equals(source, expected) }),
            Place::File(at) => {
                let mut found = vec![0; expected.len()];
                self.file
                    .read_exact_at(&mut found, at)
                    .map_err(Error::io("pread"))?;
                Ok(found == expected)
            }
        }
    }

    fn increment(&self, offset: u32, order: ByteOrder) -> Result<bool> {
        let Place::Mapped(address) = self.place(offset, 4)? else {
            return Ok(false);
        };
        if !address.cast::<u32>().is_aligned() {
            return Ok(false);
        }
        // SAFETY: aligned as checked, mapped writable for as long as this call takes, and other
        // processes change this word by atomic instructions only.
        let word = unsafe { AtomicU32::from_ptr(address.cast()) };
        let swap = |value: u32| match order {
            ByteOrder::Little => u32::from_le(value),
            ByteOrder::Big => u32::from_be(value),
        };
        let bump = |value| Some(swap(swap(value).wrapping_add(1)));
        let _previous = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, bump);
        Ok(true)
    }

    fn touch(&self) {
        // Best effort: the change itself is safe on disk already.
        let _ = self.file.set_modified(SystemTime::now());
    }
}

/// For file systems without preallocation.
fn write_zeros(file: &File, start: u64, len: u64) -> io::Result<()> {
    let zeros = [0; 8192];
    let (mut at, end) = (start, start + len);
    while at < end {
        let chunk = zeros
            .chunks(usize::try_from(end - at).unwrap_or(zeros.len()))
            .next();
        let chunk = chunk.unwrap_or_default();
        file.write_all_at(chunk, at)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

/// Copies `len` bytes of shared memory to `target`.
///
/// # Safety
/// `source` leads to that many readable bytes, `target` to as many that belong to the caller.
unsafe fn load(source: *const u8, target: *mut u8, len: usize) {
    if len >= BULK {
        // SAFETY: the caller vouches for both sides, which cannot overlap: only one is shared.
        return unsafe { source.copy_to_nonoverlapping(target, len) };
    }
    let mut at = 0;
    // SAFETY: each step stays below `len`, which bounds both sides; volatile accesses are aligned
    // as checked; whatever other processes write meanwhile, the bytes are plain numbers.
    unsafe {
        while at < len {
            let from = source.add(at);
            if len - at >= 8 && from.cast::<u64>().is_aligned() {
                target
                    .add(at)
                    .cast::<u64>()
                    .write_unaligned(from.cast::<u64>().read_volatile());
                at += 8;
            } else if len - at >= 4 && from.cast::<u32>().is_aligned() {
                target
                    .add(at)
                    .cast::<u32>()
                    .write_unaligned(from.cast::<u32>().read_volatile());
                at += 4;
            } else {
                target.add(at).write(from.read_volatile());
                at += 1;
            }
        }
    }
}

/// Whether shared memory holds the `expected` bytes.
///
/// # Safety
/// `source` leads to as many readable bytes.
unsafe fn equals(source: *const u8, expected: &[u8]) -> bool {
    let (wanted, len, mut at) = (expected.as_ptr(), expected.len(), 0);
    // SAFETY: as in `load`.
    unsafe {
        while at < len {
            let from = source.add(at);
            let (same, step) = if len - at >= 8 && from.cast::<u64>().is_aligned() {
                let wanted = wanted.add(at).cast::<u64>().read_unaligned();
                (from.cast::<u64>().read_volatile() == wanted, 8)
            } else if len - at >= 4 && from.cast::<u32>().is_aligned() {
                let wanted = wanted.add(at).cast::<u32>().read_unaligned();
                (from.cast::<u32>().read_volatile() == wanted, 4)
            } else {
                (from.read_volatile() == wanted.add(at).read(), 1)
            };
            if !same {
                return false;
            }
            at += step;
        }
    }
    true
}

/// Copies `data` into shared memory.
///
/// # Safety
/// `target` leads to `data.len()` writable bytes.
unsafe fn store(target: *mut u8, data: &[u8]) {
    let (source, len, mut at) = (data.as_ptr(), data.len(), 0);
    if len >= BULK {
        // SAFETY: as in `load`.
        return unsafe { source.copy_to_nonoverlapping(target, len) };
    }
    // SAFETY: as in `load`.
    unsafe {
        while at < len {
            let to = target.add(at);
            if len - at >= 8 && to.cast::<u64>().is_aligned() {
                to.cast::<u64>()
                    .write_volatile(source.add(at).cast::<u64>().read_unaligned());
                at += 8;
            } else if len - at >= 4 && to.cast::<u32>().is_aligned() {
                to.cast::<u32>()
                    .write_volatile(source.add(at).cast::<u32>().read_unaligned());
                at += 4;
            } else {
                to.write_volatile(source.add(at).read());
                at += 1;
            }
        }
    }
}
