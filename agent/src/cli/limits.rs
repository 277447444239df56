//! Flags of `sluice redirector` that bound what clients may take.

use std::time::Duration;

use clap::{Args, value_parser};

use crate::redirector::Options;

/// Limits of clients.
#[derive(Args)]
pub(super) struct Limits {
    /// Open connections of one client (a pod, or an address that is no pod's); more are reset
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u32).range(1..))]
    connections_per_client: u32,
    /// Requests under way of one client, tunnels among them, on all its connections; more are answered 503
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u32).range(1..))]
    requests_per_client: u32,
    /// Seconds that the head of a request, or a ClientHello, may take from its first byte
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=86_400))]
    header_timeout: u64,
    /// Milliseconds that the first bytes are waited for where a port does not declare its protocol
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(1..=60_000))]
    sniff_timeout: u64,
    /// Seconds that a client's HTTP connection may lie idle between requests
    #[arg(long, default_value_t = 3600, value_parser = value_parser!(u64).range(1..=604_800))]
    client_idle_timeout: u64,
}

impl Limits {
    /// `options` with these limits.
    pub(super) fn set(&self, options: Options) -> Options {
        Options {
            connections_per_client: self.connections_per_client,
            requests_per_client: self.requests_per_client,
            header_timeout: Duration::from_secs(self.header_timeout),
            sniff_timeout: Duration::from_millis(self.sniff_timeout),
            client_idle_timeout: Duration::from_secs(self.client_idle_timeout),
            ..options
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn flags_are_limits_and_their_defaults_are_the_options() {
        let limits = |words: &[&str]| Line::try_parse_from([&["x"], words].concat()).map(|line| line.limits);
        assert_eq!(limits(&[]).unwrap().set(Options::default()), Options::default());
        let set = limits(&["--sniff-timeout", "7", "--header-timeout", "3", "--client-idle-timeout", "5"]);
        let set = set.unwrap().set(Options::default());
        assert_eq!(
            (set.sniff_timeout, set.header_timeout, set.client_idle_timeout),
            (Duration::from_millis(7), Duration::from_secs(3), Duration::from_secs(5))
        );
        let set = limits(&["--connections-per-client", "8", "--requests-per-client", "9"]).unwrap();
        let set = set.set(Options::default());
        assert_eq!((set.connections_per_client, set.requests_per_client), (8, 9));
        assert!(limits(&["--requests-per-client", "0"]).is_err(), "nobody would be served");
    }
}
