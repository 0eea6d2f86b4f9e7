//! The database as words and records: byte order, bounds, and steps along a list.

use std::cell::{Cell, Ref, RefCell};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layout::{
    ByteOrder, FREELIST_HEAD, MAGIC_AT, Magic, RECORD_SIZE, Record, TAILER_SIZE, chain_head,
    data_start,
};
use crate::map::FileBackend;
use crate::overlay::{OpenSpill, Overlay};

/// Typed access to the bytes of one database, as a running transaction sees them.
pub(crate) struct Image {
    bytes: Bytes,
    order: ByteOrder,
    data_start: u32,
    overlay: RefCell<Option<Overlay>>,
    /// Whether there is an overlay: what every access asks first.
    overlaid: Cell<bool>,
}

/// The bytes below a transaction. The file is told apart because every access goes through here.
pub(crate) enum Bytes {
    File(FileBackend),
    Other(Box<dyn Backend>),
}

impl Bytes {
    pub(crate) fn backend(&self) -> &dyn Backend {
        match self {
            Self::File(file) => file,
            Self::Other(other) => &**other,
        }
    }
}

impl Image {
    pub(crate) fn new(bytes: Bytes, order: ByteOrder, hash_size: u32) -> Self {
        let (overlay, overlaid) = (RefCell::new(None), Cell::new(false));
        Self {
            bytes,
            order,
            data_start: data_start(hash_size),
            overlay,
            overlaid,
        }
    }

    /// The bytes below the transaction.
    pub(crate) fn backend(&self) -> &dyn Backend {
        self.bytes.backend()
    }

    /// The file, if no transaction hides it.
    #[inline]
    fn file(&self) -> Option<&FileBackend> {
        match &self.bytes {
            Bytes::File(file) if !self.overlaid.get() => Some(file),
            _ => None,
        }
    }

    /// Whether the database is a file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.bytes, Bytes::File(_))
    }

    /// From now on changes are kept apart: in memory, and what is too much for that in a file.
    pub(crate) fn begin(&self, spill: Option<OpenSpill>) -> Result<()> {
        let size = self.backend().refresh()?;
        *self.overlay.borrow_mut() = Some(Overlay::new(size, spill));
        self.overlaid.set(true);
        Ok(())
    }

    /// Has changes kept apart again, which [`Self::end`] returned.
    pub(crate) fn resume(&self, changes: Option<Overlay>) {
        self.overlaid.set(changes.is_some());
        *self.overlay.borrow_mut() = changes;
    }

    /// Ends what [`Self::begin`] began. The changes are in the result, and nowhere else.
    pub(crate) fn end(&self) -> Option<Overlay> {
        self.overlaid.set(false);
        self.overlay.borrow_mut().take()
    }

    /// Does something with the changes and with what is below them. `None` if no transaction runs.
    pub(crate) fn with_changes<R>(
        &self,
        act: impl FnOnce(&mut Overlay, &dyn Backend) -> R,
    ) -> Option<R> {
        if !self.overlaid.get() {
            return None;
        }
        let mut overlay = self.overlay.borrow_mut();
        overlay.as_mut().map(|overlay| act(overlay, self.backend()))
    }

    /// The changes so far.
    pub(crate) fn overlay(&self) -> Ref<'_, Option<Overlay>> {
        self.overlay.borrow()
    }

    pub(crate) fn order(&self) -> ByteOrder {
        self.order
    }

    /// Offset of the first record.
    pub(crate) fn data_start(&self) -> u32 {
        self.data_start
    }

    /// Size as far as it is known.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        if let Some(file) = self.file() {
            return file.size();
        }
        match &*self.overlay.borrow() {
            Some(overlay) => overlay.size(),
            None => self.backend().size(),
        }
    }

    /// Size now.
    pub(crate) fn refresh(&self) -> Result<u32> {
        match &*self.overlay.borrow() {
            Some(overlay) => Ok(overlay.size()),
            None => self.backend().refresh(),
        }
    }

    pub(crate) fn read(&self, offset: u32, out: &mut [u8]) -> Result<()> {
        match &*self.overlay.borrow() {
            Some(overlay) => overlay.read(self.backend(), offset, out),
            None => self.backend().read(offset, out),
        }
    }

    #[inline]
    pub(crate) fn write(&self, offset: u32, data: &[u8]) -> Result<()> {
        if let Some(file) = self.file() {
            return file.write(offset, data);
        }
        match &mut *self.overlay.borrow_mut() {
            Some(overlay) => overlay.write(self.backend(), offset, data),
            None => self.backend().write(offset, data),
        }
    }

    #[inline]
    pub(crate) fn matches(&self, offset: u32, expected: &[u8]) -> Result<bool> {
        if let Some(file) = self.file() {
            return file.matches(offset, expected);
        }
        match &*self.overlay.borrow() {
            Some(overlay) => {
                let mut found = vec![0; expected.len()];
                overlay.read(self.backend(), offset, &mut found)?;
                Ok(found == expected)
            }
            None => self.backend().matches(offset, expected),
        }
    }

    pub(crate) fn grow(&self, new_size: u32) -> Result<()> {
        match &mut *self.overlay.borrow_mut() {
            Some(overlay) => {
                overlay.grow(new_size);
                Ok(())
            }
            None => self.backend().grow(new_size),
        }
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.backend().sync()
    }

    /// Adds 1 to a word that others change at the same time. False if that needs a lock.
    pub(crate) fn increment(&self, offset: u32) -> Result<bool> {
        if self.overlay.borrow().is_none() {
            return self.backend().increment(offset, self.order);
        }
        let number = self.word(offset)?;
        self.set_word(offset, number.wrapping_add(1))?;
        Ok(true)
    }

    #[inline]
    pub(crate) fn word(&self, offset: u32) -> Result<u32> {
        let [word] = self.words(offset)?;
        Ok(self.order.word(word))
    }

    #[expect(
        clippy::inline_always,
        reason = "a record returned through memory stalls the reader"
    )]
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Result<[[u8; 4]; N]> {
        match self.file() {
            Some(file) => file.words(offset),
            None => self.read_words(offset),
        }
    }

    fn read_words<const N: usize>(&self, offset: u32) -> Result<[[u8; 4]; N]> {
        let mut words = [[0; 4]; N];
        self.read(offset, words.as_flattened_mut())?;
        Ok(words)
    }

    pub(crate) fn set_word(&self, offset: u32, word: u32) -> Result<()> {
        self.write(offset, &self.order.bytes(word))
    }

    /// Appends `len` bytes from `offset` on to `out`. Nothing is reserved before it is known that
    /// the bytes exist.
    pub(crate) fn append_to(&self, offset: u32, len: u32, out: &mut Vec<u8>) -> Result<()> {
        if let Some(file) = self.file() {
            return file.append_to(offset, len, out);
        }
        self.check_inside(offset, len)?;
        let start = out.len();
        out.resize(start + len as usize, 0);
        self.read(offset, &mut out[start..])
    }

    #[expect(
        clippy::inline_always,
        reason = "a record returned through memory stalls the reader"
    )]
    #[inline(always)]
    pub(crate) fn record(&self, offset: u32) -> Result<Record> {
        Ok(Record::decode(&self.words(offset)?, self.order))
    }

    pub(crate) fn set_record(&self, offset: u32, record: &Record) -> Result<()> {
        self.write(offset, &record.encode(self.order))
    }

    pub(crate) fn set_magic(&self, offset: u32, magic: Magic) -> Result<()> {
        self.set_word(offset + MAGIC_AT, magic.0)
    }

    /// Writes the last word of the record at `offset`, by which its right neighbour finds it.
    pub(crate) fn set_tailer(&self, offset: u32, record: &Record) -> Result<()> {
        let at = offset
            .checked_add(record.tailer())
            .and_then(|end| end.checked_sub(TAILER_SIZE))
            .ok_or(Error::Corrupt {
                offset,
                what: "record length wraps around",
            })?;
        self.set_word(at, record.tailer())
    }

    /// Fails unless `offset..offset + len` lies inside the database, as it is now.
    #[inline]
    pub(crate) fn check_inside(&self, offset: u32, len: u32) -> Result<()> {
        let inside = |size: u32| offset.checked_add(len).is_some_and(|end| end <= size);
        if inside(self.size()) || inside(self.refresh()?) {
            return Ok(());
        }
        Err(Error::OutOfBounds {
            offset,
            len: len as usize,
            size: self.size(),
        })
    }

    /// Walks hash chain `bucket`, used and dead records.
    #[inline]
    pub(crate) fn chain(&self, bucket: u32) -> Result<Walk<'_>> {
        Walk::new(self, chain_head(bucket))
    }

    /// Walks the free list. The caller looks at the magics.
    pub(crate) fn freelist(&self) -> Result<Walk<'_>> {
        Walk::new(self, FREELIST_HEAD)
    }
}

/// A record met on a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) offset: u32,
    /// Offset of the word that points to this record: the list head or a `next`.
    pub(crate) link: u32,
    pub(crate) record: Record,
}

/// What is wrong with a list that has no end.
pub(crate) const LOOP: &str = "list is a loop";

/// A walk along a list, which ends with an error if the list is a loop.
pub(crate) struct Walk<'i> {
    image: &'i Image,
    /// Offset of the word that holds `next`.
    link: u32,
    next: u32,
    loops: LoopGuard,
}

impl<'i> Walk<'i> {
    fn new(image: &'i Image, head: u32) -> Result<Self> {
        let next = image.word(head)?;
        Ok(Self {
            image,
            link: head,
            next,
            loops: LoopGuard::default(),
        })
    }

    /// Goes to the next record of whatever kind.
    #[expect(
        clippy::inline_always,
        reason = "a record returned through memory stalls the reader"
    )]
    #[inline(always)]
    pub(crate) fn step(&mut self) -> Result<Option<Item>> {
        let (offset, link) = (self.next, self.link);
        if offset == 0 {
            return Ok(None);
        }
        if self.loops.passed_before(offset) {
            return Err(Error::Corrupt { offset, what: LOOP });
        }
        if offset < self.image.data_start {
            return Err(Error::Corrupt {
                offset,
                what: "record lies in the header",
            });
        }
        let record = self.image.record(offset)?;
        (self.link, self.next) = (offset, record.next);
        Ok(Some(Item {
            offset,
            link,
            record,
        }))
    }

    /// Goes to the next record of a hash chain, and fails if it cannot be one (`tdb.md` 3.1).
    #[expect(
        clippy::inline_always,
        reason = "a record returned through memory stalls the reader"
    )]
    #[inline(always)]
    pub(crate) fn step_chain(&mut self) -> Result<Option<Item>> {
        let item = self.step()?;
        if let Some(item) = &item {
            check_chained(self.image, item)?;
        }
        Ok(item)
    }

    /// Takes the record of the last step out of the list.
    pub(crate) fn unlink(&mut self, item: &Item) -> Result<()> {
        self.image.set_word(item.link, item.record.next)?;
        self.link = item.link;
        Ok(())
    }
}

/// Brent's loop detection: remembers one place, moved on at growing intervals.
#[derive(Clone, Copy, Debug, Default)]
struct LoopGuard {
    anchor: u32,
    steps: u32,
    interval: u32,
}

impl LoopGuard {
    /// Notes a step to `offset`. True, in a loop, after at most three times round it.
    #[inline]
    fn passed_before(&mut self, offset: u32) -> bool {
        if offset == self.anchor {
            return true;
        }
        self.steps += 1;
        if self.steps > self.interval {
            self.anchor = offset;
            self.interval = self.steps.saturating_mul(2);
            self.steps = 0;
        }
        false
    }
}

/// What a reader of a chain insists on. The contents are bounds-checked where they are read.
#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn check_chained(image: &Image, item: &Item) -> Result<()> {
    let Item { offset, record, .. } = *item;
    let corrupt = |what| Err(Error::Corrupt { offset, what });
    if record.magic != Magic::USED && record.magic != Magic::DEAD {
        return corrupt("record in a hash chain is not in use");
    }
    if record.content_len().is_none() {
        return corrupt("key and data do not fit into the record");
    }
    image.check_inside(offset + RECORD_SIZE, record.rec_len)?;
    if record.next != 0 {
        image.check_inside(record.next, RECORD_SIZE)?;
    }
    Ok(())
}
