//! Time, processor time and latencies of a piece of work.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{CURRENT_NODE, Opcode, Srvid};
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::Process;

use crate::Result;

/// The daemons whose processor time counts, and this process.
pub(crate) struct Processes {
    daemons: Vec<Process>,
    client: Process,
}

/// What a piece of work came to.
pub(crate) struct Measured {
    /// How often it was done in a second.
    pub(crate) rate: f64,
    /// Microseconds of processor time of all daemons for doing it once.
    pub(crate) daemons: f64,
    /// The same of this process, which shares the processors with the daemons.
    pub(crate) client: f64,
    /// Microseconds that half of them took at most.
    pub(crate) p50: f64,
    /// Microseconds that 99 of 100 took at most.
    pub(crate) p99: f64,
}

/// How long each operation took, in nanoseconds.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn add(&mut self, time: Duration) {
        // 4 s and more are the same to us.
        self.0
            .push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The time in microseconds that `percent` of all operations did not exceed.
    fn percentile(&mut self, percent: usize) -> f64 {
        let place = (self.0.len() * percent / 100).min(self.0.len() - 1);
        let (_, nanoseconds, _) = self.0.select_nth_unstable(place);
        f64::from(*nanoseconds) / 1e3
    }
}

impl Processes {
    /// Asks each daemon for its process.
    pub(crate) fn of(connections: &mut [Connection]) -> Result<Self> {
        let daemons = connections.iter_mut().map(|connection| {
            let reply =
                connection.raw_control(CURRENT_NODE, Opcode::GET_PID, Srvid(0), Bytes::new())?;
            // The status of the reply is the number.
            let process = Process::find(reply.status);
            process.ok_or_else(|| format!("no process {}: another machine's?", reply.status).into())
        });
        let own_pid = i32::try_from(std::process::id())?;
        Ok(Self {
            daemons: daemons.collect::<Result<_>>()?,
            client: Process::find(own_pid).ok_or("/proc does not show this process")?,
        })
    }

    /// Does the work, which says how long each time took.
    pub(crate) fn measure(&self, work: impl FnOnce() -> Result<Latencies>) -> Result<Measured> {
        let (daemons, client) = (cpu_time(&self.daemons)?, cpu_time(&[self.client])?);
        let start = Instant::now();
        let mut latencies = work()?;
        let elapsed = start.elapsed();
        let daemons = cpu_time(&self.daemons)?.saturating_sub(daemons);
        let client = cpu_time(&[self.client])?.saturating_sub(client);
        if latencies.0.is_empty() {
            return Err("nothing was done in time".into());
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let count = latencies.0.len() as f64;
        Ok(Measured {
            rate: count / elapsed.as_secs_f64(),
            daemons: daemons.as_secs_f64() * 1e6 / count,
            client: client.as_secs_f64() * 1e6 / count,
            p50: latencies.percentile(50),
            p99: latencies.percentile(99),
        })
    }
}

fn cpu_time(processes: &[Process]) -> Result<Duration> {
    let times = processes
        .iter()
        .map(|process| process.cpu_time().ok_or("a daemon has ended"));
    Ok(times.sum::<Result<Duration, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_operations_together() {
        let of = |range: std::ops::RangeInclusive<u64>| {
            let mut latencies = Latencies::default();
            range.for_each(|n| latencies.add(Duration::from_micros(n)));
            latencies
        };
        let mut latencies = of(51..=100).merge(of(1..=50));
        assert!((latencies.percentile(50) - 51.0).abs() < 0.1);
        assert!((latencies.percentile(99) - 100.0).abs() < 0.1);
        assert!((of(7..=7).percentile(99) - 7.0).abs() < 0.1);
    }
}
