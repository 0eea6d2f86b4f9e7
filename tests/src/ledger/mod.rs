//! A ledger: writers on all nodes change records while nodes fail, and in the end the records are
//! compared with what the writers were told.
//!
//! | module | owns |
//! |---|---|
//! | `story` | the whole of it |
//! | `history` | what happened, and what may have become of it |
//! | `plan` | for how long, and who leads |
//! | `trouble` | the failures, one after the other |
//! | `writers` | the runtime of the writers, and their connections |
//! | `records` | writers of a volatile database |
//! | `transactions` | writers of persistent and replicated databases |

mod history;
mod plan;
mod records;
mod story;
mod transactions;
mod trouble;
mod writers;

use history::{Findings, History, Outcome};
pub use plan::Plan;
use records::Records;
pub use story::{keep_books, keep_books_while};
use transactions::Transactions;
pub use trouble::Outages;
use trouble::Trouble;
use writers::Ledger;
