//! Node flags as the tool shows them (`cli.md` 1.7).

use ctdb_proto::NodeFlags;

/// Set by the tool itself for nodes about which a starting daemon cannot know yet.
pub(crate) const UNKNOWN: NodeFlags = NodeFlags::from_bits_retain(0x40);

/// Names in the order in which they are printed.
const NAMES: [(NodeFlags, &str); 8] = [
    (NodeFlags::DISCONNECTED, "DISCONNECTED"),
    (UNKNOWN, "UNKNOWN"),
    (NodeFlags::PERMANENTLY_DISABLED, "DISABLED"),
    (NodeFlags::BANNED, "BANNED"),
    (NodeFlags::UNHEALTHY, "UNHEALTHY"),
    (NodeFlags::DELETED, "DELETED"),
    (NodeFlags::STOPPED, "STOPPED"),
    (NodeFlags::INACTIVE, "INACTIVE"),
];

/// The names of the flags that are set, joined by `|`; `OK` without any.
pub(crate) fn flag_names(flags: NodeFlags) -> String {
    let names: Vec<_> = NAMES
        .iter()
        .filter(|(flag, _)| flags.intersects(*flag))
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        "OK".to_owned()
    } else {
        names.join("|")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_the_original() {
        for (bits, text) in [
            (0x00, "OK"),
            (0x03, "DISCONNECTED|UNHEALTHY|INACTIVE"),
            (0x2C, "DISABLED|BANNED|STOPPED|INACTIVE"),
            (0x22, "UNHEALTHY|STOPPED|INACTIVE"),
            (0x11, "DISCONNECTED|DELETED|INACTIVE"),
            (0x40, "UNKNOWN"),
        ] {
            assert_eq!(flag_names(NodeFlags::from_bits_retain(bits)), text);
        }
    }
}
