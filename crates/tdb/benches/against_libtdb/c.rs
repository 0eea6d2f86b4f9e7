//! libtdb, linked into the benchmark only: its functions are declared here, so that neither a build
//! script nor a crate is needed for them. Loading the library at run time instead would cost an
//! indirect call for each function, and take the same declarations.
#![expect(
    unsafe_code,
    reason = "functions of the C library, measured for comparison"
)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use tdb::Flags;

use crate::HASH_SIZE;
use crate::contender::Contender;

/// `struct tdb_context`, opaque.
#[repr(C)]
struct Context([u8; 0]);

/// `TDB_DATA`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    dptr: *const u8,
    dsize: usize,
}

impl Data {
    fn of(bytes: &[u8]) -> Self {
        Self {
            dptr: bytes.as_ptr(),
            dsize: bytes.len(),
        }
    }
}

type Visit = extern "C" fn(*mut Context, Data, Data, *mut c_void) -> c_int;

const TDB_REPLACE: c_int = 1;
const TDB_INSERT: c_int = 2;

#[link(name = "tdb")]
unsafe extern "C" {
    fn tdb_open(
        name: *const c_char,
        hash_size: c_int,
        tdb_flags: c_int,
        open_flags: c_int,
        mode: libc::mode_t,
    ) -> *mut Context;
    fn tdb_close(tdb: *mut Context) -> c_int;
    fn tdb_fetch(tdb: *mut Context, key: Data) -> Data;
    fn tdb_store(tdb: *mut Context, key: Data, data: Data, flag: c_int) -> c_int;
    fn tdb_delete(tdb: *mut Context, key: Data) -> c_int;
    fn tdb_traverse_read(tdb: *mut Context, visit: Visit, state: *mut c_void) -> c_int;
    fn tdb_chainlock(tdb: *mut Context, key: Data) -> c_int;
    fn tdb_chainunlock(tdb: *mut Context, key: Data) -> c_int;
    fn tdb_transaction_start(tdb: *mut Context) -> c_int;
    fn tdb_transaction_commit(tdb: *mut Context) -> c_int;
}

/// A database opened by libtdb.
pub(crate) struct Libtdb(*mut Context);

impl Libtdb {
    fn store(&self, key: &[u8], data: &[u8], flag: c_int) {
        // SAFETY: the handle is open, and both slices live during the call, which copies them.
        let stored = unsafe { tdb_store(self.0, Data::of(key), Data::of(data), flag) };
        assert_eq!(stored, 0, "tdb_store");
    }
}

extern "C" fn go_on(_: *mut Context, _: Data, _: Data, _: *mut c_void) -> c_int {
    0
}

impl Contender for Libtdb {
    const NAME: &'static str = "libtdb";

    fn create(path: &Path, flags: Flags) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in it");
        let (hash_size, flags) = (HASH_SIZE.cast_signed(), flags.bits().cast_signed());
        let open_flags = libc::O_RDWR | libc::O_CREAT;
        // SAFETY: the path is a C string that lives during the call.
        let db = unsafe { tdb_open(path.as_ptr(), hash_size, flags, open_flags, 0o600) };
        assert!(!db.is_null(), "tdb_open");
        Self(db)
    }

    fn fetch(&self, key: &[u8]) -> usize {
        // SAFETY: as in `store`. The data is from `malloc`, and ours.
        unsafe {
            let data = tdb_fetch(self.0, Data::of(key));
            assert!(!data.dptr.is_null(), "tdb_fetch");
            libc::free(data.dptr.cast_mut().cast());
            data.dsize
        }
    }

    fn replace(&self, key: &[u8], data: &[u8]) {
        self.store(key, data, TDB_REPLACE);
    }

    fn insert(&self, key: &[u8], data: &[u8]) {
        self.store(key, data, TDB_INSERT);
    }

    fn delete(&self, key: &[u8]) {
        // SAFETY: as in `store`.
        let deleted = unsafe { tdb_delete(self.0, Data::of(key)) };
        assert_eq!(deleted, 0, "tdb_delete");
    }

    fn traverse(&self) -> u64 {
        // SAFETY: the handle is open, and the callback uses none of its arguments.
        let count = unsafe { tdb_traverse_read(self.0, go_on, ptr::null_mut()) };
        u64::try_from(count).expect("tdb_traverse_read")
    }

    fn lock_and_unlock(&self, key: &[u8]) {
        // SAFETY: as in `store`.
        let results = unsafe {
            let locked = tdb_chainlock(self.0, Data::of(key));
            (locked, tdb_chainunlock(self.0, Data::of(key)))
        };
        assert_eq!(results, (0, 0), "tdb_chainlock, tdb_chainunlock");
    }

    fn commit(&self, key: &[u8], data: &[u8]) {
        // SAFETY: the handle is open.
        assert_eq!(unsafe { tdb_transaction_start(self.0) }, 0, "start");
        self.replace(key, data);
        // SAFETY: the handle is open.
        assert_eq!(unsafe { tdb_transaction_commit(self.0) }, 0, "commit");
    }
}

impl Drop for Libtdb {
    fn drop(&mut self) {
        // SAFETY: opened by `create`, and not used any more.
        unsafe { tdb_close(self.0) };
    }
}
