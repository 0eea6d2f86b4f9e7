//! Threads for what may block: locks of database files, commits, reading whole databases; starting
//! programs and reading folders on file systems that may hang.
//!
//! A thread is started when none is idle and ends after some idle time, so that a quiet daemon has
//! none. How many may run is limited by those who hand work in: lock waits for each database,
//! one freeze for each database, one update at a time for each.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
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

/// Work of one kind that hangs for as long as a file system does. It is done one after the other, so
/// that no more than one thread hangs with it.
#[derive(Clone, Default)]
pub(crate) struct InTurn {
    threads: Threads,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl InTurn {
    /// Has `work` done by a thread, in the runtime of the caller, and waits for its result. When
    /// nobody waits any more, work that has not begun is left, and the result of work that has is
    /// dropped as soon as it is there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let runtime = Handle::current();
        let (done, result) = oneshot::channel();
        self.threads.run(move || {
            let _runtime = runtime.enter();
            let value = work();
            drop(turn);
            let _ = done.send(value);
        });
        let failed = |_| Err(io::Error::other("the thread that did it has failed"));
        result.await.unwrap_or_else(failed)
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

    #[tokio::test]
    async fn work_that_hangs_lets_others_give_up_and_is_forgotten() {
        let in_turn = InTurn::default();
        let (release, hangs) = mpsc::channel::<()>();
        let (tell, dropped) = mpsc::channel::<()>();
        let hanging = in_turn.run(move || {
            let _ = hangs.recv();
            Ok(tell)
        });
        let limit = Duration::from_millis(20);
        assert!(tokio::time::timeout(limit, hanging).await.is_err());
        let (begun, begins) = mpsc::channel();
        let behind = in_turn.run(move || Ok(begun.send(())));
        assert!(tokio::time::timeout(limit, behind).await.is_err());
        drop(release);
        // Its result is dropped, as nobody waits for it.
        assert!(dropped.recv().is_err());
        assert_eq!(in_turn.run(|| Ok(7)).await.unwrap(), 7);
        assert!(begins.recv().is_err(), "begun although nobody waited");
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
