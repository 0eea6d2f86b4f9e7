//! Two nodes that do not reach each other, while the leader reaches both.
//!
//! Records that must travel between them hang. The original pushes flags for ever and repairs
//! nothing (`cluster.md` 10). Here the leader excludes one of the two by a ban: the one with most
//! broken links, of equals the one with the higher pnn. When everybody reaches it again the ban is
//! lifted. The ban is short and made anew while the link is broken: should another node lead
//! meanwhile, which does not know why the node is banned, it ends by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ctdb_proto::Pnn;

/// How long a link must be broken, beyond the time until the nodes notice: a daemon that starts
/// again is connected by then.
const GRACE: Duration = Duration::from_secs(3);

/// Longest length of such a ban.
pub(crate) const EXCLUSION: Duration = Duration::from_secs(30);

/// A link between two nodes, the lower pnn first.
pub(crate) type Link = (Pnn, Pnn);

/// The links between other nodes, as the leader knows them.
#[derive(Debug, Default)]
pub(crate) struct Links {
    broken_since: BTreeMap<Link, Instant>,
    /// Whom this leader has excluded, and until when.
    excluded: BTreeMap<Pnn, Instant>,
}

/// What to do about broken links.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Repair {
    /// Ban a node of this link.
    Exclude { pnn: Pnn, link: Link },
    /// Make the ban anew, since it would end.
    Extend(Pnn),
    /// Lift the ban.
    Readmit(Pnn),
}

impl Links {
    /// Another node leads.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// A round of checks has found these links broken. `period`: the length of a ban.
    pub(crate) fn on_round(
        &mut self,
        broken: &BTreeSet<Link>,
        period: Duration,
        now: Instant,
    ) -> Vec<Repair> {
        self.broken_since.retain(|link, _| broken.contains(link));
        for link in broken {
            self.broken_since.entry(*link).or_insert(now);
        }
        let mut repairs = self.readmit(now);
        repairs.extend(self.exclude(period, now));
        repairs
    }

    fn readmit(&mut self, now: Instant) -> Vec<Repair> {
        let broken = &self.broken_since;
        let is_whole = |pnn: Pnn| !broken.keys().any(|(a, b)| *a == pnn || *b == pnn);
        let whole: Vec<Pnn> = self
            .excluded
            .keys()
            .copied()
            .filter(|pnn| is_whole(*pnn))
            .collect();
        let still = |pnn: &Pnn| self.excluded.remove(pnn).is_some_and(|until| now < until);
        whole
            .into_iter()
            .filter(still)
            .map(Repair::Readmit)
            .collect()
    }

    fn exclude(&mut self, period: Duration, now: Instant) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let due: BTreeSet<Link> = self
            .broken_since
            .iter()
            .filter(|(_, since)| now >= **since + GRACE)
            .map(|(link, _)| *link)
            .collect();
        for link in &due {
            let pnn = self.worse_of(*link, &due);
            let link = *link;
            match self.excluded.insert(pnn, now + period) {
                None => repairs.push(Repair::Exclude { pnn, link }),
                Some(until) if now + period / 2 < until => {
                    self.excluded.insert(pnn, until);
                }
                Some(_) => repairs.push(Repair::Extend(pnn)),
            }
        }
        repairs
    }

    /// Who of the two is excluded: who is already, else who has more broken links.
    fn worse_of(&self, (a, b): Link, due: &BTreeSet<Link>) -> Pnn {
        let rank = |pnn: Pnn| {
            let links = due.iter().filter(|(x, y)| *x == pnn || *y == pnn).count();
            (self.excluded.contains_key(&pnn), links, pnn)
        };
        if rank(a) > rank(b) { a } else { b }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::{epoch, pnn};

    const PERIOD: Duration = EXCLUSION;

    fn broken(links: &[(u32, u32)]) -> BTreeSet<Link> {
        links.iter().map(|(a, b)| (pnn(*a), pnn(*b))).collect()
    }

    fn excluded(repairs: &[Repair]) -> Vec<u32> {
        let pnn = |repair: &Repair| match repair {
            Repair::Exclude { pnn, .. } | Repair::Extend(pnn) => pnn.get(),
            Repair::Readmit(pnn) => panic!("node {pnn} readmitted"),
        };
        repairs.iter().map(pnn).collect()
    }

    #[test]
    fn a_link_that_comes_back_in_time_excludes_nobody() {
        let mut links = Links::default();
        let s = |seconds| epoch() + Duration::from_secs(seconds);
        assert_eq!(links.on_round(&broken(&[(1, 2)]), PERIOD, s(0)), []);
        assert_eq!(links.on_round(&broken(&[]), PERIOD, s(2)), []);
        assert_eq!(links.on_round(&broken(&[(1, 2)]), PERIOD, s(4)), []);
    }

    #[test]
    fn the_node_with_most_broken_links_goes() {
        let mut links = Links::default();
        let all = broken(&[(1, 2), (1, 3), (4, 5)]);
        links.on_round(&all, PERIOD, epoch());
        let repairs = links.on_round(&all, PERIOD, epoch() + GRACE);
        assert_eq!(excluded(&repairs), [1, 5], "of equals the higher one");
        let later = links.on_round(&all, PERIOD, epoch() + GRACE * 2);
        assert_eq!(later, [], "a ban lasts");
    }

    #[test]
    fn a_ban_is_made_anew_while_the_link_is_broken_and_lifted_when_it_is_whole() {
        let mut links = Links::default();
        let cut = broken(&[(1, 2)]);
        links.on_round(&cut, PERIOD, epoch());
        links.on_round(&cut, PERIOD, epoch() + GRACE);
        let half = epoch() + GRACE + PERIOD / 2;
        assert_eq!(excluded(&links.on_round(&cut, PERIOD, half)), [2]);
        let whole = links.on_round(&broken(&[]), PERIOD, half + GRACE);
        assert_eq!(whole, [Repair::Readmit(pnn(2))]);
        assert_eq!(links.on_round(&broken(&[]), PERIOD, half + GRACE), []);
    }
}
