//! `trafficPolicy` of a DestinationRule: typed, as written. Checks and merging are in `table/policy.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Span, virtual_service::PortSelector};

/// `trafficPolicy` of a rule or of a subset. Groups that are absent keep the less specific policy's.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    pub tls: Option<Tls>,
    /// `portLevelSettings`; empty in a policy that was resolved for one port.
    pub port_level_settings: Vec<PortPolicy>,
    /// `tunnel`; refused.
    pub tunnel: Option<Value>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// `portLevelSettings[]`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortPolicy {
    /// The Service port that these settings are for.
    pub port: PortSelector,
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    pub tls: Option<Tls>,
}

/// `loadBalancer`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// `simple`; exclusive with `consistentHash`.
    pub simple: Option<SimpleBalancer>,
    /// `consistentHash`.
    pub consistent_hash: Option<ConsistentHash>,
    /// `localityLbSetting`.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// `zoneAwareLbSetting`; refused.
    pub zone_aware_lb_setting: Option<Value>,
    /// `warmupDurationSecs`, the older form of `warmup.duration`.
    pub warmup_duration_secs: Option<Span>,
    /// `warmup`.
    pub warmup: Option<Warmup>,
}

/// `loadBalancer.localityLbSetting`; `distribute` is exclusive with the rest.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLbSetting {
    /// Shares of zones, by the zone of the client; the first that fits counts.
    pub distribute: Vec<Distribute>,
    /// Which region stands in for which.
    pub failover: Vec<Failover>,
    /// Labels, those first that count most.
    pub failover_priority: Vec<String>,
    /// True if absent.
    pub enabled: Option<bool>,
}

/// `localityLbSetting.distribute[]`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(default)]
pub struct Distribute {
    /// Locality of the client.
    pub from: String,
    /// Percentages by locality of endpoints.
    pub to: BTreeMap<String, u32>,
}

/// `localityLbSetting.failover[]`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(default)]
pub struct Failover {
    /// A region.
    pub from: String,
    /// The one that stands in for it.
    pub to: String,
}

/// `loadBalancer.simple`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleBalancer {
    /// The default, least request.
    #[default]
    Unspecified,
    /// The better of two random endpoints by requests in flight.
    LeastRequest,
    /// Deprecated name of `LEAST_REQUEST`.
    LeastConn,
    /// Uniform.
    Random,
    /// In turn.
    RoundRobin,
    /// The original destination: the plain Service path.
    Passthrough,
}

/// `loadBalancer.consistentHash`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// Hash by this request header.
    pub http_header_name: Option<String>,
    /// Hash by a cookie, made when absent.
    pub http_cookie: Option<HashCookie>,
    /// Hash by the client's address.
    pub use_source_ip: Option<bool>,
    /// Hash by this query parameter.
    pub http_query_parameter_name: Option<String>,
    /// Ring hash; the default.
    pub ring_hash: Option<RingHash>,
    /// Maglev.
    pub maglev: Option<Maglev>,
    /// Older form of `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

/// `consistentHash.httpCookie`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashCookie {
    /// Name of the cookie.
    pub name: String,
    /// `Path` attribute.
    pub path: Option<String>,
    /// Zero makes a session cookie; absent means that the cookie is never made.
    pub ttl: Option<Span>,
    /// Further attributes.
    pub attributes: Vec<CookieAttribute>,
}

/// `httpCookie.attributes[]`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieAttribute {
    /// Name of the attribute.
    pub name: String,
    /// Its value; empty for a flag.
    pub value: String,
}

/// `consistentHash.ringHash`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Points on the ring, at least; 1024 if absent.
    pub minimum_ring_size: Option<u64>,
}

/// `consistentHash.maglev`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// A prime; 65537 if absent.
    pub table_size: Option<u64>,
}

/// `loadBalancer.warmup`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// How long a new endpoint gets less.
    pub duration: Option<Span>,
    /// Share at the start; 10 if absent.
    pub minimum_percent: Option<f64>,
    /// Shape of the ramp; 1 is linear.
    pub aggression: Option<f64>,
}

/// `connectionPool`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// `tcp`.
    pub tcp: Option<TcpPool>,
    /// `http`.
    pub http: Option<HttpPool>,
}

/// `connectionPool.tcp`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// Connections to the destination, counted per client pod; 0 or absent is no limit.
    pub max_connections: u32,
    /// 10 s if absent.
    pub connect_timeout: Option<Span>,
    /// `tcpKeepalive`.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Age at which a connection is closed.
    pub max_connection_duration: Option<Span>,
    /// 1 h if absent; 0 turns it off.
    pub idle_timeout: Option<Span>,
}

/// `connectionPool.tcp.tcpKeepalive`; absent fields are the kernel's.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Lost probes until the connection is dead.
    pub probes: u32,
    /// Idle time before the first probe.
    pub time: Option<Span>,
    /// Time between probes.
    pub interval: Option<Span>,
}

/// `connectionPool.http`; zero means unset.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Requests that wait for a connection.
    pub http1_max_pending_requests: u32,
    /// Requests in flight.
    pub http2_max_requests: u32,
    /// 0 is unlimited.
    pub max_requests_per_connection: u32,
    /// Retries in flight.
    pub max_retries: u32,
    /// 1 h if absent.
    pub idle_timeout: Option<Span>,
    /// `h2UpgradePolicy`.
    pub h2_upgrade_policy: Option<H2UpgradePolicy>,
    /// Same protocol to the endpoint as from the client; ours always.
    pub use_client_protocol: Option<bool>,
    /// Streams per HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Pings on HTTP/2 connections to endpoints.
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// `connectionPool.http.http2KeepAlive`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2KeepAlive {
    /// From one ping to the next; none are sent without it.
    pub interval: Option<Span>,
    /// How long the answer to one may take.
    pub timeout: Option<Span>,
}

/// `connectionPool.http.h2UpgradePolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// The default: the protocol stays.
    #[default]
    Default,
    /// The same.
    DoNotUpgrade,
    /// HTTP/1.1 becomes HTTP/2.
    Upgrade,
}

/// `outlierDetection`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Deprecated name of `consecutive5xxErrors`.
    pub consecutive_errors: Option<u32>,
    /// 5 if absent; 0 turns it off.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Off if absent or 0.
    pub consecutive_gateway_errors: Option<u32>,
    /// 5 if absent; only with the split below.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Count connection failures apart from responses.
    pub split_external_local_origin_errors: bool,
    /// 10 s if absent.
    pub interval: Option<Span>,
    /// 30 s if absent, times the number of ejections, 300 s at most.
    pub base_ejection_time: Option<Span>,
    /// 10 if absent.
    pub max_ejection_percent: Option<u32>,
    /// 0 if absent: never give up ejecting.
    pub min_health_percent: Option<u32>,
}

/// `tls`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// `mode`.
    pub mode: TlsMode,
    /// File of the client's certificate.
    pub client_certificate: Option<String>,
    /// File of its key.
    pub private_key: Option<String>,
    /// File of the authorities.
    pub ca_certificates: Option<String>,
    /// Secret with all three.
    pub credential_name: Option<String>,
    /// Names that the server's certificate may have.
    pub subject_alt_names: Vec<String>,
    /// Server name; the destination's host if absent.
    pub sni: Option<String>,
    /// Do not verify the server.
    pub insecure_skip_verify: Option<bool>,
    /// File of revocations; refused.
    pub ca_crl: Option<Value>,
}

/// `tls.mode`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Disable,
    /// TLS to the endpoint.
    Simple,
    /// TLS with a client certificate.
    Mutual,
    /// TLS with the mesh's identity, which there is none of here.
    IstioMutual,
}

/// `proxyProtocol`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(default)]
pub struct ProxyProtocol {
    /// `version`.
    pub version: ProxyProtocolVersion,
}

/// `proxyProtocol.version`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
pub enum ProxyProtocolVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}

/// `retryBudget`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Share of requests in flight that may be retries; 20 if absent.
    pub percent: Option<f64>,
    /// Retries that are always allowed; 3 if absent.
    pub min_retry_concurrency: Option<u32>,
}

/// Labels that select endpoints; empty selects all.
pub type Labels = BTreeMap<String, String>;
