//! `ip`, `ipinfo`, `ifaces` and `setifacelink`: public addresses and interfaces (`cli.md` 2.5).

use std::collections::BTreeMap;
use std::fmt::Write;

use ctdb_conf::address::parse_ip_or_bracketed;
use ctdb_conf::public_addresses::MAX_INTERFACE_NAME;
use ctdb_proto::control::{Iface, PublicIp, PublicIpInfo};
use ctdb_proto::{Pnn, SockAddr};

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::{machine_line, print};

pub(crate) async fn ip(context: &mut Context) -> Outcome {
    context.arguments.expect_count(0..=1)?;
    let on_all = match context.arguments.text(0).as_deref() {
        None => false,
        Some("all") => true,
        Some(_) => return Err(Failure::Usage),
    };
    let hosts = if on_all {
        hosts_on_all(context).await?
    } else {
        hosts_on_one(context).await?
    };
    let mut lines = Vec::with_capacity(hosts.len());
    for (address, host) in hosts {
        // Without `all` only the knowledge of the one node counts, so it is asked about all.
        let asked = if on_all { host } else { Some(context.node) };
        let info = match asked {
            Some(node) => Some(context.at(node).get_public_ip_info(address).await?),
            None => None,
        };
        lines.push(IpLine::new(address, host, info.as_ref()));
    }
    let mut text = match context.separator() {
        Some(separator) => machine_line(separator, header(context.options.verbose)),
        None if on_all => "Public IPs on ALL nodes\n".to_owned(),
        None => format!("Public IPs on node {}\n", context.node),
    };
    text.extend(
        lines
            .iter()
            .map(|line| line.text(context.separator(), context.options.verbose)),
    );
    print(&text).map(|()| 0)
}

pub(crate) async fn ipinfo(context: &Context) -> Outcome {
    context.arguments.expect_count(1..=1)?;
    let text = context.arguments.text(0).unwrap_or_default();
    let address = parse_ip_or_bracketed(&text)
        .ok_or_else(|| Failure::new(format!("Invalid IP address {text}")))?;
    let answer = context
        .target()
        .get_public_ip_info(SockAddr::from(address))
        .await;
    match answer.map_err(Failure::from) {
        Ok(info) => print(&ipinfo_text(context.node, &info)).map(|()| 0),
        Err(failure) => {
            if failure.code() == -1 {
                print(&format!(
                    "Node {} does not know about IP {text}\n",
                    context.node
                ))?;
            }
            Err(failure)
        }
    }
}

fn ipinfo_text(node: Pnn, info: &PublicIpInfo) -> String {
    let address = info.ip.addr.ip();
    let mut text = format!(
        "Public IP[{address}] info on node {node}\nIP:{address}\nCurrentNode:{}\n\
         NumInterfaces:{}\n",
        Pnn::raw_or_unknown(info.ip.pnn),
        info.ifaces.len(),
    );
    for (index, iface) in (0..).zip(&info.ifaces) {
        let active = if info.active_idx == Some(index) {
            " (active)"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "Interface[{}]: Name:{} Link:{} References:{}{active}",
            index + 1,
            iface.name,
            up_or_down(iface),
            iface.references,
        );
    }
    text
}

pub(crate) async fn ifaces(context: &Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let list = context.target().get_ifaces().await?;
    print(&ifaces_text(
        context.node,
        &list.ifaces,
        context.separator(),
    ))
    .map(|()| 0)
}

fn ifaces_text(node: Pnn, ifaces: &[Iface], separator: Option<&str>) -> String {
    if ifaces.is_empty() {
        return format!("No interfaces configured on node {node}\n");
    }
    let Some(separator) = separator else {
        let line = |iface: &Iface| {
            let Iface {
                name, references, ..
            } = iface;
            format!(
                "name:{name} link:{} references:{references}\n",
                up_or_down(iface)
            )
        };
        return std::iter::once(format!("Interfaces on node {node}\n"))
            .chain(ifaces.iter().map(line))
            .collect();
    };
    let line = |iface: &Iface| {
        let link = if iface.link_up { "1" } else { "0" };
        machine_line(
            separator,
            &[&iface.name, link, &iface.references.to_string()],
        )
    };
    std::iter::once(machine_line(
        separator,
        &["Name", "LinkStatus", "References"],
    ))
    .chain(ifaces.iter().map(line))
    .collect()
}

fn up_or_down(iface: &Iface) -> &'static str {
    if iface.link_up { "up" } else { "down" }
}

pub(crate) async fn setifacelink(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let name = context.arguments.text(0).unwrap_or_default();
    if name.len() > MAX_INTERFACE_NAME {
        return Err(Failure::new(format!("Interface name '{name}' too long")));
    }
    let node = context.node;
    let list = context.target().get_ifaces().await.map_err(|error| {
        let line = format!("Failed to get interface information from node {node}");
        Failure::from(error).and(line)
    })?;
    let Some(known) = list.ifaces.into_iter().find(|iface| *iface.name == *name) else {
        print(&format!("Interface {name} not configured on node {node}\n"))?;
        return Err(Failure::silent(1));
    };
    // The original looks at the state only now.
    let link_up = match context.arguments.text(1).as_deref() {
        Some("up") => true,
        Some("down") => false,
        _ => return Err(Failure::Usage),
    };
    let iface = Iface {
        link_up,
        references: 0,
        ..known
    };
    context.target().set_iface_link_state(&iface).await?;
    Ok(0)
}

/// Public addresses in the order of the output, IPv4 first, with their hosts.
type Hosts = BTreeMap<SockAddr, Option<Pnn>>;

async fn hosts_on_one(context: &Context) -> Result<Hosts, Failure> {
    let list = context.target().get_public_ips(false).await?;
    Ok(list.ips.into_iter().map(|ip| (ip.addr, ip.pnn)).collect())
}

/// Asks all active nodes in pnn order.
async fn hosts_on_all(context: &mut Context) -> Result<Hosts, Failure> {
    let nodemap = context.nodemap().await?;
    let active = nodemap
        .nodes
        .iter()
        .filter(|node| !node.flags.is_inactive());
    let active: Vec<_> = active.map(|node| node.pnn).collect();
    let mut hosts = Hosts::new();
    for node in active {
        let answer = context.at(node).get_public_ips(false).await;
        let list = answer.map_err(|error| Failure::from(error).code_is(1))?;
        merge(&mut hosts, node, &list.ips);
    }
    Ok(hosts)
}

/// Only what a node says about itself makes it the host; a later such claim wins.
fn merge(hosts: &mut Hosts, node: Pnn, ips: &[PublicIp]) {
    for ip in ips {
        let host = hosts.entry(ip.addr).or_insert(None);
        if ip.pnn == Some(node) {
            *host = Some(node);
        }
    }
}

fn header(verbose: bool) -> &'static [&'static str] {
    const FIELDS: [&str; 5] = [
        "Public IP",
        "Node",
        "ActiveInterfaces",
        "AvailableInterfaces",
        "ConfiguredInterfaces",
    ];
    if verbose {
        &FIELDS
    } else {
        &["Public IP", "Node"]
    }
}

/// One public address with its interfaces, as joined names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct IpLine {
    address: String,
    /// Pnn of the host, or -1.
    host: String,
    active: String,
    available: String,
    configured: String,
}

impl IpLine {
    fn new(address: SockAddr, host: Option<Pnn>, info: Option<&PublicIpInfo>) -> Self {
        let ifaces = info.map(|info| info.ifaces.as_slice()).unwrap_or_default();
        Self {
            address: address.ip().to_string(),
            host: host.map_or_else(|| "-1".to_owned(), |pnn| pnn.to_string()),
            active: names(info.and_then(PublicIpInfo::active)),
            available: names(ifaces.iter().filter(|iface| iface.link_up)),
            configured: names(ifaces),
        }
    }

    fn text(&self, separator: Option<&str>, verbose: bool) -> String {
        let Self {
            address,
            host,
            active,
            available,
            configured,
        } = self;
        match (separator, verbose) {
            (None, false) => format!("{address} {host}\n"),
            (None, true) => format!(
                "{address} node[{host}] active[{active}] available[{available}] \
                 configured[{configured}]\n"
            ),
            (Some(separator), false) => machine_line(separator, &[address, host]),
            (Some(separator), true) => {
                machine_line(separator, &[address, host, active, available, configured])
            }
        }
    }
}

fn names<'a>(ifaces: impl IntoIterator<Item = &'a Iface>) -> String {
    let names: Vec<_> = ifaces
        .into_iter()
        .map(|iface| iface.name.as_str())
        .collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use ctdb_proto::FixedStr;

    use super::*;

    fn pnn(raw: u32) -> Option<Pnn> {
        Pnn::new(raw)
    }

    fn address(text: &str) -> SockAddr {
        SockAddr::from(text.parse::<std::net::IpAddr>().unwrap())
    }

    fn line() -> IpLine {
        let iface = |name: &str, link_up| Iface {
            name: FixedStr::new(name).unwrap(),
            link_up,
            references: 1,
        };
        let ip = PublicIp {
            pnn: pnn(0),
            addr: address("10.0.0.31"),
        };
        let ifaces = vec![iface("eth2", true), iface("eth1", false)];
        let info = PublicIpInfo {
            ip,
            active_idx: Some(0),
            ifaces,
        };
        IpLine::new(ip.addr, ip.pnn, Some(&info))
    }

    #[test]
    fn all_four_layouts() {
        assert_eq!(line().text(None, false), "10.0.0.31 0\n");
        let verbose = "10.0.0.31 node[0] active[eth2] available[eth2] configured[eth2,eth1]\n";
        assert_eq!(line().text(None, true), verbose);
        assert_eq!(line().text(Some("|"), false), "|10.0.0.31|0|\n");
        assert_eq!(
            line().text(Some("|"), true),
            "|10.0.0.31|0|eth2|eth2|eth2,eth1|\n"
        );
    }

    #[test]
    fn ipinfo_marks_the_active_interface() {
        let iface = |name: &str, link_up| Iface {
            name: FixedStr::new(name).unwrap(),
            link_up,
            references: 3,
        };
        let ip = PublicIp {
            pnn: None,
            addr: address("fd00::1"),
        };
        let ifaces = vec![iface("eth2", true), iface("eth1", false)];
        let info = PublicIpInfo {
            ip,
            active_idx: Some(1),
            ifaces,
        };
        assert_eq!(
            ipinfo_text(Pnn::new(2).unwrap(), &info),
            "Public IP[fd00::1] info on node 2\nIP:fd00::1\nCurrentNode:4294967295\n\
             NumInterfaces:2\nInterface[1]: Name:eth2 Link:up References:3\n\
             Interface[2]: Name:eth1 Link:down References:3 (active)\n"
        );
    }

    #[test]
    fn an_unassigned_address_has_no_interfaces() {
        let line = IpLine::new(address("fd00::1"), None, None);
        assert_eq!(
            line.text(None, true),
            "fd00::1 node[-1] active[] available[] configured[]\n"
        );
    }

    #[test]
    fn only_a_node_itself_claims_an_address() {
        let mut hosts = Hosts::new();
        let ip = |text, host| PublicIp {
            pnn: pnn(host),
            addr: address(text),
        };
        let (zero, one) = (pnn(0).unwrap(), pnn(1).unwrap());
        merge(
            &mut hosts,
            zero,
            &[ip("fd00::1", 1), ip("10.0.0.2", 0), ip("10.0.0.1", 1)],
        );
        merge(&mut hosts, one, &[ip("10.0.0.2", 0), ip("10.0.0.1", 1)]);
        let shown: Vec<_> = hosts
            .iter()
            .map(|(a, host)| (a.ip().to_string(), *host))
            .collect();
        let expected = [
            ("10.0.0.1", Some(one)),
            ("10.0.0.2", Some(zero)),
            ("fd00::1", None),
        ];
        assert_eq!(shown, expected.map(|(text, host)| (text.to_owned(), host)));
    }
}
