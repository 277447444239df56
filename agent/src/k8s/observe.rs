//! Learns from each answer of the API server that it is there: a watch that was opened again says nothing else
//! until something changes. Where the server wants to be left alone for a while, the answer is passed on that much later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, Response, header::RETRY_AFTER};
use tower::{Layer, Service};

/// No server, nor whoever answers in its place, keeps a node from asking for longer: there may be another one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A watch that ends at once, without a word of failure, is opened again at once this often, and then once a second.
const WATCHES_AT_ONCE: u32 = 5;
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Calls `answered` with the path of each request that was answered well.
#[derive(Clone)]
pub struct Observe {
    answered: Arc<dyn Fn(&str) + Send + Sync>,
    watches: Arc<Mutex<HashMap<String, Pace>>>,
}

impl Observe {
    /// With what to call.
    pub fn new(answered: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { answered: Arc::new(answered), watches: Arc::default() }
    }

    /// How long a watch of `path` has to wait.
    fn wait(&self, path: &str, now: Instant) -> Duration {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.entry(path.to_owned()).or_insert(Pace { due: now }).wait(now)
    }
}

/// Hands turns out: [`WATCHES_AT_ONCE`], then one every [`WATCH_EVERY`].
#[derive(Clone, Copy)]
struct Pace {
    /// When all turns that were taken would have been due, one after the other.
    due: Instant,
}

impl Pace {
    fn wait(&mut self, now: Instant) -> Duration {
        let wait = self.due.saturating_duration_since(now + WATCH_EVERY * WATCHES_AT_ONCE);
        self.due = self.due.max(now) + WATCH_EVERY;
        wait
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, observe: self.clone() }
    }
}

/// A client that is observed.
#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S, I, O> Service<Request<I>> for Observed<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    O: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let answered = Arc::clone(&self.observe.answered);
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let wait = if is_watch { self.observe.wait(&path, Instant::now()) } else { Duration::ZERO };
        let answer = self.inner.call(request);
        async move {
            // Nothing is sent before the answer is waited for.
            tokio::time::sleep(wait).await;
            let answer = answer.await?;
            if answer.status().is_success() {
                answered(&path);
                return Ok(answer);
            }
            let pause = pause(answer.headers());
            tokio::time::sleep(pause).await;
            Ok(answer)
        }
        .boxed()
    }
}

/// How long a refusal asks us to wait: whole seconds, as API servers write them. Source: RFC 9110 section 10.2.3.
fn pause(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn watches_that_end_at_once_are_opened_once_a_second_in_the_end() {
        let start = Instant::now();
        let mut pace = Pace { due: start };
        let mut now = start;
        for _ in 0..50 {
            now += pace.wait(now);
        }
        let took = now - start;
        assert!(took >= WATCH_EVERY * 43 && took <= WATCH_EVERY * 46, "{took:?}");
        now += WATCH_EVERY * 60;
        let waits = [(); 4].map(|()| pace.wait(now));
        assert_eq!(waits, [Duration::ZERO; 4], "after a minute without any, some at once again");
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_says_within_reason() {
        for (value, want) in [
            (None, 0),
            (Some("1"), 1),
            (Some("86400"), LONGEST_PAUSE.as_secs()),
            (Some("-1"), 0),
            (Some("Wed, 21 Oct 2026 07:28:00 GMT"), 0),
        ] {
            let header = value.map(|value| (RETRY_AFTER, HeaderValue::from_static(value)));
            assert_eq!(pause(&header.into_iter().collect()).as_secs(), want, "{value:?}");
        }
    }
}
