//! Events about objects, for `kubectl describe`: told besides what `sluice status` says. Nobody waits for them: where they
//! cannot be taken, or the API server does not take them, they are lost, and the log says so.

use anyhow::Result;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client, Error,
    api::ListParams,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use super::backoff;
use crate::model::ObjectName;

/// Who tells, as events name it.
const CONTROLLER: &str = "sluice";
/// How many may wait for an API server that is away.
const MOST_WAITING: usize = 64;
/// What the Kubernetes API takes of a note (1 kB).
const LONGEST_NOTE: usize = 1_000;

/// Something to tell about a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Which Service.
    pub service: ObjectName,
    /// What it is, in one word.
    pub reason: &'static str,
    /// What this node tried, in one word.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// Takes notices; where nobody publishes them they are dropped.
#[derive(Clone, Debug)]
pub struct Teller(mpsc::Sender<Notice>);

/// What is yet to be published.
#[derive(Debug)]
pub struct Outbox {
    inbox: mpsc::Receiver<Notice>,
    pending: Option<Notice>,
}

/// A way for notices.
pub fn notices() -> (Teller, Outbox) {
    let (sender, inbox) = mpsc::channel(MOST_WAITING);
    (Teller(sender), Outbox { inbox, pending: None })
}

impl Teller {
    /// Hands a notice over, and does not wait.
    pub fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            tracing::debug!("an event is not published: {error}");
        }
    }
}

impl Outbox {
    /// Publishes on this API server whatever comes, and never ends. What a server that is away was not told is kept for the
    /// next one.
    pub async fn publish(&mut self, client: &Client, node_name: &str) {
        let instance = Some(node_name.to_owned());
        let recorder =
            Recorder::new(client.clone(), Reporter { controller: CONTROLLER.to_owned(), instance });
        let mut patience = backoff::Patience::new();
        loop {
            if self.pending.is_none() {
                self.pending = self.inbox.recv().await;
            }
            let Some(notice) = &self.pending else { return std::future::pending().await };
            match record(&recorder, client, notice).await {
                Ok(()) => self.pending = None,
                Err(Error::Api(status)) if is_refusal(status.code) => {
                    tracing::warn!(
                        "the event {} of Service {} is not published, for the API server refuses it: {}",
                        notice.reason,
                        notice.service,
                        status.message
                    );
                    self.pending = None;
                }
                Err(error) => {
                    tracing::debug!("an event is published later: {error}");
                    tokio::time::sleep(patience.next().unwrap_or_default()).await;
                }
            }
        }
    }
}

/// Whether asking again is of no use.
const fn is_refusal(code: u16) -> bool {
    matches!(code, 400..=499) && !matches!(code, 401 | 408 | 429)
}

async fn record(recorder: &Recorder, client: &Client, notice: &Notice) -> Result<(), Error> {
    let ObjectName { namespace, name } = &notice.service;
    let regarding = core::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        uid: uid(client, &notice.service).await?,
        ..core::ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: notice.reason.to_owned(),
        note: Some(notice.note.chars().take(LONGEST_NOTE).collect()),
        action: notice.action.to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &regarding).await
}

/// `kubectl describe` asks for events of one uid. Listed, for that is what the agent may do with Services.
async fn uid(client: &Client, service: &ObjectName) -> Result<Option<String>, Error> {
    let services: Api<core::Service> = Api::all(client.clone());
    let fields = format!("metadata.name={},metadata.namespace={}", service.name, service.namespace);
    let found = services.list_metadata(&ListParams::default().fields(&fields)).await?;
    Ok(found.items.into_iter().next().and_then(|object| object.metadata.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_go_away_is_tried_again() {
        for (code, want) in [(403, true), (404, true), (422, true), (401, false), (429, false), (500, false)]
        {
            assert_eq!(is_refusal(code), want, "{code}");
        }
    }

    #[test]
    fn nobody_waits_for_notices_that_nobody_takes() {
        let (teller, outbox) = notices();
        let service = ObjectName::new("shop", "cart");
        let notice = Notice { service, reason: "R", action: "A", note: String::new() };
        (0..=MOST_WAITING).for_each(|_| teller.tell(notice.clone()));
        drop(outbox);
        teller.tell(notice);
    }
}
