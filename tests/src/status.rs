//! `ctdb status` as data (`cli.md` 2.2).

use std::collections::BTreeMap;
use std::thread;

use ctdb_tools::local_cluster::Node;

/// What a node says about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Flags of each node as they are shown: `OK`, `STOPPED|INACTIVE`.
    pub flags: BTreeMap<usize, String>,
    pub generation: String,
    /// The vnn map: the node that is lmaster for each hash.
    pub vnn_map: Vec<usize>,
    /// Recovery mode is normal.
    pub normal: bool,
    pub leader: Option<usize>,
}

impl Status {
    /// Asks a node; `None` if it does not answer.
    pub fn of(node: &Node) -> Option<Self> {
        let output = node.ctdb(["status"]).ok()?;
        output.success().then(|| Self::parse(&output.stdout))
    }

    /// Asks several nodes at the same time: the tool waits for the leader's next broadcast, so each
    /// answer takes about a second.
    pub fn of_all<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<Option<Self>> {
        thread::scope(|scope| {
            let asked: Vec<_> = nodes
                .into_iter()
                .map(|node| scope.spawn(|| Self::of(node)))
                .collect();
            asked
                .into_iter()
                .map(|thread| thread.join().ok().flatten())
                .collect()
        })
    }

    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for line in text.lines() {
            status.parse_line(line);
        }
        status
    }

    fn parse_line(&mut self, line: &str) {
        let Some((key, value)) = line.split_once(':') else {
            return;
        };
        match key {
            "pnn" => {
                let mut words = value.split_ascii_whitespace();
                let pnn = words.next().and_then(|word| word.parse().ok());
                if let (Some(pnn), Some(flags)) = (pnn, words.nth(1)) {
                    self.flags.insert(pnn, flags.to_owned());
                }
            }
            "Generation" => value.clone_into(&mut self.generation),
            "hash" => {
                let lmaster: Option<usize> =
                    line.rsplit_once(':').and_then(|(_, pnn)| pnn.parse().ok());
                self.vnn_map.extend(lmaster);
            }
            "Recovery mode" => self.normal = value.starts_with("NORMAL"),
            "Leader" => self.leader = value.parse().ok(),
            _ => {}
        }
    }

    /// Every node is `OK` and works as lmaster, and there is a leader.
    pub fn is_healthy(&self, nodes: usize) -> bool {
        self.flags.len() == nodes
            && self.flags.values().all(|flags| flags == "OK")
            && self.normal
            && self.leader.is_some()
            && self.vnn_map == (0..nodes).collect::<Vec<_>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_tool_is_read() {
        let text = "\
Number of nodes:2
pnn:0 127.9.9.1        OK (THIS NODE)
pnn:1 127.9.9.2        DISCONNECTED|UNHEALTHY|INACTIVE
Generation:701498104
Size:1
hash:0 lmaster:0
Recovery mode:NORMAL (0)
Leader:0
";
        let status = Status::parse(text);
        assert_eq!(status.flags[&0], "OK");
        assert_eq!(status.flags[&1], "DISCONNECTED|UNHEALTHY|INACTIVE");
        assert_eq!(
            (status.generation.as_str(), status.leader),
            ("701498104", Some(0))
        );
        assert_eq!(
            (status.vnn_map.as_slice(), status.normal),
            ([0].as_slice(), true)
        );
        assert!(!status.is_healthy(2));
    }
}
