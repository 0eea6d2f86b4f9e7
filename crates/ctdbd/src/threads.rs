//! Threads for what may block: locks of database files, commits, reading whole databases.
//!
//! A thread is started when none is idle and ends after some idle time, so that a quiet daemon has
//! none. How many may run is limited by those who hand work in: lock waits for each database,
//! one freeze for each database, one update at a time for each.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::error;

/// Stack of a thread. The deepest work is a TDB commit, far below this.
const STACK_SIZE: usize = 128 * 1024;

/// How long a thread without work stays.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

/// The threads of this process that may block.
#[derive(Clone, Default)]
pub(crate) struct Threads(Arc<Pool>);

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    work_came: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    idle: usize,
}

impl Threads {
    /// Has `work` done by a thread of its own, soon.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.queue.push_back(Box::new(work));
        if state.idle >= state.queue.len() {
            self.0.work_came.notify_one();
            return;
        }
        drop(state);
        let pool = Arc::clone(&self.0);
        let thread = std::thread::Builder::new()
            .name("ctdbd-wait".into())
            .stack_size(STACK_SIZE);
        if let Err(error) = thread.spawn(move || pool.serve()) {
            // The work stays in the queue and is done when another thread becomes free.
            error!("cannot start a thread: {error}");
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                work();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, wait) = self
                .work_came
                .wait_timeout(state, IDLE_LIMIT)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && state.queue.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn work_that_blocks_does_not_keep_other_work_waiting() {
        let threads = Threads::default();
        let (release, blocked) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        let first = done.clone();
        threads.run(move || {
            let _ = blocked.recv();
            first.send(1).unwrap();
        });
        threads.run(move || done.send(2).unwrap());
        assert_eq!(results.recv(), Ok(2));
        drop(release);
        assert_eq!(results.recv(), Ok(1));
    }

    #[test]
    fn an_idle_thread_is_used_again() {
        let threads = Threads::default();
        let (done, results) = mpsc::channel();
        for _ in 0..3 {
            let done = done.clone();
            threads.run(move || done.send(std::thread::current().id()).unwrap());
            let _ = results.recv().unwrap();
            while threads.0.lock().idle == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(threads.0.lock().idle, 1);
    }
}
