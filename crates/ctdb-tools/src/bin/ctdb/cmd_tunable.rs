//! `getvar`, `setvar` and `listvars` (`cli.md` 2.3).

use ctdb_conf::Tunable;
use ctdb_proto::control::TunableList;

use crate::arguments::number;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::{complain, print};

pub(crate) async fn getvar(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let name = context.arguments.text(0).unwrap_or_default();
    check_name(context, &name).await?;
    let value = context.target().get_tunable(&name).await?;
    print(&line(&name, value)).map(|()| 0)
}

pub(crate) async fn setvar(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let name = context.arguments.text(0).unwrap_or_default();
    check_name(context, &name).await?;
    let value = number(&context.arguments.text(1).unwrap_or_default())?;
    if context.target().set_tunable(&name, value).await? {
        complain(&format!("Setting obsolete tunable variable '{name}'"));
    }
    Ok(0)
}

/// The values come in one control instead of one for each name; only what the daemon has and we do
/// not know is asked for by name. A value that cannot be had is left out.
pub(crate) async fn listvars(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let names = context.target().list_tunables().await?;
    let all = context.target().get_all_tunables().await.ok();
    for name in names {
        let value = match known_value(all.as_ref(), &name) {
            Some(value) => Some(value),
            None => context.target().get_tunable(&name).await.ok(),
        };
        if let Some(value) = value {
            print(&line(&name, value))?;
        }
    }
    Ok(0)
}

fn known_value(all: Option<&TunableList>, name: &str) -> Option<u32> {
    all?.values.get(Tunable::from_name(name)?.index()).copied()
}

fn line(name: &str, value: u32) -> String {
    format!("{name:<26} = {value}\n")
}

/// Fails unless the daemon lists a tunable of this name, in any case.
async fn check_name(context: &Context, name: &str) -> Result<(), Failure> {
    let names = context.target().list_tunables().await.map_err(|error| {
        let line = format!("Failed to get list of variables from node {}", context.node);
        Failure::from(error).and(line)
    })?;
    if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    print(&format!("No such tunable {name}\n"))?;
    Err(Failure::silent(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_to_26() {
        assert_eq!(
            line("SeqnumInterval", 1000),
            "SeqnumInterval             = 1000\n"
        );
    }

    #[test]
    fn values_are_found_at_their_place_in_the_wire_structure() {
        let mut all = TunableList::default();
        all.values[40] = 60;
        assert_eq!(known_value(Some(&all), "VacuumFastPathCount"), Some(60));
        assert_eq!(known_value(Some(&all), "NotInventedYet"), None);
        assert_eq!(known_value(None, "VacuumFastPathCount"), None);
    }
}
