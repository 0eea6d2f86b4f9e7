//! Time and processor time of a piece of work.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{CURRENT_NODE, Opcode, Srvid};
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::Process;

use crate::Result;

/// The daemons whose processor time counts.
pub(crate) struct Daemons(Vec<Process>);

/// What a piece of work came to.
pub(crate) struct Measured {
    /// How often it was done in a second.
    pub(crate) rate: f64,
    /// Microseconds of processor time of all daemons for doing it once.
    pub(crate) cpu: f64,
}

impl Daemons {
    /// Asks each daemon for its process.
    pub(crate) fn of(connections: &mut [Connection]) -> Result<Self> {
        let processes = connections.iter_mut().map(|connection| {
            let reply =
                connection.raw_control(CURRENT_NODE, Opcode::GET_PID, Srvid(0), Bytes::new())?;
            // The status of the reply is the number.
            let process = Process::find(reply.status);
            process.ok_or_else(|| format!("no process {}: another machine's?", reply.status).into())
        });
        processes.collect::<Result<_>>().map(Self)
    }

    /// Does the work, which says how often it did it.
    pub(crate) fn measure(&self, work: impl FnOnce() -> Result<u64>) -> Result<Measured> {
        let (cpu, start) = (self.cpu_time()?, Instant::now());
        let count = work()?;
        let (elapsed, cpu) = (start.elapsed(), self.cpu_time()?.saturating_sub(cpu));
        if count == 0 {
            return Err("nothing was done in time".into());
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let count = count as f64;
        Ok(Measured {
            rate: count / elapsed.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / count,
        })
    }

    fn cpu_time(&self) -> Result<Duration> {
        let times = self
            .0
            .iter()
            .map(|process| process.cpu_time().ok_or("a daemon has ended"));
        Ok(times.sum::<Result<Duration, _>>()?)
    }
}
