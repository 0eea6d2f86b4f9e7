//! The one id space that calls, controls, traverses and clients of a daemon share (wire.md 2.2).

use std::collections::HashSet;

use ctdb_proto::ReqId;

/// First id minus one: early wrapping keeps the wrap-around exercised.
const START: u32 = i32::MAX as u32 - 200;
const MAX: u32 = i32::MAX as u32;

/// Gives out ids and knows which are in use; what an id stands for is its owner's business.
#[derive(Debug)]
pub(crate) struct ReqIds {
    last: u32,
    used: HashSet<u32>,
}

impl ReqIds {
    pub(crate) fn new() -> Self {
        Self {
            last: START,
            used: HashSet::new(),
        }
    }

    /// The lowest free id above the last one given out; after the end of the space, from 0.
    pub(crate) fn allocate(&mut self) -> ReqId {
        loop {
            self.last = if self.last >= MAX { 0 } else { self.last + 1 };
            if self.used.insert(self.last) {
                return ReqId(self.last);
            }
        }
    }

    /// Like [`Self::allocate`], but never 0: a client id of 0 means "the daemon itself".
    pub(crate) fn allocate_nonzero(&mut self) -> ReqId {
        let id = self.allocate();
        if id.0 != 0 {
            return id;
        }
        let other = self.allocate();
        self.release(id);
        other
    }

    /// The id for a packet to which no answer can come: taken and free again at once.
    pub(crate) fn unanswered(&mut self) -> ReqId {
        let id = self.allocate();
        self.release(id);
        id
    }

    pub(crate) fn release(&mut self, id: ReqId) {
        self.used.remove(&id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_id_is_just_below_the_wrap() {
        assert_eq!(ReqIds::new().allocate(), ReqId(0x7fff_ff38));
    }

    #[test]
    fn ids_wrap_to_zero_and_skip_what_is_in_use() {
        let mut ids = ReqIds::new();
        for _ in 0..200 {
            ids.allocate();
        }
        assert_eq!(ids.allocate(), ReqId(0));
        assert_eq!(ids.allocate(), ReqId(1));
        ids.release(ReqId(0));
        ids.last = MAX;
        assert_eq!(ids.allocate(), ReqId(0));
        assert_eq!(ids.allocate(), ReqId(2));
    }

    #[test]
    fn a_client_is_never_given_zero() {
        let mut ids = ReqIds::new();
        ids.last = MAX;
        assert_eq!(ids.allocate_nonzero(), ReqId(1));
        ids.last = MAX;
        assert_eq!(ids.allocate(), ReqId(0), "0 was not leaked");
    }
}
