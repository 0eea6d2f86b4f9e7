//! The vnn map: which active nodes act as lmasters.

use bytes::{Buf, BufMut};

use crate::wire::{decode_list, encode_list, to_u32};
use crate::{DecodeError, Generation, Pnn, Wire, jenkins_hash};

/// List of active nodes that act as lmasters, with its generation.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `generation`           |
/// |      4 |    4 | number of nodes        |
/// |      8 |  4 n | pnns                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VnnMap {
    pub generation: Generation,
    /// May be empty in a reply of a daemon before its first recovery.
    pub map: Vec<Pnn>,
}

impl VnnMap {
    /// The node that always knows where the record with this key is. `None` for an empty map.
    pub fn lmaster(&self, key: &[u8]) -> Option<Pnn> {
        let slot = jenkins_hash(key).checked_rem(u32::try_from(self.map.len()).ok()?)?;
        self.map.get(slot as usize).copied()
    }
}

impl Wire for VnnMap {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        self.generation.encode(out);
        to_u32(self.map.len()).encode(out);
        encode_list(&self.map, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let generation = Generation::decode(src)?;
        let size = u32::decode(src)?;
        Ok(Self {
            generation,
            map: decode_list(size, src)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_by_their_hash() {
        let pnns = [2, 0, 5].map(|raw| Pnn::new(raw).unwrap());
        let map = VnnMap {
            generation: Generation(9),
            map: pnns.to_vec(),
        };
        let slot = jenkins_hash(b"key1") as usize % 3;
        assert_eq!(map.lmaster(b"key1"), Some(pnns[slot]));
    }

    #[test]
    fn an_empty_map_has_no_lmaster() {
        let map = VnnMap {
            generation: Generation::INVALID,
            map: Vec::new(),
        };
        assert_eq!(map.lmaster(b"key1"), None);
    }
}
