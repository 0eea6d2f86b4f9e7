//! `restoredb` and `wipedb`: replacing all records of a database on all nodes (`cli.md` 2.7).

use ctdb_proto::DbId;

use crate::backup_file::BackupFile;
use crate::context::Context;
use crate::database::{attach, attach_argument};
use crate::exit::{Failure, Outcome};
use crate::output::print;
use crate::replacement::Replacement;

/// Fills a database from a backup. The whole backup is checked before anything is changed.
pub(crate) async fn restoredb(context: &mut Context) -> Outcome {
    context.arguments.expect_count(1..=2)?;
    let path = context.arguments.path(0).ok_or(Failure::Usage)?;
    let backup = BackupFile::open(path)?.check()?;
    let name = match context.arguments.text(1) {
        Some(name) => name.into_owned(),
        None => backup.header().name.to_string(),
    };
    let time = backup.time();
    print(&format!("Restoring database {name} from backup @ {time}\n"))?;
    let attached = attach(context, &name, backup.header().flags)
        .await
        .map_err(|failure| failure.and(format!("Failed to attach to DB {name}")))?;
    let id = attached.id();
    let replacement = Replacement::new(context, id).await?;
    let restored = restore(&replacement, id, backup).await;
    replacement.or_recover(restored).await?;
    print(&format!("Database {name} restored\n")).map(|()| 0)
}

async fn restore(
    replacement: &Replacement<'_>,
    id: DbId,
    mut backup: BackupFile,
) -> Result<(), Failure> {
    replacement.begin().await?;
    replacement.start_push().await?;
    while let Some(buffer) = backup.next_buffer()? {
        // The id in the file is not to be believed.
        replacement.push(&buffer.for_db(id)).await?;
    }
    replacement.confirm_push(backup.header().records).await?;
    replacement.end().await
}

/// Empties a database.
pub(crate) async fn wipedb(context: &mut Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let (database, _) = attach_argument(context, false).await?;
    let replacement = Replacement::new(context, database.id).await?;
    let wiped = wipe(&replacement).await;
    replacement.or_recover(wiped).await?;
    print(&format!("Database {} wiped\n", database.name)).map(|()| 0)
}

async fn wipe(replacement: &Replacement<'_>) -> Result<(), Failure> {
    replacement.begin().await?;
    replacement.end().await
}
