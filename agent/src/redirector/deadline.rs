//! Time limits that count from the end of a request. What they cut off is the caller's.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// When the last byte of a request came.
#[derive(Clone, Default, Debug)]
pub struct RequestEnd(Rc<Moment>);

#[derive(Default, Debug)]
struct Moment {
    at: Cell<Option<Instant>>,
    waiting: RefCell<Vec<Waker>>,
}

/// Ready when the limit is over, counted from the end of the request, or from when this was made if later.
#[derive(Debug)]
pub struct Deadline {
    end: RequestEnd,
    /// It does not count from before this.
    from: Instant,
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl RequestEnd {
    /// The request has ended now; later calls change nothing.
    pub fn mark(&self) {
        if self.0.at.get().is_none() {
            self.0.at.set(Some(Instant::now()));
            self.0.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Whether it was marked.
    pub fn has_come(&self) -> bool {
        self.0.at.get().is_some()
    }

    /// Waits for the end.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Instant> {
        if let Some(at) = self.0.at.get() {
            return Poll::Ready(at);
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Deadline {
    /// `limit` after `end`, and after now.
    pub fn new(end: RequestEnd, limit: Duration) -> Self {
        Self { end, from: Instant::now(), limit, sleep: None }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.sleep.is_none() {
            let Poll::Ready(ended) = this.end.poll(cx) else { return Poll::Pending };
            let far = Duration::from_secs(365 * 24 * 3600);
            this.sleep = Some(Box::pin(sleep_until(ended.max(this.from) + this.limit.min(far))));
        }
        this.sleep.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }
}

/// Waits for `deadline`, or for ever.
pub async fn passed(deadline: &mut Option<Deadline>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
}
