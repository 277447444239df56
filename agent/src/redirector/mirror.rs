//! Copies of requests: sent once the body was read, never waited for, and not too many at once.

use std::{net::IpAddr, rc::Rc, time::Duration};

use crate::l7::rules::{
    actions::RetryPolicy,
    protocol::Speech,
    table::{Selected, Target},
};
use http_body_util::BodyExt;
use tokio::{task::spawn_local, time::timeout};

use super::{
    access::Record, attempts::Attempts, balance::Candidates, circuit::What, counters::Counter, head::Head,
    replay::Replay, replies::is_grpc, request::Call, view::View, worker::Worker,
};

/// Copies of one worker on their way.
const AT_ONCE_MAX: u32 = 64;
/// A copy that takes longer is given up: nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(15);

/// A copy on its way, until this is dropped.
struct Place(Rc<Worker>);

impl Place {
    fn new(worker: &Rc<Worker>) -> Option<Self> {
        let count = worker.mirrors.get();
        if count >= AT_ONCE_MAX {
            return None;
        }
        worker.mirrors.set(count + 1);
        Some(Self(worker.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

/// Sends a copy of `head` and of the body to each mirror of the rule that is drawn for it.
pub fn start(
    worker: &Rc<Worker>,
    view: &Rc<View>,
    call: &Call,
    selected: &Selected<'_>,
    head: &Head,
    replay: &Replay,
) {
    let Some(route) = selected.rule().route() else { return };
    for (mirror, target) in route.mirrors.iter().zip(&selected.client_rule.mirrors) {
        if !mirror.share.hits(worker.draws.next()) {
            continue;
        }
        let Some(place) = Place::new(worker) else {
            worker.count(Counter::MirrorsSkipped);
            continue;
        };
        let (worker, view, target) = (worker.clone(), view.clone(), target.clone());
        let (head, copy, http2) = (head.clone(), replay.copy(), call.http2);
        let client = call.client;
        spawn_local(async move {
            let sent = match copy.await {
                Some(copy) => {
                    let sending = send(&worker, &view, client, &target, &head, http2, &copy);
                    timeout(PATIENCE, sending).await
                }
                None => Ok(false),
            };
            worker.count(if sent == Ok(true) { Counter::Mirrors } else { Counter::MirrorsSkipped });
            drop(place);
        });
    }
}

/// Whether a copy is sent by HTTP/2: what the mirror is declared to speak counts, and not what the request's own
/// destination does. A port that declares nothing gets what the client speaks, and gRPC has no other version.
fn by_http2(candidates: &Candidates, client_http2: bool, head: &Head) -> bool {
    match candidates.speech {
        Some(Speech::Http2) => true,
        Some(Speech::Http) => client_http2 && is_grpc(&head.headers),
        Some(Speech::Tls | Speech::Tcp) | None => client_http2,
    }
}

/// Whether a copy was sent and answered.
async fn send(
    worker: &Rc<Worker>,
    view: &View,
    client: IpAddr,
    target: &Target,
    head: &Head,
    client_http2: bool,
    replay: &Replay,
) -> bool {
    let Some(candidates) = worker.balancer.candidates(worker, &view.config, target).await else {
        return false;
    };
    let Some(head) = head.spoken(by_http2(&candidates, client_http2, head)) else { return false };
    let circuit = worker.shared.circuits.circuit(client, target);
    let place = circuit.as_ref().map(|circuit| circuit.enter(What::Request));
    if matches!(place, Some(None)) {
        worker.count(Counter::OverflowRequests);
        return false;
    }
    // A copy is worth one try.
    let mut retries = RetryPolicy::default();
    retries.attempts = 0;
    let attempts = Attempts {
        worker,
        view,
        client,
        candidates: &candidates,
        policy: target.policy.as_deref(),
        retries: &retries,
        hash: None,
        circuit: circuit.as_ref(),
    };
    let Ok((response, in_flight)) = attempts.run(&head, replay, &mut Record::silent(worker)).await else {
        return false;
    };
    // Read to the end, so that the connection can be used again.
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    drop((in_flight, place));
    true
}
