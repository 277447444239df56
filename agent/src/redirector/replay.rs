//! The body of a request: streamed on, and kept while it is short so that it can be sent again.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{body::BoxError, deadline::RequestEnd};

/// Longer bodies are not kept; then there is no second try.
pub const KEPT_MAX: usize = 64 << 10;

/// The body of a request.
#[derive(Clone, Debug)]
pub struct Replay(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    /// What has not been read yet.
    source: Option<Incoming>,
    /// What was read, as long as all of it is here.
    kept: Vec<Bytes>,
    kept_len: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
    /// Whether something was read that is not in `kept`.
    lost: bool,
    failed: bool,
    /// Number of the body that may read; earlier ones belong to tries that were given up.
    turn: u64,
    end: RequestEnd,
}

/// The body of one try.
#[derive(Debug)]
pub struct Outgoing {
    state: Replay,
    turn: u64,
    /// Chunks of `kept` that were sent.
    sent: usize,
    sent_trailers: bool,
}

impl Replay {
    /// Of `source`; `keep` says whether anyone may want it a second time.
    pub fn new(source: Incoming, keep: bool) -> Self {
        let ended = source.is_end_stream();
        let state = State {
            source: (!ended).then_some(source),
            kept: Vec::new(),
            kept_len: 0,
            limit: if keep { KEPT_MAX } else { 0 },
            trailers: None,
            lost: false,
            failed: false,
            turn: 0,
            end: RequestEnd::default(),
        };
        if ended {
            state.end.mark();
        }
        Self(Rc::new(RefCell::new(state)))
    }

    /// The body for the next try, from its beginning; the one before may read no more.
    pub fn body(&self) -> Outgoing {
        let mut state = self.0.borrow_mut();
        state.turn += 1;
        Outgoing { state: self.clone(), turn: state.turn, sent: 0, sent_trailers: false }
    }

    /// Whether [`Self::body`] would have all of it.
    pub fn is_whole(&self) -> bool {
        let state = self.0.borrow();
        !state.lost && !state.failed
    }

    /// When the request ends.
    pub fn end(&self) -> RequestEnd {
        self.0.borrow().end.clone()
    }

    /// A copy of the whole body, once it was read; `None` when it cannot be had any more.
    ///
    /// Waiting does not keep the body alive: a client must not wait for a copy.
    pub fn copy(&self) -> impl Future<Output = Option<Self>> + 'static {
        let end = self.end();
        let already = end.has_come().then(|| self.0.borrow().copy());
        let state = Rc::downgrade(&self.0);
        async move {
            if let Some(copy) = already {
                return copy;
            }
            std::future::poll_fn(|cx| end.poll(cx)).await;
            state.upgrade()?.borrow().copy()
        }
    }
}

impl State {
    fn copy(&self) -> Option<Replay> {
        if self.lost || self.failed {
            return None;
        }
        let copy = Self {
            source: None,
            kept: self.kept.clone(),
            kept_len: self.kept_len,
            limit: 0,
            trailers: self.trailers.clone(),
            lost: false,
            failed: false,
            turn: 0,
            end: self.end.clone(),
        };
        Some(Replay(Rc::new(RefCell::new(copy))))
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let Poll::Ready(read) = Pin::new(&mut *source).poll_frame(cx) else { return Poll::Pending };
        let ended = source.is_end_stream();
        let answer = match read {
            None => {
                self.finish();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.failed = true;
                self.finish();
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.keep(&data);
                    Frame::data(data)
                }
                Err(frame) => {
                    self.trailers = frame.trailers_ref().cloned();
                    frame
                }
            },
        };
        if ended {
            self.finish();
        }
        Poll::Ready(Some(Ok(answer)))
    }

    fn keep(&mut self, data: &Bytes) {
        self.kept_len += data.len();
        if self.lost || self.kept_len > self.limit {
            self.lost = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(data.clone());
        }
    }

    fn finish(&mut self) {
        self.source = None;
        self.end.mark();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Whoever waits for the end must not wait for ever.
        self.end.mark();
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut state = this.state.0.borrow_mut();
        if state.turn != this.turn {
            return Poll::Ready(Some(Err("this try was given up".into())));
        }
        if let Some(chunk) = state.kept.get(this.sent) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if state.source.is_some() {
            let read = state.poll_source(cx);
            this.sent = state.kept.len();
            this.sent_trailers = state.trailers.is_some();
            return read;
        }
        if state.failed {
            return Poll::Ready(Some(Err("the client broke off".into())));
        }
        let trailers = state.trailers.clone().filter(|_| !this.sent_trailers);
        this.sent_trailers = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.0.borrow();
        let all = self.sent >= state.kept.len() && state.source.is_none() && !state.failed;
        all && (self.sent_trailers || state.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.state.0.borrow();
        let kept: usize = state.kept.iter().skip(self.sent).map(Bytes::len).sum();
        let kept = u64::try_from(kept).unwrap_or(u64::MAX);
        let rest = state.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(rest.lower().saturating_add(kept));
        hint
    }
}
