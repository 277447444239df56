//! The rules engine: Istio VirtualService and DestinationRule, read, compiled, evaluated. No I/O, no clock.

pub mod actions;
mod client;
pub mod clienthello;
#[cfg(test)]
mod fuzz;
pub mod hosts;
mod l4;
pub mod locality;
mod matching;
mod objects;
mod pattern;
pub mod protocol;
mod regex;
mod subnet;
pub mod table;
mod tcp;
mod tls;
mod work;

pub use client::Client;
pub use l4::L4Rule;
pub use matching::RequestView;
pub use objects::{
    ConnectionPool, ConsistentHash, CookieAttribute, Definition, H2UpgradePolicy, HashCookie, HttpPool,
    Labels, LoadBalancer, LocalityLbSetting, Maglev, Message, Messages, Meta, OutlierDetection, Percent,
    PortPolicy, PortSelector, ProxyProtocol, ProxyProtocolVersion, RetryBudget, RingHash, Severity,
    SimpleBalancer, Span, TcpKeepalive, TcpPool, Tls, TlsMode, TrafficPolicy, Warmup, definitions,
};
pub use pattern::Pattern;
pub use work::Work;

pub use crate::model::ObjectName;
