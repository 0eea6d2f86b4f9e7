//! Async client for the Unix socket of `ctdbd`: what a program needs to keep data in a cluster.
//!
//! [`Client`] is one connection. It sends controls, calls and messages and matches replies to
//! their requests; any number of tasks may use it at once. [`Client::attach`] gives a [`Database`].
//!
//! ```no_run
//! use ctdb_client::Client;
//! use ctdb_proto::DbFlags;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("/run/ctdb/ctdbd.socket".as_ref()).await?;
//! let database = client.attach("colours.tdb", DbFlags::empty()).await?;
//!
//! // Brings the record to this node and locks it; nobody else in the cluster has it meanwhile.
//! let mut record = database.fetch_lock("sky").await?;
//! record.store("blue").await?;
//! drop(record);
//! # Ok(()) }
//! ```
//!
//! | to | use | example |
//! |---|---|---|
//! | change a record of a volatile database | [`Database::fetch_lock`] | `counter` |
//! | read one, where it is | [`Database::fetch`], [`Database::parse`] | `counter` |
//! | read one often on many nodes | [`Database::fetch_readonly`] | `readonly` |
//! | change a persistent or replicated database | [`Database::transaction`] | `transaction` |
//! | go through all records | [`Database::traverse`], [`Database::traverse_local`] | `traverse` |
//! | exclude others in the whole cluster | [`GLocks`] | `g_lock` |
//! | send messages, and receive them | [`Client::send_message`], [`Client::subscribe`] | `messages` |
//! | have others told that this process ended | [`Client::notify_at_exit`] | `notify` |
//! | speak another protocol with one process of a node | [`Client::open_tunnel`] | `tunnel` |
//! | ask or order anything else | [`Client::node`], [`Client::control`] | `nodes` |
//!
//! The examples run against any cluster, such as one started with `ctdb-cluster start`:
//! `cargo run -p ctdb-client --example counter -- SOCKET...`.
//!
//! | module | owns |
//! |---|---|
//! | [`client`] | connecting, and the requests that wait for a reply |
//! | [`control`] | sending controls and registering service ids |
//! | [`node`] | controls with typed arguments and results |
//! | [`message`] | registered service ids and the messages that arrive for them |
//! | [`database`] | attaching, records and their locks |
//! | [`traverse`] | all records of all nodes |
//! | [`g_lock`] | locks by name |
//! | [`transaction`] | changes of persistent and replicated databases |
//! | [`tunnel`] | packets of other protocols |
//! | `notify` | messages at the end of the connection |
//! | `file` | the local TDB file, and the thread that works on it |
//! | `reader` | the task that takes packets from the socket and hands them out |
//! | `pending` | the table of requests without a reply yet |
//!
//! Limits: at most [`client::WRITE_QUEUE`] packets wait to be written, then senders wait; at most
//! [`message::MESSAGE_QUEUE`] messages of a subscription wait to be read, then nothing more is read
//! from the socket. A request that is given up leaves nothing behind; its late reply is dropped.
#![forbid(unsafe_code)]

pub mod client;
pub mod control;
pub mod database;
pub mod error;
pub mod g_lock;
pub mod message;
pub mod node;
pub mod transaction;
pub mod traverse;
pub mod tunnel;

mod file;
mod notify;
mod pending;
mod reader;

pub use client::Client;
pub use database::{Database, LockedRecord};
pub use error::{
    AttachError, CallError, ConnectError, ControlError, ControlFailure, GLockError, RecordError,
    TransactionError,
};
pub use file::Record;
pub use g_lock::{GLocks, HeldGLock};
pub use message::{Latest, Message, Subscription};
pub use node::NodeHandle;
pub use transaction::Transaction;
pub use traverse::Traverse;
pub use tunnel::Tunnel;
