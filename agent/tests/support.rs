//! The README's table of rules and the tests: each field of a VirtualService has a line, and a test that is named after it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

/// A row of the specification: its fields as the README has them, and the tests that hold it to that.
const ROWS: [(&str, &[&str], &[&str]); 41] = [
    ("hosts", &["hosts"], &["hosts_and_gateways_are_checked", "hosts_overlap"]),
    ("gateways", &["gateways (`mesh`)"], &["gateways"]),
    ("exportTo", &["exportTo"], &["export_to_decides_who_sees_an_object_and_how_close_it_is"]),
    (
        "several objects for one host",
        &["several objects for one host"],
        &["several_virtual_services_for_one_host"],
    ),
    ("no match", &["404"], &["no_match"]),
    ("StringMatch", &["exact, prefix, regex"], &["string_match", "a_regex_that_is_refused_says_why"]),
    ("uri", &["uri,"], &["uri"]),
    ("ignoreUriCase", &["ignoreUriCase"], &["ignore_uri_case"]),
    ("scheme", &["scheme: https"], &["scheme"]),
    ("method, authority", &["method", "authority"], &["method_and_authority"]),
    ("headers", &["headers", "JWT claims are refused"], &["headers"]),
    ("withoutHeaders", &["withoutHeaders"], &["without_headers"]),
    ("queryParams", &["queryParams"], &["query_params"]),
    (
        "port, sourceLabels, sourceNamespace, gateways",
        &["sourceLabels", "sourceNamespace"],
        &["port_source_and_gateways"],
    ),
    ("statPrefix", &["statPrefix"], &["a_rule_is_accepted_with_a_note"]),
    ("route[].weight", &["weights"], &["weight", "weights_split_requests_over_subsets"]),
    (
        "route[].destination",
        &["destinations"],
        &["route_and_destination", "a_destination_that_does_not_exist"],
    ),
    ("headers operations", &["header operations"], &["set_add_remove"]),
    ("variables in header values", &["`%VAR%`"], &["variables"]),
    ("redirect", &["redirect"], &["redirect"]),
    ("directResponse", &["directResponse"], &["direct_response"]),
    (
        "delegate",
        &["delegates"],
        &["a_delegate_must_be_there_and_visible", "a_delegates_match_narrows_the_roots"],
    ),
    ("rewrite.uri, uriRegexRewrite", &["uriRegexRewrite"], &["rewrite_of_the_path"]),
    (
        "rewrite.authority",
        &["rewrite (uri, uriRegexRewrite, authority)"],
        &["http2_requests_have_their_authority_matched_and_rewritten"],
    ),
    ("timeout", &["timeout"], &["timeout", "a_route_that_takes_too_long_is_answered_504"]),
    ("retries.attempts", &["retries"], &["attempts", "defaults"]),
    ("retries.retryOn", &["retries"], &["retry_on", "answers_are_retried_as_the_rule_says"]),
    ("retries.backoff", &["retries"], &["backoff"]),
    ("retries.perTryTimeout", &["retries"], &["per_try_timeout_without_retry_on_fails_at_the_first_try"]),
    (
        "retries.retryRemoteLocalities",
        &["retryRemoteLocalities"],
        &["retry_remote_localities_tries_another_zone"],
    ),
    ("fault.delay, fault.abort", &["faults"], &["delay_and_abort_are_independent", "fault"]),
    ("refused faults", &["exponentialDelay", "http2Error"], &["what_is_refused"]),
    ("mirror, mirrors", &["mirrors"], &["mirror"]),
    ("corsPolicy", &["CORS"], &["cors"]),
    ("tls", &["`tls` by SNI"], &["tls_match", "tls_goes_by_its_server_name_and_every_byte_arrives"]),
    ("destinationSubnets", &["destinationSubnets"], &["tls_match", "tcp_match"]),
    ("tcp", &["`tcp`"], &["tcp_match", "weights_split_connections_in_the_kernel_and_change_with_the_rule"]),
    ("sourceSubnet", &["sourceSubnet"], &["tcp_match"]),
    ("protocol choice", &["sniffed"], &["protocol_choice"]),
    (
        "gRPC",
        &["gRPC with trailers"],
        &["calls_on_one_connection_are_spread_streams_end_with_their_trailers_and_deadlines_hold"],
    ),
    (
        "WebSocket",
        &["WebSocket"],
        &["a_websocket_becomes_a_tunnel", "a_websocket_over_http2_becomes_one_over_http1"],
    ),
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All Rust code below `folder`.
fn code(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            code(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_field_has_a_line_in_the_readme_and_a_test_of_its_name() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let rules = readme.split("### Rules").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut tests = String::new();
    code(&workspace().join("agent/src"), &mut tests);
    code(&workspace().join("tests/tests"), &mut tests);
    let mut gaps = Vec::new();
    for (row, words, names) in ROWS {
        gaps.extend(
            words
                .iter()
                .filter(|word| !rules.contains(*word))
                .map(|word| format!("{row}: README lacks {word:?}")),
        );
        let is_there = |name: &&&str| !tests.contains(&format!("fn {name}()"));
        gaps.extend(names.iter().filter(is_there).map(|name| format!("{row}: no test {name}")));
    }
    assert!(gaps.is_empty(), "{gaps:#?}");
}
