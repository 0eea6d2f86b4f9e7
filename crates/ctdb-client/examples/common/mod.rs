//! What the examples share: connecting to the sockets that the command line names.

use std::error::Error;
use std::path::PathBuf;

use ctdb_client::Client;

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Connects so many clients to the sockets of the command line, in turn: with the sockets of
/// several nodes they are clients of different nodes, with one socket all of the same.
pub(crate) async fn connect<const N: usize>() -> Result<[Client; N]> {
    let sockets: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if sockets.is_empty() {
        return Err("usage: cargo run -p ctdb-client --example NAME -- SOCKET...".into());
    }
    let mut clients = Vec::with_capacity(N);
    for socket in sockets.iter().cycle().take(N) {
        clients.push(Client::connect(socket).await?);
    }
    clients
        .try_into()
        .map_err(|_| "as many as asked for".into())
}
