//! A connected stream socket, for a task that reads and a core task that writes.
//!
//! The runtime's own socket types cost more than needed here. They are told of every moment a
//! socket can be written to, and a Unix socket can whenever the other end has read something: the
//! daemon would be woken twice for each message that it passes on. Here a socket is watched for
//! bytes to read only, and for room to write only while there is none.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

/// Most bytes that are read at once.
const READ_SIZE: usize = 64 * 1024;

thread_local! {
    /// Where bytes are read to. One is enough: they are handed on before anybody else reads.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// A connected socket that may be shared. It is closed with the last one who has it.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<AsyncFd<OwnedFd>>);

impl Socket {
    /// Takes over a TCP connection.
    pub(crate) fn from_tcp(socket: TcpStream) -> io::Result<Self> {
        Self::new(socket.into_std()?.into())
    }

    /// Takes over a connection of a local process.
    pub(crate) fn from_unix(socket: UnixStream) -> io::Result<Self> {
        Self::new(socket.into_std()?.into())
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        watch(socket, Interest::READABLE).map(|fd| Self(Arc::new(fd)))
    }

    /// Waits for bytes and hands them to `take`. 0: the other end has closed.
    pub(crate) async fn read(&self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let result = recv(self.0.as_raw_fd(), scratch, MsgFlags::MSG_DONTWAIT);
                if let Ok(length) = result
                    && let Some(bytes) = scratch.get(..length)
                {
                    take(bytes);
                }
                result.map_err(io::Error::from)
            });
            // Fewer bytes than there was room for: there are no more. The end of the connection
            // is remembered by the runtime whatever is cleared here.
            if !matches!(read, Ok(READ_SIZE)) {
                ready.clear_ready();
            }
            match read {
                Err(error) if is_temporary(&error) => {}
                result => return result,
            }
        }
    }

    /// Whether the other end has closed the connection for both directions.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let looked = poll(&mut fds, PollTimeout::ZERO);
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        let found = fds[0].revents().unwrap_or(PollFlags::empty());
        looked.is_ok() && found.intersects(gone)
    }

    /// Writes what the socket has room for; `None` if it has none.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match send(self.0.as_raw_fd(), bytes, flags).map_err(io::Error::from) {
                Ok(written) => return Ok(Some(written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A watch for room to write. To be dropped when everything is written.
    pub(crate) fn watch_for_room(&self) -> io::Result<Room> {
        watch(self.0.as_fd().try_clone_to_owned()?, Interest::WRITABLE).map(Room)
    }
}

/// Tells when a socket can be written to.
pub(crate) struct Room(AsyncFd<OwnedFd>);

impl Room {
    /// Waits until there is room; `write` tells by `None` that there is none after all.
    pub(crate) async fn wait<T>(
        &self,
        mut write: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        loop {
            let mut ready = self.0.writable().await?;
            match write()? {
                Some(done) => return Ok(done),
                None => ready.clear_ready(),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the successor is unsafe, for types that lose their descriptor; ours keeps it"
)]
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn pair() -> (Socket, Socket) {
        let (near, far) = UnixStream::pair().unwrap();
        (
            Socket::from_unix(near).unwrap(),
            Socket::from_unix(far).unwrap(),
        )
    }

    async fn read(socket: &Socket) -> Vec<u8> {
        let mut bytes = Vec::new();
        timeout(LONG, socket.read(|part| bytes.extend_from_slice(part)))
            .await
            .unwrap()
            .unwrap();
        bytes
    }

    #[tokio::test]
    async fn bytes_that_come_after_a_short_read_are_read_too() {
        let (near, far) = pair();
        for text in [&b"one"[..], b"two", b"three"] {
            assert_eq!(near.try_write(text).unwrap(), Some(text.len()));
            assert_eq!(read(&far).await, text);
        }
    }

    #[tokio::test]
    async fn an_end_that_comes_with_the_last_bytes_is_noticed() {
        let (near, far) = pair();
        near.try_write(b"last words").unwrap();
        drop(near);
        assert_eq!(read(&far).await, b"last words");
        assert_eq!(read(&far).await, b"");
    }

    #[tokio::test]
    async fn room_is_waited_for() {
        let (near, far) = pair();
        while near.try_write(&[1; 10_000]).unwrap().is_some() {}
        let room = near.watch_for_room().unwrap();
        let writer = room.wait(|| near.try_write(b"x"));
        tokio::pin!(writer);
        assert!(
            timeout(Duration::from_millis(50), &mut writer)
                .await
                .is_err()
        );
        for _ in 0..1000 {
            if timeout(Duration::from_millis(1), &mut writer).await.is_ok() {
                return;
            }
            read(&far).await;
        }
        panic!("there is never room");
    }
}
