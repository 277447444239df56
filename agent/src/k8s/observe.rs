//! Learns from each answer of the API server that it is there: a watch that was opened again says nothing else
//! until something changes.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tower::{Layer, Service};

/// Calls `answered` with the path of each request that was answered well.
#[derive(Clone)]
pub struct Observe {
    answered: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Observe {
    /// With what to call.
    pub fn new(answered: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { answered: Arc::new(answered) }
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
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            if answer.status().is_success() {
                answered(&path);
            }
            Ok(answer)
        }
        .boxed()
    }
}
