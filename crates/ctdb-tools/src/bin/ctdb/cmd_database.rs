//! `getdbmap`, `getdbstatus`, `attach`, `detach` and their kin: databases as such (`cli.md` 2.6).

use ctdb_proto::control::Request;
use ctdb_proto::{ControlFlags, DbFlags, DbId, NodeFlags, RecMode, ReplyControl};

use crate::context::Context;
use crate::database::{self, Database, attach as attach_to};
use crate::exit::{Failure, Outcome};
use crate::output::{machine_line, print};

pub(crate) async fn getdbmap(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let target = context.target();
    let mut dbs = Vec::new();
    for db in target.get_dbmap().await?.dbs {
        dbs.push(ShownDb {
            id: db.db_id,
            flags: db.flags,
            name: target.get_dbname(db.db_id).await?,
            path: target.getdbpath(db.db_id).await?,
            health: target.db_get_health(db.db_id).await?,
        });
    }
    print(&dbmap_text(&dbs, context.separator())).map(|()| 0)
}

pub(crate) async fn getdbstatus(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let argument = context.arguments.text(0).unwrap_or_default();
    let db = database::resolve(context, &argument).await?;
    let shown = ShownDb {
        id: db.id,
        flags: db.flags,
        name: db.name,
        path: context.target().getdbpath(db.id).await?,
        health: context.target().db_get_health(db.id).await?,
    };
    print(&shown.status_text()).map(|()| 0)
}

pub(crate) async fn attach(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=2)?;
    let kind = match context.arguments.text(1).as_deref() {
        None => DbFlags::empty(),
        Some("persistent") => DbFlags::PERSISTENT,
        Some("replicated") => DbFlags::REPLICATED,
        Some("readonly") => DbFlags::READONLY,
        Some("sticky") => DbFlags::STICKY,
        Some(_) => return Err(Failure::Usage),
    };
    let name = context.arguments.text(0).unwrap_or_default();
    attach_to(context, &name, kind).await?;
    Ok(0)
}

pub(crate) async fn getdbseqnum(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let argument = context.arguments.text(0).unwrap_or_default();
    let db = database::resolve(context, &argument).await?;
    let seqnum = context
        .target()
        .get_db_seqnum(db.id)
        .await
        .map_err(|error| {
            Failure::from(error).and(format!("Failed to get sequence number for DB {argument}"))
        })?;
    print(&format!("{seqnum:#x}\n")).map(|()| 0)
}

pub(crate) async fn setdbreadonly(context: &Context) -> Outcome {
    let db = volatile_argument(context, "READONLY").await?;
    context.target().set_db_readonly(db.id).await?;
    Ok(0)
}

pub(crate) async fn setdbsticky(context: &Context) -> Outcome {
    let db = volatile_argument(context, "STICKY").await?;
    context.target().set_db_sticky(db.id).await?;
    Ok(0)
}

/// The database of the only argument, which must be volatile to get this flag.
async fn volatile_argument(context: &Context, flag: &str) -> Result<Database, Failure> {
    context.arguments.expect_count(1..=1)?;
    let db = database::resolve(context, &context.arguments.text(0).unwrap_or_default()).await?;
    if db.flags.is_volatile() {
        return Ok(db);
    }
    Err(Failure::new(format!(
        "{flag} can be set only on volatile DB"
    )))
}

/// Detaches volatile databases from all nodes. An unknown one is reported, and is no failure.
pub(crate) async fn detach(context: &mut Context) -> Outcome {
    context.arguments.expect_count(1..=usize::MAX)?;
    if context.target().get_recmode().await? == RecMode::Active {
        return Err(Failure::new(
            "Database cannot be detached when recovery is active",
        ));
    }
    check_detachable(context).await?;
    let mut code = 0;
    for argument in context.arguments.texts() {
        match database::resolve(context, &argument).await {
            Ok(db) if db.flags.is_volatile() => {
                code = detach_one(context, &db).await.unwrap_or(code);
            }
            Ok(_) => return Err(Failure::new("Only volatile databases can be detached")),
            Err(failure) => failure.report(),
        }
    }
    Ok(code)
}

/// Fails unless all nodes that are connected are active and have stopped clients from attaching.
async fn check_detachable(context: &mut Context) -> Result<(), Failure> {
    const TUNABLE: &str = "AllowClientDBAttach";
    context.nodemap().await?;
    let gone = NodeFlags::DISCONNECTED | NodeFlags::DELETED;
    let nodes = context.known_nodes().iter();
    for node in nodes.filter(|node| !node.flags.intersects(gone)) {
        let pnn = node.pnn;
        if node.flags.is_inactive() {
            return Err(Failure::new(format!(
                "Database cannot be detached on inactive (stopped or banned) node {pnn}"
            )));
        }
        let allowed = context.at(pnn).get_tunable(TUNABLE).await;
        let allowed = allowed.map_err(|error| {
            let line = format!("Unable to get tunable {TUNABLE} from node {pnn}");
            Failure::from(error).and(line)
        })?;
        if allowed == 1 {
            return Err(Failure::new(format!(
                "Database access is still active on node {pnn}. Set AllowclientDBAttach=0 on all \
                 nodes."
            )));
        }
    }
    Ok(())
}

/// Detaches a database; the code of a failure, which is reported.
async fn detach_one(context: &Context, db: &Database) -> Option<i32> {
    let control = Request::DbDetach(db.id).to_control(ControlFlags::empty());
    let (dest, limit) = (context.local.into(), Some(context.limit()));
    let failure = match context.client.raw_control(dest, control, limit).await {
        Ok(reply) if reply.status == 0 => return None,
        Ok(ReplyControl { status, .. }) => {
            let line = format!("Control DB_DETACH failed, ret={status}");
            Failure::with_code(status, line)
        }
        Err(error) => Failure::from(error),
    };
    let failure = failure.and(format!("Database {} detach failed", db.name));
    failure.report();
    Some(failure.code())
}

/// A database with all that is shown of it.
struct ShownDb {
    id: DbId,
    flags: DbFlags,
    name: String,
    path: String,
    /// Why it is unhealthy.
    health: Option<String>,
}

fn dbmap_text(dbs: &[ShownDb], separator: Option<&str>) -> String {
    const HEADER: [&str; 8] = [
        "ID",
        "Name",
        "Path",
        "Persistent",
        "Sticky",
        "Unhealthy",
        "Readonly",
        "Replicated",
    ];
    let Some(separator) = separator else {
        let lines: String = dbs.iter().map(ShownDb::map_line).collect();
        return format!("Number of databases:{}\n{lines}", dbs.len());
    };
    let lines: String = dbs
        .iter()
        .map(|db| db.machine_map_line(separator))
        .collect();
    machine_line(separator, &HEADER) + &lines
}

impl ShownDb {
    fn map_line(&self) -> String {
        let has = |flag, text| if self.flags.contains(flag) { text } else { "" };
        format!(
            "dbid:0x{:08x} name:{} path:{}{}{}{}{}{}\n",
            self.id.get(),
            self.name,
            self.path,
            has(DbFlags::PERSISTENT, " PERSISTENT"),
            has(DbFlags::STICKY, " STICKY"),
            has(DbFlags::READONLY, " READONLY"),
            has(DbFlags::REPLICATED, " REPLICATED"),
            if self.health.is_some() {
                " UNHEALTHY"
            } else {
                ""
            },
        )
    }

    /// Unlike everywhere else the id is in upper case here.
    fn machine_map_line(&self, separator: &str) -> String {
        let digit = |on| if on { "1" } else { "0" };
        let has = |flag| digit(self.flags.contains(flag));
        machine_line(
            separator,
            &[
                &format!("0x{:08X}", self.id.get()),
                &self.name,
                &self.path,
                has(DbFlags::PERSISTENT),
                has(DbFlags::STICKY),
                digit(self.health.is_some()),
                has(DbFlags::READONLY),
                has(DbFlags::REPLICATED),
            ],
        )
    }

    fn status_text(&self) -> String {
        let has = |flag| {
            if self.flags.contains(flag) {
                "yes"
            } else {
                "no"
            }
        };
        format!(
            "dbid: 0x{:08x}\nname: {}\npath: {}\nPERSISTENT: {}\nREPLICATED: {}\nSTICKY: {}\n\
             READONLY: {}\nHEALTH: {}\n",
            self.id.get(),
            self.name,
            self.path,
            has(DbFlags::PERSISTENT),
            has(DbFlags::REPLICATED),
            has(DbFlags::STICKY),
            has(DbFlags::READONLY),
            self.health.as_deref().unwrap_or("OK"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db(flags: DbFlags, health: Option<&str>) -> ShownDb {
        ShownDb {
            id: DbId::new(0x0dc6_d651),
            flags,
            name: "per.tdb".to_owned(),
            path: "/p/per.tdb.0".to_owned(),
            health: health.map(str::to_owned),
        }
    }

    #[test]
    fn flags_follow_the_path_in_their_order() {
        let flags = DbFlags::STICKY | DbFlags::READONLY;
        assert_eq!(
            dbmap_text(&[db(flags, None), db(DbFlags::REPLICATED, Some("x"))], None),
            "Number of databases:2\n\
             dbid:0x0dc6d651 name:per.tdb path:/p/per.tdb.0 STICKY READONLY\n\
             dbid:0x0dc6d651 name:per.tdb path:/p/per.tdb.0 REPLICATED UNHEALTHY\n"
        );
    }

    #[test]
    fn the_machine_table_has_ids_in_upper_case() {
        assert_eq!(
            dbmap_text(&[db(DbFlags::PERSISTENT, None)], Some("|")),
            "|ID|Name|Path|Persistent|Sticky|Unhealthy|Readonly|Replicated|\n\
             |0x0DC6D651|per.tdb|/p/per.tdb.0|1|0|0|0|0|\n"
        );
    }

    #[test]
    fn the_status_says_yes_or_no_and_why() {
        let text = db(DbFlags::PERSISTENT, Some("corrupt")).status_text();
        assert_eq!(
            text,
            "dbid: 0x0dc6d651\nname: per.tdb\npath: /p/per.tdb.0\nPERSISTENT: yes\n\
             REPLICATED: no\nSTICKY: no\nREADONLY: no\nHEALTH: corrupt\n"
        );
    }
}
