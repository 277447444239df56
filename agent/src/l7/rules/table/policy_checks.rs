//! What can be wrong with a DestinationRule, and what of it is not honoured.

use std::time::Duration;

use http::HeaderName;

use super::{
    super::{
        actions::port_number,
        hosts,
        objects::{
            ConnectionPool, ConsistentHash, DestinationRuleSpec, H2UpgradePolicy, HashCookie, LoadBalancer,
            Messages, OutlierDetection, SimpleBalancer, Tls, TlsMode, TrafficPolicy,
        },
    },
    locality_checks,
};

/// Checks `spec`; with `plaintext`, `ISTIO_MUTUAL` becomes `DISABLE` instead of an error.
pub(super) fn check(spec: &mut DestinationRuleSpec, plaintext: bool, messages: &mut Messages) {
    if let Some(why) = hosts::fault(&spec.host) {
        messages.error("spec.host", format!("{:?}: {why}", spec.host));
    }
    if let Some(policy) = &mut spec.traffic_policy {
        check_policy(policy, plaintext, "spec.trafficPolicy", messages);
    }
    for i in 0..spec.subsets.len() {
        let path = format!("spec.subsets[{i}]");
        let name = spec.subsets[i].name.clone();
        if name.is_empty() {
            messages.error(format!("{path}.name"), "is missing");
        } else if spec.subsets[..i].iter().any(|other| other.name == name) {
            messages.error(format!("{path}.name"), format!("{name:?} is there twice"));
        }
        if let Some(policy) = &mut spec.subsets[i].traffic_policy {
            check_policy(policy, plaintext, &format!("{path}.trafficPolicy"), messages);
        }
    }
}

fn check_policy(policy: &mut TrafficPolicy, plaintext: bool, path: &str, messages: &mut Messages) {
    if policy.tunnel.is_some() {
        messages.unsupported(format!("{path}.tunnel"), "destinations are reached directly");
    }
    let percent = policy.retry_budget.as_ref().and_then(|budget| budget.percent);
    if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        messages.error(format!("{path}.retryBudget.percent"), format!("{percent} is not within 0 to 100"));
    }
    let TrafficPolicy { load_balancer, connection_pool, outlier_detection, tls, .. } = policy;
    let groups = Groups { load_balancer, connection_pool, outlier_detection, tls };
    groups.check(plaintext, path, messages);
    for (i, settings) in policy.port_level_settings.iter_mut().enumerate() {
        let path = format!("{path}.portLevelSettings[{i}]");
        port_number(settings.port.number, &format!("{path}.port.number"), messages);
        let groups = Groups {
            load_balancer: &settings.load_balancer,
            connection_pool: &settings.connection_pool,
            outlier_detection: &settings.outlier_detection,
            tls: &mut settings.tls,
        };
        groups.check(plaintext, &path, messages);
    }
}

/// The groups that a policy and the settings of a port have in common.
struct Groups<'a> {
    load_balancer: &'a Option<LoadBalancer>,
    connection_pool: &'a Option<ConnectionPool>,
    outlier_detection: &'a Option<OutlierDetection>,
    tls: &'a mut Option<Tls>,
}

impl Groups<'_> {
    fn check(self, plaintext: bool, path: &str, messages: &mut Messages) {
        if let Some(balancer) = self.load_balancer {
            check_balancer(balancer, &format!("{path}.loadBalancer"), messages);
        }
        if let Some(pool) = self.connection_pool {
            check_pool(pool, &format!("{path}.connectionPool"), messages);
        }
        if let Some(detection) = self.outlier_detection {
            check_outliers(detection, &format!("{path}.outlierDetection"), messages);
        }
        if let Some(tls) = self.tls {
            check_tls(tls, plaintext, &format!("{path}.tls"), messages);
        }
    }
}

fn check_balancer(raw: &LoadBalancer, path: &str, messages: &mut Messages) {
    if raw.simple == Some(SimpleBalancer::LeastConn) {
        messages.warn(format!("{path}.simple"), "LEAST_CONN is deprecated and means LEAST_REQUEST");
    }
    if raw.zone_aware_lb_setting.is_some() {
        messages.unsupported(format!("{path}.zoneAwareLbSetting"), "use localityLbSetting");
    }
    if let Some(setting) = &raw.locality_lb_setting {
        locality_checks::check(
            setting,
            raw.consistent_hash.is_some(),
            &format!("{path}.localityLbSetting"),
            messages,
        );
    }
    check_warmup(raw, path, messages);
    let Some(hash) = &raw.consistent_hash else { return };
    let path = format!("{path}.consistentHash");
    if raw.simple.is_some() {
        messages.error(&path, "stands beside simple; keep one");
    }
    check_hash(hash, &path, messages);
}

fn check_warmup(raw: &LoadBalancer, path: &str, messages: &mut Messages) {
    let own = raw.warmup.as_ref().map(|warmup| ("warmup.duration", warmup.duration));
    let older = raw.warmup_duration_secs.map(|span| ("warmupDurationSecs", Some(span)));
    let Some((field, span)) = own.or(older) else { return };
    match span {
        None => messages.error(format!("{path}.{field}"), "is missing"),
        Some(span) if span.0 < Duration::from_millis(1) => {
            messages.error(format!("{path}.{field}"), "is less than 1ms");
        }
        Some(_) => {}
    }
    let chance = matches!(raw.simple, Some(SimpleBalancer::Random | SimpleBalancer::Passthrough));
    if chance || raw.consistent_hash.is_some() {
        let text = "has no effect here: only LEAST_REQUEST and ROUND_ROBIN heed it";
        messages.warn(format!("{path}.{field}"), text);
    }
    let Some(warmup) = &raw.warmup else { return };
    if let Some(percent) = warmup.minimum_percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        messages.error(format!("{path}.warmup.minimumPercent"), format!("{percent} is not within 0 to 100"));
    }
    if warmup.aggression.is_some_and(|shape| (shape - 1.0).abs() > f64::EPSILON) {
        messages.warn(format!("{path}.warmup.aggression"), "is not honoured: shares grow evenly");
    }
}

fn check_hash(raw: &ConsistentHash, path: &str, messages: &mut Messages) {
    let keys = [
        raw.http_header_name.is_some(),
        raw.http_cookie.is_some(),
        raw.use_source_ip == Some(true),
        raw.http_query_parameter_name.is_some(),
    ];
    if keys.into_iter().filter(|present| *present).count() != 1 {
        messages.error(
            path,
            "needs exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        );
    }
    if let Some(cookie) = &raw.http_cookie {
        check_cookie(cookie, &format!("{path}.httpCookie"), messages);
    }
    if let Some(name) = raw.http_header_name.as_ref().filter(|name| HeaderName::try_from(*name).is_err()) {
        messages.error(format!("{path}.httpHeaderName"), format!("{name:?} is no name of a header"));
    }
    if raw.ring_hash.is_some() && raw.maglev.is_some() {
        messages.error(path, "has both ringHash and maglev; keep one");
    }
}

/// RFC 6265 section 4.1.1: names are tokens, as those of headers are, and a semicolon ends an attribute.
fn check_cookie(raw: &HashCookie, path: &str, messages: &mut Messages) {
    if raw.name.is_empty() {
        messages.error(format!("{path}.name"), "is missing");
    } else if HeaderName::try_from(&raw.name).is_err() {
        messages.error(format!("{path}.name"), format!("{:?} is no name of a cookie", raw.name));
    }
    let legal = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';');
    if let Some(value) = raw.path.as_ref().filter(|value| !legal(value)) {
        messages.error(format!("{path}.path"), format!("{value:?} cannot stand in a cookie"));
    }
    for (i, attribute) in raw.attributes.iter().enumerate() {
        if attribute.name.is_empty() || !legal(&attribute.name) || !legal(&attribute.value) {
            let text = format!("{:?}={:?} cannot stand in a cookie", attribute.name, attribute.value);
            messages.error(format!("{path}.attributes[{i}]"), text);
        }
    }
}

fn check_pool(raw: &ConnectionPool, path: &str, messages: &mut Messages) {
    if let Some(tcp) = &raw.tcp {
        if tcp.connect_timeout.is_some_and(|span| span.0 < Duration::from_millis(1)) {
            messages.error(format!("{path}.tcp.connectTimeout"), "is less than 1ms");
        }
        if tcp.max_connections > 0 {
            messages.warn(format!("{path}.tcp.maxConnections"), "counts per client pod on this node");
        }
    }
    let Some(http) = &raw.http else { return };
    if http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) {
        messages.warn(
            format!("{path}.http.h2UpgradePolicy"),
            "is not honoured: endpoints are spoken to as the client speaks",
        );
    }
    let Some(keep_alive) = &http.http2_keep_alive else { return };
    for (field, span) in [("interval", keep_alive.interval), ("timeout", keep_alive.timeout)] {
        if span.is_some_and(|span| span.0 < Duration::from_millis(1)) {
            messages.error(format!("{path}.http.http2KeepAlive.{field}"), "is less than 1ms");
        }
    }
    if keep_alive.interval.is_none() {
        messages.warn(format!("{path}.http.http2KeepAlive"), "has no interval: no pings are sent");
    }
}

fn check_outliers(raw: &OutlierDetection, path: &str, messages: &mut Messages) {
    for (field, percent) in
        [("maxEjectionPercent", raw.max_ejection_percent), ("minHealthPercent", raw.min_health_percent)]
    {
        if let Some(percent) = percent.filter(|percent| *percent > 100) {
            messages.error(format!("{path}.{field}"), format!("{percent} is not within 0 to 100"));
        }
    }
    for (field, span) in [("interval", raw.interval), ("baseEjectionTime", raw.base_ejection_time)] {
        if span.is_some_and(|span| span.0 < Duration::from_millis(1)) {
            messages.error(format!("{path}.{field}"), "is less than 1ms");
        }
    }
    if raw.consecutive_errors.is_some() {
        messages.warn(format!("{path}.consecutiveErrors"), "is deprecated; use consecutive5xxErrors");
    }
    let percent = raw.max_ejection_percent.unwrap_or(10);
    let least = 100_u32.checked_div(percent).map(|whole| whole + u32::from(100 % percent > 0));
    match least {
        None => messages.warn(format!("{path}.maxEjectionPercent"), "is 0: no endpoint is ever left out"),
        Some(least) if least > 3 => {
            let text = format!(
                "with less than {least} endpoints none is left out: that would be more than {percent} %"
            );
            messages.warn(format!("{path}.maxEjectionPercent"), text);
        }
        Some(_) => {}
    }
}

fn check_tls(raw: &mut Tls, plaintext: bool, path: &str, messages: &mut Messages) {
    if raw.ca_crl.is_some() {
        messages.unsupported(format!("{path}.caCrl"), "use short-lived certificates");
    }
    for (field, file) in [
        ("clientCertificate", &raw.client_certificate),
        ("privateKey", &raw.private_key),
        ("caCertificates", &raw.ca_certificates),
    ] {
        if file.as_deref().is_some_and(|file| !file.is_empty() && file != "system") {
            messages
                .warn(format!("{path}.{field}"), "names a file on the node; prefer credentialName, a Secret");
        }
    }
    let path = format!("{path}.mode");
    match raw.mode {
        TlsMode::Disable => {}
        TlsMode::Simple | TlsMode::Mutual => messages
            .warn(path, "is not honoured yet: requests are answered 503 rather than sent in plain text"),
        TlsMode::IstioMutual if plaintext => {
            raw.mode = TlsMode::Disable;
            messages.warn(path, "ISTIO_MUTUAL is sent in plain text, as sluice.dev/allow-plaintext says");
        }
        TlsMode::IstioMutual => messages.unsupported(
            path,
            "ISTIO_MUTUAL needs mesh identity; use DISABLE, SIMPLE or MUTUAL, or annotate the rule with \
             sluice.dev/allow-plaintext: \"true\"",
        ),
    }
}
