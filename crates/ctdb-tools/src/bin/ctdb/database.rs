//! Databases named on the command line: finding them and attaching to them (`cli.md` 1.9).

use ctdb_client::node::attach_opcode;
use ctdb_client::{AttachError, ControlError, Database as Attached};
use ctdb_conf::number::c_number;
use ctdb_proto::{DbFlags, DbId, Opcode};

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

/// Attaches to a database as a client does: the daemon makes it if it does not exist, then its
/// local TDB file is opened.
pub(crate) async fn attach(
    context: &Context,
    name: &str,
    kind: DbFlags,
) -> Result<Attached, Failure> {
    let limit = Some(context.limit());
    let attached = context.client.attach_within(name, kind, limit).await;
    attached.map_err(|error| attach_failure(name, kind, error))
}

/// The step that failed, in the words of the original.
pub(crate) fn attach_failure(name: &str, kind: DbFlags, error: AttachError) -> Failure {
    match error {
        AttachError::Control(error) => control_failure(name, kind, error),
        AttachError::Closed(closed) => closed.into(),
        AttachError::Unhealthy { reason } => {
            let line = format!("attach: {name} database unhealthy ({reason})");
            Failure::with_code(EIO, line)
        }
        AttachError::Open { source, .. } => {
            let code = source.errno().unwrap_or(EIO);
            Failure::with_code(code, format!("attach: {name} tdb_wrap_open failed"))
        }
        AttachError::BadPnn { .. } | AttachError::Thread(_) => {
            Failure::with_code(EIO, format!("attach: {name} {error}"))
        }
    }
}

fn control_failure(name: &str, kind: DbFlags, error: ControlError) -> Failure {
    let (opcode, code) = (error.opcode, error.code());
    let what = match opcode {
        // The library words a refusal and a failure to ask differently.
        _ if opcode == attach_opcode(kind) && code < 0 => "failed to get db_id".to_owned(),
        // Controls to many nodes print no line of the library.
        Opcode::SET_DB_READONLY | Opcode::SET_DB_STICKY => return Failure::silent(code),
        Opcode::GET_NODEMAP => return error.into(),
        other => format!("{other} failed"),
    };
    Failure::with_code(code, format!("attach: {name} {what}, ret={code}"))
}

/// Resolves the first argument and attaches to that database.
pub(crate) async fn attach_argument(
    context: &Context,
    only_volatile: bool,
) -> Result<(Database, Attached), Failure> {
    let text = context.arguments.text(0).unwrap_or_default();
    let database = resolve(context, &text).await?;
    if only_volatile && !database.flags.is_volatile() {
        return Err(Failure::new(format!(
            "DB {} is not a volatile database",
            database.name
        )));
    }
    let kind = database.flags & (DbFlags::PERSISTENT | DbFlags::REPLICATED);
    let attached = attach(context, &database.name, kind)
        .await
        .map_err(|failure| failure.and(format!("Failed to attach to DB {text}")))?;
    Ok((database, attached))
}

#[cfg(test)]
mod tests {
    use ctdb_client::ControlFailure;
    use ctdb_proto::Dest;

    use super::*;

    #[test]
    fn a_failed_attach_names_the_step() {
        let kind = DbFlags::PERSISTENT;
        let line = |opcode, status| {
            let cause = ControlFailure::Status {
                status,
                text: String::new(),
            };
            let error = ControlError {
                opcode,
                dest: Dest::Current,
                cause,
            };
            attach_failure("a.tdb", kind, error.into())
        };
        let failure = |code, line: &str| Failure::with_code(code, line);
        let refused = failure(-1, "attach: a.tdb failed to get db_id, ret=-1");
        assert_eq!(line(Opcode::DB_ATTACH_PERSISTENT, -1), refused);
        let not_done = failure(3, "attach: a.tdb DB_ATTACH_PERSISTENT failed, ret=3");
        assert_eq!(line(Opcode::DB_ATTACH_PERSISTENT, 3), not_done);
        let no_path = failure(-1, "attach: a.tdb GETDBPATH failed, ret=-1");
        assert_eq!(line(Opcode::GETDBPATH, -1), no_path);
        assert_eq!(line(Opcode::SET_DB_STICKY, -1), Failure::silent(-1));
    }

    #[test]
    fn ids_begin_with_0x_and_ignore_what_follows_the_digits() {
        assert_eq!(id_argument("0x7a19d84d"), Some(DbId::new(0x7a19_d84d)));
        assert_eq!(id_argument("0x10 x"), Some(DbId::new(0x10)));
        assert_eq!(id_argument("0xzz"), Some(DbId::new(0)));
        assert_eq!(id_argument("7a19d84d"), None);
    }
}
