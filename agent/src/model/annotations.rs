//! Every annotation and label that changes what Sluice does, for those who read objects and for the documents.

/// An annotation or a label.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Its name.
    pub name: &'static str,
    /// Kind of the objects that it is read on.
    pub on: &'static str,
    /// `annotation` or `label`.
    pub what: &'static str,
    /// The value that has the effect.
    pub value: &'static str,
    /// The effect, in a sentence without its full stop.
    pub does: &'static str,
}

const fn annotation(name: &'static str, on: &'static str, value: &'static str, does: &'static str) -> Mark {
    Mark { name, on, what: "annotation", value, does }
}

const fn label(name: &'static str, on: &'static str, value: &'static str, does: &'static str) -> Mark {
    Mark { name, on, what: "label", value, does }
}

/// Keeps the socket programs off a pod's connections.
pub const SOCKET_LB: Mark = annotation(
    "sluice.dev/socket-lb",
    "Pod",
    "\"false\"",
    "the pod's sockets keep the addresses that they dial; what nothing in the pod takes is led by packets, at its device",
);
/// Balances a Service request by request without any rule.
pub const PER_REQUEST: Mark = annotation(
    "sluice.dev/per-request-balancing",
    "Service",
    "\"true\"",
    "ports declared `grpc` or h2c are balanced request by request, without any rule",
);
/// How endpoints are chosen in the kernel.
pub const ALGORITHM: Mark = annotation(
    "sluice.dev/algorithm",
    "Service",
    "maglev",
    "a hash of the client chooses the endpoint, on every node alike; `random` is the default",
);
/// Leaves the ports of a headless Service alone.
pub const HEADLESS_PORTS: Mark = annotation(
    "sluice.dev/headless-port-translation",
    "Service",
    "\"false\"",
    "connections to an address of this headless Service's pods and the Service's port are not led to the target port",
);
/// Lets subsets of a rule with `ISTIO_MUTUAL` be used in plain text.
pub const ALLOW_PLAINTEXT: Mark = annotation(
    "sluice.dev/allow-plaintext",
    "DestinationRule",
    "\"true\"",
    "`tls.mode: ISTIO_MUTUAL` is not refused: its destinations are spoken to in plain text, with a warning",
);
/// Leaves a Service, or a slice, to somebody else.
pub const OTHER_PROXY: Mark = label(
    "service.kubernetes.io/service-proxy-name",
    "Service, EndpointSlice",
    "any",
    "the object is another proxy's and left alone, as by kube-proxy",
);
/// Marks a Service, or a slice, as headless.
pub const HEADLESS: Mark = label(
    "service.kubernetes.io/headless",
    "Service",
    "any",
    "the Service needs no proxy and is left alone, as by kube-proxy",
);
/// When the change happened that a slice tells of.
pub const CHANGED: Mark = annotation(
    "endpoints.kubernetes.io/last-change-trigger-time",
    "EndpointSlice",
    "a time",
    "what `kubeproxy_network_programming_duration_seconds` measures from; set by Kubernetes",
);
/// The object as it was applied.
pub const LAST_APPLIED: Mark = annotation(
    "kubectl.kubernetes.io/last-applied-configuration",
    "VirtualService, DestinationRule",
    "JSON",
    "fields in it that the API server dropped are named as unknown; set by kubectl",
);

/// All of them.
pub const ALL: [Mark; 9] = [
    SOCKET_LB,
    PER_REQUEST,
    ALGORITHM,
    HEADLESS_PORTS,
    ALLOW_PLAINTEXT,
    OTHER_PROXY,
    HEADLESS,
    CHANGED,
    LAST_APPLIED,
];
