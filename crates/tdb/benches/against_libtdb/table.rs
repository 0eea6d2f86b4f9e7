//! Who was faster, case by case.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contender::{Contender, Libtdb, Ours};

/// Nanoseconds for one operation, sample by sample.
#[derive(Default)]
pub(crate) struct Table {
    /// Cases in the order in which they ran.
    names: Vec<String>,
    samples: BTreeMap<(String, &'static str), Vec<f64>>,
}

impl Table {
    pub(crate) fn note(&mut self, name: &str, who: &'static str, time: Duration, count: u64) {
        if self.names.last().is_none_or(|last| last != name) {
            self.names.push(name.to_owned());
        }
        let samples = self.samples.entry((name.to_owned(), who)).or_default();
        samples.push(time.as_secs_f64() * 1e9 / count.max(1) as f64);
    }

    #[expect(clippy::print_stdout, reason = "for the user of the benchmark")]
    pub(crate) fn print(&self) {
        println!("| case | tdb ns | libtdb ns | times as fast |");
        println!("|---|---:|---:|---:|");
        for name in &self.names {
            let (ours, theirs) = (
                self.median(name, Ours::NAME),
                self.median(name, Libtdb::NAME),
            );
            let ratio = theirs / ours;
            println!("| {name} | {ours:.0} | {theirs:.0} | {ratio:.2} |");
        }
    }

    /// The warm-up is among the samples; the median does not mind.
    fn median(&self, name: &str, who: &'static str) -> f64 {
        let samples = self.samples.get(&(name.to_owned(), who));
        let mut samples = samples.cloned().unwrap_or_default();
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
