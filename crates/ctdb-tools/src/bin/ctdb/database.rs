//! Databases named on the command line: finding them and attaching to them (`cli.md` 1.9).

use ctdb_client::ControlError;
use ctdb_client::node::attach_opcode;
use ctdb_conf::number::c_number;
use ctdb_proto::{DbFlags, DbId};
use tdb::{Db, Flags, OpenOptions};

use crate::context::Context;
use crate::exit::{EIO, Failure};

/// A database that exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Database {
    pub(crate) id: DbId,
    pub(crate) name: String,
    pub(crate) flags: DbFlags,
}

/// Finds a database by its name, or by its id when the text begins with `0x`. The local node is
/// asked, whatever node the command is about.
pub(crate) async fn resolve(context: &Context, text: &str) -> Result<Database, Failure> {
    let not_found = || Failure::new(format!("No database matching '{text}' found"));
    let dbmap = context.here().get_dbmap().await;
    let dbmap = dbmap.map_err(|error| Failure::from(error).code_is(1))?;
    let wanted_id = id_argument(text);
    for db in dbmap.dbs {
        if wanted_id.is_some_and(|id| id != db.db_id) {
            continue;
        }
        let name = context.here().get_dbname(db.db_id).await.map_err(|error| {
            let line = format!("No database matching '{text}' found");
            Failure::from(error).and(line).code_is(1)
        })?;
        if wanted_id.is_some() || name == text {
            return Ok(Database {
                id: db.db_id,
                name,
                flags: db.flags,
            });
        }
    }
    Err(not_found())
}

/// The id that a text means: hexadecimal digits after `0x`, without digits 0.
fn id_argument(text: &str) -> Option<DbId> {
    text.starts_with("0x").then(|| {
        let wide = c_number(text).magnitude.unwrap_or(u64::MAX);
        DbId::new(u32::try_from(wide & u64::from(u32::MAX)).unwrap_or(u32::MAX))
    })
}

/// Attaches to a database as a client does: the daemon makes it if it does not exist, then the tool
/// opens the local TDB file itself.
pub(crate) async fn attach(
    context: &Context,
    name: &str,
    kind: DbFlags,
) -> Result<(DbId, Db), Failure> {
    let here = context.here();
    let failed = |what: &str, error: ControlError| failure(name, what, &error);
    let id = here
        .db_attach(name, kind)
        .await
        .map_err(|error| match error.code() {
            // The library words a refusal and a failure to ask differently.
            code if code < 0 => failed("failed to get db_id", error),
            _ => failed(&format!("{} failed", attach_opcode(kind)), error),
        })?;
    let path = here
        .getdbpath(id)
        .await
        .map_err(|error| failed("GETDBPATH failed", error))?;
    let health = here.db_get_health(id).await;
    if let Some(reason) = health.map_err(|error| failed("DB_GET_HEALTH failed", error))? {
        let line = format!("attach: {name} database unhealthy ({reason})");
        return Err(Failure::with_code(EIO, line));
    }
    set_wanted_flags(context, id, kind).await?;
    let flags = here.db_open_flags(id).await;
    let flags = flags.map_err(|error| failed("DB_OPEN_FLAGS failed", error))?;
    let db = OpenOptions::new()
        .flags(Flags::from_bits_truncate(flags.bits()))
        .open(&path)
        .map_err(|error| {
            let code = error.errno().unwrap_or(EIO);
            Failure::with_code(code, format!("attach: {name} tdb_wrap_open failed"))
        })?;
    Ok((id, db))
}

/// Has read-only or sticky records switched on, on all nodes that are connected.
async fn set_wanted_flags(context: &Context, id: DbId, kind: DbFlags) -> Result<(), Failure> {
    if !kind.intersects(DbFlags::READONLY | DbFlags::STICKY) {
        return Ok(());
    }
    let nodemap = context.here().get_nodemap().await?;
    let gone = ctdb_proto::NodeFlags::DISCONNECTED;
    for node in nodemap
        .nodes
        .iter()
        .filter(|node| !node.flags.intersects(gone))
    {
        // Controls to many nodes print no line of the library.
        let quiet = |error: ControlError| Failure::silent(error.code());
        if kind.contains(DbFlags::READONLY) {
            context
                .at(node.pnn)
                .set_db_readonly(id)
                .await
                .map_err(quiet)?;
        }
        if kind.contains(DbFlags::STICKY) {
            context
                .at(node.pnn)
                .set_db_sticky(id)
                .await
                .map_err(quiet)?;
        }
    }
    Ok(())
}

fn failure(name: &str, what: &str, error: &ControlError) -> Failure {
    let code = error.code();
    Failure::with_code(code, format!("attach: {name} {what}, ret={code}"))
}

/// Resolves the first argument and attaches to that database.
pub(crate) async fn attach_argument(
    context: &Context,
    only_volatile: bool,
) -> Result<(Database, Db), Failure> {
    let text = context.arguments.text(0).unwrap_or_default();
    let database = resolve(context, &text).await?;
    if only_volatile && !database.flags.is_volatile() {
        return Err(Failure::new(format!(
            "DB {} is not a volatile database",
            database.name
        )));
    }
    let kind = database.flags & (DbFlags::PERSISTENT | DbFlags::REPLICATED);
    let (_, db) = attach(context, &database.name, kind)
        .await
        .map_err(|failure| failure.and(format!("Failed to attach to DB {text}")))?;
    Ok((database, db))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_with_0x_and_ignore_what_follows_the_digits() {
        assert_eq!(id_argument("0x7a19d84d"), Some(DbId::new(0x7a19_d84d)));
        assert_eq!(id_argument("0x10 x"), Some(DbId::new(0x10)));
        assert_eq!(id_argument("0xzz"), Some(DbId::new(0)));
        assert_eq!(id_argument("7a19d84d"), None);
    }
}
