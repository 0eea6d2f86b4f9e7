//! `hold_freelist SOCKET DATABASE`: attaches the database and keeps the lock of a chain and of the
//! free list, as smbd does while it makes room for a record. Says `held`; lets go when its standard
//! input ends.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;

use ctdb_tools::blocking::Connection;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, name] = arguments.as_slice() else {
        return Err("usage: hold_freelist SOCKET DATABASE".into());
    };
    let mut connection = Connection::connect(Path::new(socket))?;
    let database = connection.attach(name)?;
    let _chain = database.file().chainlock(b"of the holder")?;
    let _freelist = database.file().freelist_lock()?;
    writeln!(io::stdout(), "held")?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
