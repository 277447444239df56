//! What DestinationRules may say of how endpoints are reached and told apart: proxyProtocol, warm-up, localities.

use super::*;

#[test]
fn what_is_refused_or_not_honoured_of_endpoints() {
    let policy = |policy: Value| json!({"host": "a", "trafficPolicy": policy});
    for (case, spec, accepted, want) in [
        ("proxy protocol", policy(json!({"proxyProtocol": {"version": "V2"}})), true, ""),
        ("warm-up", policy(json!({"loadBalancer": {"warmup": {"duration": "30s"}}})), true, ""),
        ("older warm-up", policy(json!({"loadBalancer": {"warmupDurationSecs": "30s"}})), true, ""),
        (
            "warm-up without end",
            policy(json!({"loadBalancer": {"warmup": {"minimumPercent": 101}}})),
            false,
            "spec.trafficPolicy.loadBalancer.warmup.duration: is missing\n\
             spec.trafficPolicy.loadBalancer.warmup.minimumPercent: 101 is not within 0 to 100",
        ),
        (
            "warm-up of no effect",
            policy(
                json!({"loadBalancer": {"simple": "RANDOM", "warmup": {"duration": "1s", "aggression": 2}}}),
            ),
            true,
            "spec.trafficPolicy.loadBalancer.warmup.duration: has no effect here: only LEAST_REQUEST and ROUND_ROBIN \
             heed it\nspec.trafficPolicy.loadBalancer.warmup.aggression: is not honoured: shares grow evenly",
        ),
        (
            "localities",
            policy(json!({"loadBalancer": {"localityLbSetting": {"distribute": [
                {"from": "r/a/*", "to": {"r/a/*": 80, "r/b/*": 20}}]}}})),
            true,
            "",
        ),
        (
            "localities that do not add up",
            policy(json!({"loadBalancer": {"localityLbSetting": {"distribute": [
                {"from": "*", "to": {"r/a": 80, "r/b": 19}}], "failoverPriority": ["topology.kubernetes.io/zone"]}}})),
            false,
            "spec.trafficPolicy.loadBalancer.localityLbSetting: has distribute beside failover or failoverPriority; \
             keep one\nspec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: adds up to 99 and not to 100",
        ),
        (
            "regions",
            policy(
                json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "r", "to": {"r/a": 100}}]}}}),
            ),
            true,
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0]: \"r\" names no zone, and regions of \
             endpoints are not known: the entry has no effect",
        ),
        (
            "failover",
            policy(json!({"loadBalancer": {"localityLbSetting": {"failover": [{"from": "r", "to": "s"}],
                "failoverPriority": ["topology.kubernetes.io/zone", "version"]}}})),
            true,
            "spec.trafficPolicy.loadBalancer.localityLbSetting.failover: regions of endpoints are not known: those of \
             other zones stand in, all alike\nspec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[1]: \
             \"version\" is not honoured: only topology.kubernetes.io/zone is known of endpoints",
        ),
    ] {
        let read = read_rule("a", json!({}), spec);
        assert_eq!(read.value.is_some(), accepted, "{case}");
        assert_eq!(texts(&read.messages).join("\n"), want, "{case}");
    }
}
