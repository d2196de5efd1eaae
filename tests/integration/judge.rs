use couplet_train::{
    eval::{
        couplet::judge,
        metrics::{Judged, Metrics, measure, repair, separations},
    },
    prosody::{System, characters, demands, tone},
};

/// The shipped test couplets.
fn couplets() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/couplets_test.json");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(&row["input"]), text(&row["output"]))).collect()
}

fn judged(pairs: &[(String, String)]) -> Vec<Judged> {
    pairs.iter().map(|(upper, lower)| Judged::new(upper, lower)).collect()
}

fn check(metrics: &Metrics, wanted: &[(&str, f64, f64)]) {
    for (key, want, tolerance) in wanted {
        let got = metrics.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        assert!((got.value - want).abs() <= *tolerance, "{key}: {got:?}, want {want} ± {tolerance}");
        assert!(got.low <= got.value && got.value <= got.high, "{key}: {got:?}");
    }
}

/// Half of the third decimal: the wanted numbers are rounded.
const EXACT: f64 = 5e-4;

/// The wanted numbers come from another implementation of the same definitions, in Python with jieba 0.42.1.
#[test]
fn real_couplets_score_what_they_should() {
    let real = measure(&judged(&couplets()), 42);
    assert_eq!(real.rows, 600);
    for key in ["shape", "end", "opp", "all", "end_pingshui", "all_pingshui", "end_modern", "repeat", "no_shared"] {
        check(&real, &[(key, 1.0, 0.0)]); // they were chosen so
    }
    check(&real, &[("all_modern", 0.835, EXACT), ("same_place", 0.0, 0.0), ("tail", 0.0, 0.0)]);
    check(&real, &[("pos", 0.469, EXACT), ("seg", 0.718, EXACT), ("pass", 1.0, 0.0)]);
    assert_eq!(real.get("repeat").unwrap().n, 20);
}

#[test]
fn a_copy_of_the_first_line_does_not_pass() {
    let copies: Vec<_> = couplets().into_iter().map(|(upper, _)| (upper.clone(), upper)).collect();
    let copied = measure(&judged(&copies), 42);
    check(&copied, &[("shape", 1.0, 0.0), ("pos", 1.0, 0.0), ("seg", 1.0, 0.0), ("repeat", 1.0, 0.0)]);
    check(&copied, &[("end", 0.0, 0.0), ("no_shared", 0.0, 0.0), ("same_place", 1.0, 0.0), ("copied", 1.0, 0.0)]);
    check(&copied, &[("pass", 0.0, 0.0)]);
}

/// The pairing is random: the wanted numbers are of another pairing of the same lines.
#[test]
fn repaired_lines_score_less_and_the_good_metrics_tell() {
    let real = couplets();
    let mixed = repair(&real, 42);
    assert_eq!(mixed.len(), 600, "both shapes have many rows");
    let (real, mixed) = (judged(&real), judged(&mixed));
    let metrics = measure(&mixed, 42);
    check(&metrics, &[("shape", 1.0, 0.0), ("end", 1.0, 0.0), ("opp", 0.803, 0.02), ("all", 0.572, 0.05)]);
    check(&metrics, &[("all_pingshui", 0.493, 0.05), ("all_modern", 0.487, 0.05), ("repeat", 0.0, 0.05)]);
    check(&metrics, &[("pos", 0.348, 0.03), ("seg", 0.662, 0.05), ("no_shared", 0.932, 0.025)]);
    let found = separations(&real, &mixed);
    for (key, weak) in [("parallel", false), ("all", false), ("repeat", false), ("closed", false), ("end", true)] {
        let separation = found.iter().find(|s| s.key == key).unwrap();
        assert_eq!(separation.weak, weak, "{separation:?}");
    }
}

/// Whoever writes a line that satisfies the demands has nothing to fear from the judge's tones.
#[test]
fn a_line_that_meets_the_demands_has_the_right_tones() {
    let mut met = [0; 2];
    for (upper, lower) in couplets().into_iter().chain(repair(&couplets(), 1)) {
        let verdict = judge(&upper, &lower);
        for (system, tones) in System::ALL.into_iter().zip([verdict.pingshui, verdict.modern]) {
            let mut pairs = characters(&lower).zip(demands(&upper, system));
            if pairs.all(|(c, demand)| tone(c, system).satisfies(demand)) {
                assert!(tones.all(), "{upper} {lower} {system:?}");
                met[system as usize] += 1;
            }
        }
    }
    assert!(met.iter().all(|met| (700..1200).contains(met)), "some lines meet them, some do not: {met:?}");
}

#[test]
fn every_failure_has_a_reason() {
    let copies = couplets().into_iter().map(|(upper, _)| (upper.clone(), upper));
    for (upper, lower) in repair(&couplets(), 2).into_iter().chain(copies) {
        let verdict = judge(&upper, &lower);
        assert!(verdict.passes() || !verdict.faults.is_empty(), "{upper} {lower}");
        for line in [verdict.line(true), verdict.line(false)] {
            assert_eq!(line.contains('✗'), !verdict.passes(), "{line}");
            assert!(["✗()", "，)", ", )"].iter().all(|empty| !line.contains(empty)), "{line}");
        }
    }
}
