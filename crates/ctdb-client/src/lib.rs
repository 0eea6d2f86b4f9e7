//! Async client for the Unix socket of `ctdbd`.
//!
//! [`Client`] is one connection. It sends controls, calls and messages and matches replies to
//! their requests; any number of tasks may use it at once through a shared reference.
//!
//! | module | owns |
//! |---|---|
//! | [`client`] | connecting, and the requests that wait for a reply |
//! | [`control`] | sending controls and registering service ids |
//! | [`node`] | controls with typed arguments and results |
//! | [`message`] | registered service ids and the messages that arrive for them |
//! | `reader` | the task that takes packets from the socket and hands them out |
//! | `pending` | the table of requests without a reply yet |
//!
//! Limits: at most [`client::WRITE_QUEUE`] packets wait to be written, then senders wait; at most
//! [`message::MESSAGE_QUEUE`] messages of a subscription wait to be read, then nothing more is read
//! from the socket. A request that is given up leaves nothing behind; its late reply is dropped.
#![forbid(unsafe_code)]

pub mod client;
pub mod control;
pub mod error;
pub mod message;
pub mod node;

mod pending;
mod reader;

pub use client::Client;
pub use error::{CallError, ConnectError, ControlError, ControlFailure};
pub use message::{Latest, Message, Subscription};
pub use node::NodeHandle;
