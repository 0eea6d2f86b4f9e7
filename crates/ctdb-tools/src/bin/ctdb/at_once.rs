//! Several questions at the same time.

use std::task::Poll;

/// Waits for all futures at once; gives their results in the same order.
pub(crate) async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut is_ready = true;
        for (future, result) in &mut waiting {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(done) => *result = Some(done),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    waiting
        .into_iter()
        .filter_map(|(_, result)| result)
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn futures_run_at_once_and_keep_their_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let last_has_run = Notify::new();
        let wait = |number| {
            let last_has_run = &last_has_run;
            async move {
                if number == 3 {
                    last_has_run.notify_one();
                } else if number == 1 {
                    last_has_run.notified().await;
                }
                number
            }
        };
        let results = runtime
            .unwrap()
            .block_on(all([1, 2, 3].map(wait).into_iter()));
        assert_eq!(results, [1, 2, 3]);
    }
}
