//! Trivial database files, shared live with programs that use libtdb.
//!
//! A TDB file is a hash table of records that many processes map into their memory at the same
//! time. This crate reads and writes such files under the locks that the C library takes, so that
//! both may work on one file at once. It knows nothing of CTDB. Numbers like `tdb.md` 3.4 in
//! comments name sections of the specification.
//!
//! | module        | owns                                                                       |
//! |---------------|----------------------------------------------------------------------------|
//! | `open`        | flags, opening, creating, clearing; `format`: the header of a file         |
//! | `db`          | the handle: locks as a caller sees them, settings                          |
//! | `store`       | fetch, store, append, delete                                               |
//! | `traverse`    | going through all records while others change them                         |
//! | `check`       | is the file sound; `rescue`: what can be read of one that is not           |
//! | `summary`     | how its space is used; `wipe`: removing all records                        |
//! | `freelist`    | room for records; `repack`: free space back in one piece                   |
//! | `transaction` | many changes that survive a crash together; `overlay`: what they changed     |
//! | `rewrite`     | a transaction that writes all records anew, once                           |
//! | `recovery`    | rolling back a commit that was cut short                                   |
//! | `lock`        | kernel locks, nesting, marks                                               |
//! | `mutex`       | the robust mutexes in the file (unsafe)                                    |
//! | `image`       | words, records and lists in the bytes                                      |
//! | `map`         | the mapped file (unsafe); `backend`: what stands for it in memory          |
//! | `layout`      | offsets and magic numbers; `hash`: the two hash functions                  |

mod backend;
mod check;
mod db;
mod error;
mod format;
mod freelist;
mod hash;
mod image;
mod layout;
mod lock;
mod map;
mod mutex;
mod open;
mod overlay;
mod recovery;
mod repack;
mod rescue;
mod rewrite;
mod store;
mod summary;
mod tail;
mod transaction;
mod traverse;
mod wipe;

pub use backend::Backend;
pub use check::CheckReport;
pub use db::{AllLock, ChainLock, Db, FreelistLock, KeyPlace, TransactionLock};
pub use error::{Error, ErrorCode, OpenError, Result};
pub use hash::{HashKind, hash_jenkins, hash_old};
pub use layout::ByteOrder;
pub use mutex::mutexes_work;
pub use open::{Flags, OpenOptions};
pub use store::StoreMode;
pub use summary::{Summary, Tally};
pub use traverse::Visit;
