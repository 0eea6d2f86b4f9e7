//! What a ledger's trouble is to be.

use std::time::Duration;

use crate::TestResult;

/// For how long, and who leads.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long there is trouble.
    pub time: Duration,
    /// Which nodes can lead at all. While none of them is in the cluster nobody leads, and no
    /// recovery is asked for.
    pub leaders: Vec<usize>,
    /// Before each failure the next of these groups takes the lead. Empty: as it comes.
    pub turns: Vec<Vec<usize>>,
}

impl Plan {
    /// Every node leads, as it comes; for this many seconds, or for those that
    /// `CTDB_E2E_LEDGER_SECONDS` asks for.
    pub fn of_seconds(seconds: u64, nodes: usize) -> TestResult<Self> {
        let seconds = match std::env::var("CTDB_E2E_LEDGER_SECONDS") {
            Ok(text) => text.parse()?,
            Err(_) => seconds,
        };
        Ok(Self {
            time: Duration::from_secs(seconds),
            leaders: (0..nodes).collect(),
            turns: Vec::new(),
        })
    }
}
