//! The body of an answer: streamed from the endpoint or made here, with what must live as long as it.

use std::{
    error::Error,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::{access::Record, balance::InFlight, deadline::Deadline, limits::RequestPlace, pace::UnderWay};

/// Any error that ends a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    content: Content,
    /// Cuts the body off.
    deadline: Option<Deadline>,
    _in_flight: Option<InFlight>,
    // The log line first, then the end of the request: fields are dropped in this order.
    record: Option<Record>,
    under_way: Option<UnderWay>,
    place: Option<Rc<RequestPlace>>,
}

#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Stream(Incoming),
}

impl Body {
    /// Made here.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let content = Content::Whole(bytes.into());
        Self { content, deadline: None, _in_flight: None, record: None, under_way: None, place: None }
    }

    /// From an endpoint.
    pub fn stream(incoming: Incoming, deadline: Option<Deadline>, in_flight: InFlight) -> Self {
        let content = Content::Stream(incoming);
        Self { content, deadline, _in_flight: Some(in_flight), record: None, under_way: None, place: None }
    }

    /// Ends `record`, `under_way` and `place` with this body.
    pub fn with(mut self, record: Record, under_way: UnderWay, place: Option<Rc<RequestPlace>>) -> Self {
        self.record = Some(record);
        self.under_way = Some(under_way);
        self.place = place;
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match &mut this.content {
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Content::Stream(incoming) => {
                if let Some(deadline) = &mut this.deadline
                    && Pin::new(deadline).poll(cx).is_ready()
                {
                    return Poll::Ready(Some(Err("the route's timeout is over".into())));
                }
                let frame = Pin::new(incoming).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Content::Stream(incoming) => incoming.size_hint(),
        }
    }
}
