//! Packets that nobody would send: recorded ones with bytes changed, missing or too many.
//!
//! A change may by chance make a packet that is right, and means something else. What would then
//! be obeyed, and would stop the node or take it out of the cluster, is left out: obeying it is no
//! fault.

use ctdb_proto::{Opcode, Operation, Srvid};
use fastrand::Rng;

/// Recorded packets and a source of changes that is the same at each run.
pub struct Mutator {
    corpus: Vec<Vec<u8>>,
    rng: Rng,
}

impl Mutator {
    /// Packets that were recorded from this kind of sender: `client` or `peer`.
    ///
    /// # Panics
    ///
    /// When the recordings cannot be read.
    pub fn of(sender: &str) -> Self {
        let packets = RECORDED.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            (line["from"] == sender).then(|| unhex(line["hex"].as_str().expect("bytes in hex")))
        });
        let corpus: Vec<Vec<u8>> = packets.flatten().collect();
        assert!(
            corpus.len() > 100,
            "only {} packets recorded from a {sender}",
            corpus.len()
        );
        Self {
            corpus,
            rng: Rng::with_seed(4379),
        }
    }

    /// The packets for one connection: a few, of which each may be the last that is understood.
    pub fn connection(&mut self) -> Vec<Vec<u8>> {
        let count = self.rng.usize(1..=20);
        (0..count).map(|_| self.packet()).collect()
    }

    fn packet(&mut self) -> Vec<u8> {
        loop {
            let mut packet = self.corpus[self.rng.usize(..self.corpus.len())].clone();
            for _ in 0..self.rng.usize(1..=3) {
                self.change(&mut packet);
            }
            if !would_be_obeyed(&packet) {
                return packet;
            }
        }
    }

    fn change(&mut self, packet: &mut Vec<u8>) {
        let length = packet.len();
        match self.rng.u8(0..6) {
            // Some bytes.
            0 => {
                for _ in 0..self.rng.usize(1..=8) {
                    if let Some(byte) = self.choose(packet) {
                        *byte = self.rng.u8(..);
                    }
                }
            }
            // One field: a length, a count, a number of something.
            1 | 2 => {
                let offset = self.rng.usize(0..=length / 4) * 4;
                let value = self.number(length);
                if let Some(field) = packet.get_mut(offset..offset + 4) {
                    field.copy_from_slice(&value.to_le_bytes());
                }
            }
            // Cut off, and honest about it or not.
            3 => {
                packet.truncate(self.rng.usize(0..=length));
                if self.rng.bool() {
                    state_length(packet);
                }
            }
            // More behind it.
            4 => {
                let more = self.rng.usize(1..=64);
                packet.extend(std::iter::repeat_with(|| self.rng.u8(..)).take(more));
                if self.rng.bool() {
                    state_length(packet);
                }
            }
            // Another opcode or operation with the same data.
            _ => {
                let offset = if self.rng.bool() { OPCODE } else { OPERATION };
                let value = self.rng.u32(0..170);
                if let Some(field) = packet.get_mut(offset..offset + 4) {
                    field.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }

    fn choose<'a>(&mut self, packet: &'a mut [u8]) -> Option<&'a mut u8> {
        let length = packet.len().max(1);
        packet.get_mut(self.rng.usize(..length))
    }

    /// Numbers at which code goes wrong.
    fn number(&mut self, length: usize) -> u32 {
        let length = u32::try_from(length).expect("recorded packets are short");
        let near = [
            0,
            1,
            length.saturating_sub(1),
            length + 1,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX - 3,
            u32::MAX,
        ];
        *self.rng.choice(&near).expect("the list is not empty")
    }
}

/// Whether a daemon may rightly do something drastic about this packet.
fn would_be_obeyed(packet: &[u8]) -> bool {
    let field = |offset: usize| {
        let bytes = packet.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    };
    match field(OPERATION).and_then(Operation::from_raw) {
        // Another version shuts the node down.
        Some(Operation::ReqKeepalive) => true,
        Some(Operation::ReqControl) => {
            field(OPCODE).is_some_and(|opcode| DRASTIC.contains(&Opcode(opcode)))
        }
        // Elections, bans and such.
        Some(Operation::ReqMessage) => field(SRVID_HIGH).is_some_and(|high| {
            let daemon = u32::try_from(Srvid::RECOVERY.0 >> 32).expect("half of it");
            (daemon..0xFE00_0000).contains(&high)
        }),
        _ => false,
    }
}

/// Writes the length of the packet where it states it.
fn state_length(packet: &mut [u8]) {
    let length = u32::try_from(packet.len()).expect("recorded packets are short");
    if let Some(field) = packet.get_mut(..4) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16);
    digits
        .map(|pair| byte(pair).expect("two hexadecimal digits"))
        .collect()
}

const OPERATION: usize = 16;
const OPCODE: usize = 32;
const SRVID_HIGH: usize = 36;

const RECORDED: &str = include_str!("../../crates/ctdb-proto/tests/golden/wire.jsonl");

/// Controls that stop a node, change its place in the cluster or hold up its databases.
const DRASTIC: [Opcode; 38] = [
    Opcode::ADD_PUBLIC_IP,
    Opcode::CONTINUE_NODE,
    Opcode::DB_ATTACH_PERSISTENT,
    Opcode::DB_ATTACH_REPLICATED,
    Opcode::DB_DETACH,
    Opcode::DB_FREEZE,
    Opcode::DB_PULL,
    Opcode::DB_PUSH_CONFIRM,
    Opcode::DB_PUSH_START,
    Opcode::DB_SET_HEALTHY,
    Opcode::DB_THAW,
    Opcode::DB_TRANSACTION_CANCEL,
    Opcode::DB_TRANSACTION_COMMIT,
    Opcode::DB_TRANSACTION_START,
    Opcode::DEL_PUBLIC_IP,
    Opcode::DISABLE_NODE,
    Opcode::END_RECOVERY,
    Opcode::FREEZE,
    Opcode::IPREALLOCATED,
    Opcode::MODIFY_FLAGS,
    Opcode::RELEASE_IP,
    Opcode::RELOAD_NODES_FILE,
    Opcode::RELOAD_PUBLIC_IPS,
    Opcode::SETVNNMAP,
    Opcode::SET_BAN_STATE,
    Opcode::SET_DEBUG,
    Opcode::SET_LMASTERROLE,
    Opcode::SET_RECMASTERROLE,
    Opcode::SET_RECMODE,
    Opcode::SET_TUNABLE,
    Opcode::SHUTDOWN,
    Opcode::START_IPREALLOCATE,
    Opcode::START_RECOVERY,
    Opcode::STARTUP,
    Opcode::STOP_NODE,
    Opcode::TAKEOVER_IP,
    Opcode::UPDATE_RECORD,
    Opcode::WIPE_DATABASE,
];
