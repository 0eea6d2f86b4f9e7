//! `hold_freelist SOCKET DATABASE [MILLISECONDS]`: attaches the database and keeps the lock of a
//! chain and of the free list, as smbd does while it makes room for a record. Says `held`; lets go
//! when its standard input ends. With a time it lets go after each such time, and takes the locks
//! again at once.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ctdb_tools::blocking::{Connection, Database};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (socket, name, time) = match arguments.as_slice() {
        [socket, name] => (socket, name, None),
        [socket, name, time] => (socket, name, Some(Duration::from_millis(time.parse()?))),
        _ => return Err("usage: hold_freelist SOCKET DATABASE [MILLISECONDS]".into()),
    };
    let mut connection = Connection::connect(Path::new(socket))?;
    let database = connection.attach(name)?;
    match time {
        None => holding(&database, || {
            say_held()?;
            io::copy(&mut io::stdin(), &mut io::sink())?;
            Ok(())
        }),
        Some(time) => {
            say_held()?;
            hold_again_and_again(&database, time)
        }
    }
}

fn say_held() -> io::Result<()> {
    writeln!(io::stdout(), "held")
}

fn holding(
    database: &Database,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let _chain = database.file().chainlock(b"of the holder")?;
    let _freelist = database.file().freelist_lock()?;
    work()
}

fn hold_again_and_again(database: &Database, time: Duration) -> Result<(), Box<dyn Error>> {
    static ENDS: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        ENDS.store(true, Ordering::Relaxed);
    });
    while !ENDS.load(Ordering::Relaxed) {
        holding(database, || {
            thread::sleep(time);
            Ok(())
        })?;
    }
    Ok(())
}
