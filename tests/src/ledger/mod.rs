//! A ledger: writers on all nodes change records while nodes fail, and in the end the records are
//! compared with what the writers were told.
//!
//! | module | owns |
//! |---|---|
//! | `history` | what happened, and what may have become of it |
//! | `trouble` | the failures, one after the other |
//! | `writers` | the runtime of the writers, and their connections |
//! | `records` | writers of a volatile database |
//! | `transactions` | writers of persistent and replicated databases |

mod history;
mod records;
mod transactions;
mod trouble;
mod writers;

pub use history::{Change, Durability, Findings, History, Id, Outage, Outcome, Value};
pub use records::Records;
pub use transactions::Transactions;
pub use trouble::{Outages, Trouble};
pub use writers::{Ledger, Writer};
