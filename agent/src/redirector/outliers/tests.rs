//! Rows of `outlierDetection`: who is left out, for how long, and when nobody is.

use serde_json::json;

use super::*;
use crate::l7::rules::{Labels, ObjectName, TrafficPolicy};

fn settings(raw: serde_json::Value) -> Settings {
    let traffic: TrafficPolicy = serde_json::from_value(json!({ "outlierDetection": raw })).unwrap();
    let name = ObjectName { namespace: "shop".to_owned(), name: "dr".to_owned() };
    Settings::of(Some(&Policy { destination_rule: name, labels: Labels::new(), traffic })).unwrap()
}

fn endpoints(count: u8) -> Vec<SocketAddr> {
    (0..count).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect()
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Fails `times` times in a row at `now`.
fn fail(
    detector: &mut Detector,
    settings: &Settings,
    all: &[SocketAddr],
    which: usize,
    now: Duration,
) -> Effect {
    let noted = (0..5).map(|_| detector.note(settings, all, all[which], Event::Answer(500), now));
    noted.last().unwrap()
}

#[test]
fn thresholds() {
    let (bad, down) = (Event::Answer(500), Event::Failure(503));
    let (gone, fine) = (Event::Answer(502), Event::Answer(200));
    let split = json!({"splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 2});
    for (case, raw, events, want) in [
        ("five by default", json!({}), vec![bad; 5], true),
        ("four are not enough", json!({}), vec![bad; 4], false),
        ("a good one in between", json!({}), vec![bad, bad, bad, bad, fine, bad], false),
        ("not found is good", json!({}), vec![bad, bad, bad, bad, Event::Answer(404), bad], false),
        ("its own number", json!({"consecutive5xxErrors": 2}), vec![bad; 2], true),
        ("the older name", json!({"consecutiveErrors": 2}), vec![bad; 2], true),
        ("zero is off", json!({"consecutive5xxErrors": 0}), vec![bad; 50], false),
        ("no connection is 503", json!({"consecutive5xxErrors": 2}), vec![bad, down], true),
        ("gateway is off by default", json!({"consecutive5xxErrors": 0}), vec![gone; 50], false),
        (
            "gateway",
            json!({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2}),
            vec![gone, down],
            true,
        ),
        ("500 is no gateway's", json!({"consecutiveGatewayErrors": 2}), vec![gone, bad, gone], false),
        ("apart", split.clone(), vec![down; 2], true),
        ("apart, an answer in between", split.clone(), vec![down, bad, down], false),
        ("apart, failures are no answers", split, vec![bad, bad, bad, bad, down, bad], true),
    ] {
        let mut raw = raw;
        raw["maxEjectionPercent"] = json!(100);
        let (settings, all) = (settings(raw), endpoints(2));
        let mut detector = Detector::default();
        let effects: Vec<_> =
            events.iter().map(|event| detector.note(&settings, &all, all[0], *event, s(1))).collect();
        let want_left_out = if want { vec![all[0]] } else { Vec::new() };
        assert_eq!(effects.last() == Some(&Effect::Ejected), want, "{case}: {effects:?}");
        assert_eq!(detector.left_out(&settings, &all, s(1)), want_left_out, "{case}");
    }
}

#[test]
fn how_many_at_once() {
    for (case, percent, count, want) in [
        ("a tenth of nine is nobody", json!(null), 9, 0),
        ("a tenth of ten", json!(null), 10, 1),
        ("half of three", json!(50), 3, 1),
        ("half of four", json!(50), 4, 2),
        ("all", json!(100), 3, 3),
        ("none", json!(0), 3, 0),
    ] {
        let (settings, all) = (settings(json!({"maxEjectionPercent": percent})), endpoints(count));
        let mut detector = Detector::default();
        let effects: Vec<_> =
            (0..all.len()).map(|which| fail(&mut detector, &settings, &all, which, s(1))).collect();
        assert_eq!(effects.iter().filter(|effect| **effect == Effect::Ejected).count(), want, "{case}");
        assert_eq!(
            effects.iter().filter(|effect| **effect == Effect::TooMany).count(),
            all.len() - want,
            "{case}"
        );
        assert_eq!(detector.left_out(&settings, &all, s(1)).len(), want, "{case}");
    }
}

#[test]
fn too_few_healthy_ones_are_as_good_as_none() {
    for (case, percent, ejected, want) in
        [("off", 0, 3, 3), ("above", 50, 1, 1), ("at it", 50, 2, 2), ("below", 50, 3, 0)]
    {
        let raw = json!({"maxEjectionPercent": 100, "minHealthPercent": percent});
        let (settings, all) = (settings(raw), endpoints(4));
        let mut detector = Detector::default();
        for which in 0..ejected {
            assert_eq!(fail(&mut detector, &settings, &all, which, s(1)), Effect::Ejected, "{case}");
        }
        assert_eq!(detector.left_out(&settings, &all, s(1)).len(), want, "{case}");
    }
}

#[test]
fn who_was_ejected_comes_back_with_a_sweep() {
    let (settings, all) = (settings(json!({"maxEjectionPercent": 100})), endpoints(2));
    let mut detector = Detector::default();
    let is_out = |detector: &mut Detector, now| !detector.left_out(&settings, &all, now).is_empty();
    // Ejected at 3 s for 30 s: the sweep after 33 s is at 40 s.
    assert_eq!(fail(&mut detector, &settings, &all, 0, s(3)), Effect::Ejected);
    assert!(is_out(&mut detector, Duration::from_millis(39_999)));
    assert!(!is_out(&mut detector, s(40)));
    // At once again: twice as long.
    assert_eq!(fail(&mut detector, &settings, &all, 0, s(41)), Effect::Ejected);
    assert!(is_out(&mut detector, Duration::from_millis(109_999)));
    assert!(!is_out(&mut detector, s(110)));
    // Two sweeps of good behaviour take both away.
    assert_eq!(fail(&mut detector, &settings, &all, 0, s(131)), Effect::Ejected);
    assert!(is_out(&mut detector, Duration::from_millis(169_999)));
    assert!(!is_out(&mut detector, s(170)));
}

#[test]
fn no_ejection_is_longer_than_five_minutes() {
    for (case, base, want) in [("short base", "200s", 300), ("long base", "400s", 400)] {
        let raw = json!({"maxEjectionPercent": 100, "baseEjectionTime": base, "interval": "1s"});
        let (settings, all) = (settings(raw), endpoints(2));
        let mut detector = Detector::default();
        let mut now = s(0);
        for _ in 0..3 {
            assert_eq!(fail(&mut detector, &settings, &all, 0, now), Effect::Ejected, "{case}");
            let back = (0..).map(|later| now + s(later));
            let back =
                back.take_while(|at| !detector.left_out(&settings, &all, *at).is_empty()).last().unwrap();
            let lasted = back + s(1) - now;
            assert!(lasted <= s(want), "{case}: {lasted:?}");
            now = back + s(1);
        }
    }
}

#[test]
fn what_is_in_flight_while_an_endpoint_is_out_does_not_count() {
    let (settings, all) = (settings(json!({"maxEjectionPercent": 100})), endpoints(2));
    let mut detector = Detector::default();
    assert_eq!(fail(&mut detector, &settings, &all, 0, s(1)), Effect::Ejected);
    assert_eq!(fail(&mut detector, &settings, &all, 0, s(2)), Effect::None);
    let noted = detector.note(&settings, &all, all[0], Event::Answer(500), s(1_000));
    assert_eq!(noted, Effect::None, "one failure after it came back");
    assert_eq!(detector.note(&settings, &all, all[0], Event::Answer(200), s(1_000)), Effect::None);
    assert!(!detector.is_well(s(4_600)) && detector.is_well(s(4_601)), "an hour later it is forgotten");
    // An endpoint that has gone takes no part.
    assert_eq!(fail(&mut detector, &settings, &all[..1], 0, s(1_001)), Effect::Ejected);
    assert_eq!(detector.note(&settings, &all[..1], all[1], Event::Answer(500), s(1)), Effect::None);
}
