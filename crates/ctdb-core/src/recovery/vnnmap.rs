//! The vnn map that a recovery installs, and its generation.

use ctdb_proto::{Generation, Pnn, VnnMap};
use tracing::info;

use crate::recovery::LOG;

/// The map of these nodes: those with the lmaster capability, in pnn order; the leader alone if
/// there is none (`cluster.md 6.2`, step 8).
pub(crate) fn new_map(generation: Generation, lmasters: Vec<Pnn>, leader: Pnn) -> VnnMap {
    let mut map = lmasters;
    map.sort_unstable();
    if map.is_empty() {
        info!(target: LOG, "No active lmasters found. Adding recmaster anyway");
        map.push(leader);
    }
    VnnMap { generation, map }
}

/// A random generation: 31 bits, and not the one that means "invalid" (`cluster.md 6.1`). Nor the
/// one before, so that old packets can be told from new ones.
pub(crate) fn new_generation(rng: &mut fastrand::Rng, old: Generation) -> Generation {
    loop {
        let generation = Generation(rng.u32(0..=u32::MAX >> 1));
        if generation != Generation::INVALID && generation != old {
            return generation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::pnn;

    #[test]
    fn lmasters_stand_in_the_map_in_pnn_order() {
        let map = new_map(Generation(7), vec![pnn(3), pnn(0)], pnn(1));
        assert_eq!(
            map,
            VnnMap {
                generation: Generation(7),
                map: vec![pnn(0), pnn(3)]
            }
        );
    }

    #[test]
    fn without_lmasters_the_leader_is_the_map() {
        assert_eq!(new_map(Generation(7), Vec::new(), pnn(1)).map, [pnn(1)]);
    }

    #[test]
    fn generations_are_31_bits_and_new() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut old = Generation::INVALID;
        for _ in 0..1000 {
            let new = new_generation(&mut rng, old);
            assert!(new != old && new != Generation::INVALID && new.get() <= u32::MAX >> 1);
            old = new;
        }
    }
}
