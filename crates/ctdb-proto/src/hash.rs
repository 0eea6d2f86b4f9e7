//! Bob Jenkins' lookup3 `hashlittle`: names databases and spreads keys over the vnn map.

/// Hash of `key` with initial value 0 (`wire.md 4.2`).
pub fn jenkins_hash(key: &[u8]) -> u32 {
    let mut state = State::new(key.len());
    let mut rest = key;
    while let Some((block, tail)) = rest.split_first_chunk::<12>() {
        if tail.is_empty() {
            break; // A full last block is the last block all the same.
        }
        state.add(block);
        state.mix();
        rest = tail;
    }
    if rest.is_empty() {
        return state.c;
    }
    let mut block = [0; 12];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    state.add(&block);
    state.finish()
}

struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the algorithm adds the length mod 2^32"
    )]
    fn new(len: usize) -> Self {
        let start = 0xdead_beef_u32.wrapping_add(len as u32);
        Self {
            a: start,
            b: start,
            c: start,
        }
    }

    fn add(&mut self, block: &[u8; 12]) {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *block;
        self.a = self.a.wrapping_add(u32::from_le_bytes([a0, a1, a2, a3]));
        self.b = self.b.wrapping_add(u32::from_le_bytes([b0, b1, b2, b3]));
        self.c = self.c.wrapping_add(u32::from_le_bytes([c0, c1, c2, c3]));
    }

    fn mix(&mut self) {
        let Self { a, b, c } = self;
        mix_step(a, c, b, 4);
        mix_step(b, a, c, 6);
        mix_step(c, b, a, 8);
        mix_step(a, c, b, 16);
        mix_step(b, a, c, 19);
        mix_step(c, b, a, 4);
    }

    fn finish(self) -> u32 {
        let Self {
            mut a,
            mut b,
            mut c,
        } = self;
        final_step(&mut c, b, 14);
        final_step(&mut a, c, 11);
        final_step(&mut b, a, 25);
        final_step(&mut c, b, 16);
        final_step(&mut a, c, 4);
        final_step(&mut b, a, 14);
        final_step(&mut c, b, 24);
        c
    }
}

fn mix_step(x: &mut u32, y: &mut u32, z: &mut u32, rotation: u32) {
    *x = x.wrapping_sub(*y) ^ y.rotate_left(rotation);
    *y = y.wrapping_add(*z);
}

fn final_step(x: &mut u32, y: u32, rotation: u32) {
    *x = (*x ^ y).wrapping_sub(y.rotate_left(rotation));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_values() {
        // From the self test that its author published with the algorithm.
        assert_eq!(jenkins_hash(b""), 0xdead_beef);
        assert_eq!(jenkins_hash(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn a_full_last_block_is_not_mixed_twice() {
        // Lengths round 12 and 24 take the paths that differ; "g_lock.tdb\0" has 11.
        assert_eq!(jenkins_hash(b"g_lock.tdb\0"), 0x4d2a_432b);
        let hashes: Vec<u32> = (10..27).map(|n| jenkins_hash(&vec![0; n])).collect();
        let mut unique = hashes.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), hashes.len());
    }
}
