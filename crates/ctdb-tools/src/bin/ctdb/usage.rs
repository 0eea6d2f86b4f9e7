//! The table of subcommands and the usage texts made from it (`cli.md` 2.1 and 1.1).

use std::fmt::Write;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// Arguments, as the usage text shows them.
    pub(crate) arguments: &'static str,
    pub(crate) description: &'static str,
    /// Whether it talks to the daemon.
    pub(crate) needs_daemon: bool,
    /// Whether `-n` may name another node.
    pub(crate) remote: bool,
}

/// The commands of the original, then ours.
fn all() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().chain(&OURS)
}

/// The command with exactly this name.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    all().find(|command| command.name == name)
}

/// Option help: `ctdb --help`. The program name is missing in the original, too.
pub(crate) const OPTION_HELP: &str = "\
Usage: [OPTION...]
  -d, --debug=STRING       debug level
  -t, --timelimit=INT      timelimit (in seconds)
  -n, --node=INT           node specification - integer
  -Y                       enable machine readable output
  -x, --separator=CHAR     specify separator for machine readable output
  -X                       enable machine parsable output with separator |
  -v, --verbose            enable verbose output
  -T, --maxruntime=INT     die if runtime exceeds this limit (in seconds)

Help options:
  -?, --help               Show this help message
      --usage              Display brief usage message
";

/// Short option help: `ctdb --usage`.
pub(crate) const OPTION_USAGE: &str = "\
Usage: [-?YXv] [-?|--help] [--usage] [-d|--debug=STRING]
        [-t|--timelimit=INT] [-n|--node=INT] [-Y] [-x|--separator=CHAR]
        [-X] [-v|--verbose] [-T|--maxruntime=INT]
";

/// Everything: what a run without a subcommand prints.
pub(crate) fn full_usage() -> String {
    let mut text = format!("{OPTION_HELP}\nCommands:\n");
    for command in all() {
        command.usage_line(&mut text);
    }
    text
}

impl Command {
    /// What wrong arguments of this command print.
    pub(crate) fn usage(&self) -> String {
        let mut text = format!("{OPTION_USAGE}\nCommands:\n");
        self.usage_line(&mut text);
        text
    }

    fn usage_line(&self, text: &mut String) {
        let Self {
            name,
            arguments,
            description,
            ..
        } = self;
        let _ = writeln!(text, "  {name:<15} {arguments:<27}  {description}");
    }
}

/// Commands that the original does not have.
const OURS: [Command; 1] = [command(
    "explain",
    "[<pnn>]",
    "tell why things are as they are",
)];

/// All commands of the original, in the order of its usage text.
const COMMANDS: [Command; 77] = [
    command("version", "", "show version of ctdb")
        .offline()
        .local(),
    command("status", "", "show node status"),
    command("uptime", "", "show node uptime"),
    command("ping", "", "ping a node"),
    command(
        "runstate",
        "[setup|first_recovery|startup|running]",
        "get/check runstate of a node",
    ),
    command("getvar", "<name>", "get a tunable variable"),
    command("setvar", "<name> <value>", "set a tunable variable"),
    command("listvars", "", "list tunable variables"),
    command("statistics", "", "show ctdb statistics"),
    command("statisticsreset", "", "reset ctdb statistics"),
    command("stats", "[count]", "show rolling statistics"),
    command("ip", "[all]", "show public ips"),
    command("ipinfo", "<ip>", "show public ip details"),
    command("ifaces", "", "show interfaces"),
    command(
        "setifacelink",
        "<iface> up|down",
        "set interface link status",
    ),
    command(
        "process-exists",
        "<pid> [<srvid>]",
        "check if a process exists on a node",
    ),
    command("getdbmap", "", "show attached databases"),
    command("getdbstatus", "<dbname|dbid>", "show database status"),
    command("catdb", "<dbname|dbid>", "dump cluster-wide ctdb database").local(),
    command("cattdb", "<dbname|dbid>", "dump local ctdb database").local(),
    command("getcapabilities", "", "show node capabilities"),
    command("pnn", "", "show the pnn of the current node").local(),
    command("lvs", "leader|list|status", "show lvs configuration").local(),
    command(
        "setdebug",
        "ERROR|WARNING|NOTICE|INFO|DEBUG",
        "set debug level",
    ),
    command("getdebug", "", "get debug level"),
    command(
        "attach",
        "<dbname> [persistent|replicated]",
        "attach a database",
    )
    .local(),
    command("detach", "<dbname|dbid> ...", "detach database(s)").local(),
    command("dumpmemory", "", "dump ctdbd memory map"),
    command("rddumpmemory", "", "dump recoverd memory map"),
    command("getpid", "", "get ctdbd process ID"),
    command("disable", "", "disable a node"),
    command("enable", "", "enable a node"),
    command("stop", "", "stop a node"),
    command("continue", "", "continue a stopped node"),
    command("ban", "<bantime>", "ban a node"),
    command("unban", "", "unban a node"),
    command("shutdown", "", "shutdown ctdb daemon"),
    command("recover", "", "force recovery"),
    command("sync", "", "run ip reallocation (deprecated)"),
    command("ipreallocate", "", "run ip reallocation"),
    command("gratarp", "<ip> <interface>", "send a gratuitous arp"),
    command(
        "tickle",
        "<srcip:port> <dstip:port>",
        "send a tcp tickle ack",
    )
    .offline()
    .local(),
    command("gettickles", "<ip> [<port>]", "get the list of tickles"),
    command("addtickle", "<ip>:<port> <ip>:<port>", "add a tickle"),
    command("deltickle", "<ip>:<port> <ip>:<port>", "delete a tickle"),
    command("listnodes", "", "list nodes in the cluster").offline(),
    command("reloadnodes", "", "reload the nodes file all nodes").local(),
    command(
        "moveip",
        "<ip> <node>",
        "move an ip address to another node",
    )
    .local(),
    command("addip", "<ip/mask> <iface>", "add an ip address to a node"),
    command("delip", "<ip>", "delete an ip address from a node"),
    command(
        "backupdb",
        "<dbname|dbid> <file>",
        "backup a database into a file",
    )
    .local(),
    command(
        "restoredb",
        "<file> [dbname]",
        "restore a database from a file",
    )
    .local(),
    command("dumpdbbackup", "<file>", "dump database from a backup file")
        .offline()
        .local(),
    command(
        "wipedb",
        "<dbname|dbid>",
        "wipe the contents of a database.",
    )
    .local(),
    command("leader", "", "show the pnn of the leader"),
    command("event", "", "event and event script commands")
        .offline()
        .local(),
    command(
        "scriptstatus",
        "[init|setup|startup|monitor|takeip|releaseip|ipreallocated]",
        "show event script status",
    )
    .offline()
    .local(),
    command("natgw", "leader|list|status", "show natgw configuration").local(),
    command("getreclock", "", "get recovery lock file"),
    command("setlmasterrole", "on|off", "set LMASTER role"),
    command("setleaderrole", "on|off", "set LEADER role"),
    command("setdbreadonly", "<dbname|dbid>", "enable readonly records"),
    command("setdbsticky", "<dbname|dbid>", "enable sticky records"),
    command(
        "pfetch",
        "<dbname|dbid> <key>",
        "fetch record from persistent database",
    )
    .local(),
    command(
        "pstore",
        "<dbname|dbid> <key> <value>",
        "write record to persistent database",
    )
    .local(),
    command(
        "pdelete",
        "<dbname|dbid> <key>",
        "delete record from persistent database",
    )
    .local(),
    command(
        "ptrans",
        "<dbname|dbid> [<file>]",
        "update a persistent database (from file or stdin)",
    )
    .local(),
    command("tfetch", "<tdb-file> <key> [<file>]", "fetch a record"),
    command(
        "tstore",
        "<tdb-file> <key> <data> [<rsn> <dmaster> <flags>]",
        "store a record",
    ),
    command(
        "readkey",
        "<dbname|dbid> <key> [readonly]",
        "read value of a database key",
    )
    .local(),
    command(
        "writekey",
        "<dbname|dbid> <key> <value>",
        "write value for a database key",
    )
    .local(),
    command("deletekey", "<dbname|dbid> <key>", "delete a database key").local(),
    command(
        "checktcpport",
        "<port>",
        "check if a service is bound to a specific tcp port or not",
    )
    .offline()
    .local(),
    command(
        "getdbseqnum",
        "<dbname|dbid>",
        "get database sequence number",
    )
    .local(),
    command(
        "nodestatus",
        "[all|<pnn-list>]",
        "show and return node status",
    ),
    command("dbstatistics", "<dbname|dbid>", "show database statistics"),
    command(
        "reloadips",
        "[all|<pnn-list>]",
        "reload the public addresses file",
    )
    .local(),
];

const fn command(
    name: &'static str,
    arguments: &'static str,
    description: &'static str,
) -> Command {
    Command {
        name,
        arguments,
        description,
        needs_daemon: true,
        remote: true,
    }
}

impl Command {
    /// Works without a daemon.
    const fn offline(mut self) -> Self {
        self.needs_daemon = false;
        self
    }

    /// Works on the local node only.
    const fn local(mut self) -> Self {
        self.remote = false;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_usage_is_that_of_the_original() {
        let golden = include_str!("../../../tests/golden/usage.txt");
        let usage = full_usage();
        let ours = usage.strip_prefix(golden).expect("it begins with that");
        assert_eq!(ours.lines().count(), OURS.len(), "and only ours follow");
    }

    #[test]
    fn a_command_is_found_by_its_exact_name_only() {
        assert!(find("status").is_some());
        assert!(find("Status").is_none());
        assert!(find("stat").is_none());
    }

    #[test]
    fn command_usage_has_the_one_line() {
        let usage = find("getvar").unwrap().usage();
        let last = "  getvar          <name>                       get a tunable variable\n";
        assert_eq!(usage, format!("{OPTION_USAGE}\nCommands:\n{last}"));
    }
}
