//! Records of persistent and replicated databases: reading and writing them by transactions
//! (`cli.md` 2.7).

use std::fs::File;
use std::io::{self, Read};

use ctdb_client::{Database, Transaction, TransactionError};
use ctdb_proto::DbFlags;

use crate::context::Context;
use crate::database::{attach, resolve};
use crate::exit::{Failure, Outcome};
use crate::output::{complain, print, print_bytes};
use crate::record_failure::{start_failure, transaction_failure};
use crate::record_lines::{Line, Lines};

pub(crate) async fn pfetch(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let database = attach_for_transactions(context).await?;
    let key = context.arguments.data(1, "key")?;
    let transaction = started(&database, database.read_transaction().await)?;
    let data = transaction.fetch(key).await;
    cancel(&database, transaction).await?;
    let data = data.map_err(|error| {
        let key = context.arguments.text(1).unwrap_or_default();
        operation_failure(&database, error).and(format!("Failed to read record for key {key}"))
    })?;
    let data = data.unwrap_or_default();
    // The original prints a C string.
    print_bytes(data.split(|byte| *byte == 0).next().unwrap_or_default())?;
    print("\n").map(|()| 0)
}

pub(crate) async fn pstore(context: &Context) -> Outcome {
    context.arguments.expect_count(3..=3)?;
    let database = attach_for_transactions(context).await?;
    let key = context.arguments.data(1, "key")?;
    let value = context.arguments.data(2, "value")?;
    write_one(context, &database, key, value, "store").await
}

pub(crate) async fn pdelete(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let database = attach_for_transactions(context).await?;
    let key = context.arguments.data(1, "key")?;
    write_one(context, &database, key, Vec::new(), "delete").await
}

/// Writes the records that a file, or standard input, lists. It is read before anybody else is
/// kept waiting; a file that cannot be read to its end changes nothing.
pub(crate) async fn ptrans(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=2)?;
    let database = attach_for_transactions(context).await?;
    let text = read_input(context)?;
    let mut transaction = started(&database, database.transaction().await)?;
    let stored = store_lines(&mut transaction, &text).await;
    let stored =
        stored.map_err(|error| operation_failure(&database, error).and("Failed to store record"));
    end(&database, transaction, stored).await
}

/// Finds and attaches the database of the first argument, if it is one with transactions.
async fn attach_for_transactions(context: &Context) -> Result<Database, Failure> {
    let text = context.arguments.text(0).unwrap_or_default();
    let database = resolve(context, &text).await?;
    if database.flags.is_volatile() {
        let name = &database.name;
        return Err(Failure::new(format!(
            "Transactions not supported on DB {name}"
        )));
    }
    let kind = database.flags & (DbFlags::PERSISTENT | DbFlags::REPLICATED);
    let attached = attach(context, &database.name, kind).await;
    attached.map_err(|failure| failure.and(format!("Failed to attach to DB {text}")))
}

/// The transaction, if it has begun.
fn started<'db>(
    database: &Database,
    transaction: Result<Transaction<'db>, TransactionError>,
) -> Result<Transaction<'db>, Failure> {
    transaction.map_err(|error| {
        let name = database.name();
        start_failure(name, database.id(), error)
            .and(format!("Failed to start transaction on db {name}"))
    })
}

/// A transaction that writes one record; `what` it does goes into the error text.
async fn write_one(
    context: &Context,
    database: &Database,
    key: Vec<u8>,
    value: Vec<u8>,
    what: &str,
) -> Outcome {
    let mut transaction = started(database, database.transaction().await)?;
    let stored = transaction.store(key, value).await.map_err(|error| {
        let key = context.arguments.text(1).unwrap_or_default();
        let failure = operation_failure(database, error);
        failure.and(format!("Failed to {what} record for key {key}"))
    });
    end(database, transaction, stored).await
}

/// Commits, or gives up after a failure.
async fn end(
    database: &Database,
    transaction: Transaction<'_>,
    stored: Result<(), Failure>,
) -> Outcome {
    if let Err(failure) = stored {
        cancel(database, transaction).await?;
        return Err(failure);
    }
    let committed = transaction.commit().await;
    committed.map(|()| 0).map_err(|error| {
        // A connection that ends leaves open what has become of the changes; that it has ended is
        // what to say.
        let failure = match error {
            TransactionError::Unknown if database.client().is_closed() => Failure::ConnectionClosed,
            error => operation_failure(database, error),
        };
        let name = database.name();
        failure.and(format!("Failed to commit transaction on db {name}"))
    })
}

async fn cancel(database: &Database, transaction: Transaction<'_>) -> Result<(), Failure> {
    let cancelled = transaction.cancel().await;
    cancelled.map_err(|error| operation_failure(database, error))
}

fn operation_failure(database: &Database, error: TransactionError) -> Failure {
    transaction_failure(database.name(), database.id(), "g_lock_unlock", error)
}

/// The whole text of the file that the second argument names, or of standard input.
fn read_input(context: &Context) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let Some(name) = context.arguments.text(1) else {
        return match io::stdin().read_to_end(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(Failure::new(format!("Failed to read input: {error}"))),
        };
    };
    let path = context.arguments.path(1).ok_or(Failure::Usage)?;
    let mut file =
        File::open(path).map_err(|_| Failure::new(format!("Failed to open file {name}")))?;
    match file.read_to_end(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(format!("Failed to read file {name}: {error}"))),
    }
}

/// Stores all records of the text; its bad lines are shown and left out.
async fn store_lines(
    transaction: &mut Transaction<'_>,
    text: &[u8],
) -> Result<(), TransactionError> {
    for line in Lines::new(text) {
        match line {
            Line::Record { key, value } => transaction.store(key, value).await?,
            Line::Nothing => {}
            Line::Bad(complaint) => complain(&complaint),
        }
    }
    Ok(())
}
