//! The couplets written for this project: every rule kept, nothing said twice, nothing taken from the other sets.

use crate::support::root;
use couplet_train::{
    dataset::prepare::DEFAULT_INSTRUCTION,
    eval::couplet::{Verdict, judge},
    prosody::{System, Tone, characters, clauses, is_traditional, shape, tail, tone},
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

#[derive(Deserialize)]
struct Row {
    instruction: String,
    input: String,
    output: String,
}

impl Row {
    fn lines(&self) -> [&str; 2] {
        [&self.input, &self.output]
    }
}

fn rows(name: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("data").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn festive() -> Vec<Row> {
    rows("couplets_festive.json")
}

/// The lines of `rows` without their breaks, and the number of the row.
fn lines(rows: &[Row]) -> Vec<(usize, Vec<char>)> {
    let of_row = |(at, row): (usize, &Row)| row.lines().map(|line| (at, characters(line).collect()));
    rows.iter().enumerate().flat_map(of_row).collect()
}

/// At how many places two lines differ; `None` where they are not equally long.
fn distance(a: &[char], b: &[char]) -> Option<usize> {
    (a.len() == b.len()).then(|| a.iter().zip(b).filter(|(x, y)| x != y).count())
}

/// What the judge leaves to the writer: the make of each line by itself, in the system that the couplet follows.
fn own_faults(row: &Row, system: System) -> Vec<String> {
    let mut faults = vec![];
    for (line, inner_end) in row.lines().into_iter().zip([Tone::Level, Tone::Oblique]) {
        for clause in clauses(line) {
            let nodes: Vec<char> = clause.chars().skip(1).step_by(2).collect();
            let alike =
                nodes.windows(2).find(|pair| tone(pair[0], system).opposes(tone(pair[1], system)) == Some(false));
            faults.extend(alike.map(|pair| format!("{clause}: {pair:?} do not alternate")));
            faults.extend(tail(clause, system).map(|tail| format!("{clause}: {tail:?}")));
        }
        // 平顶平、仄顶仄: the clause before the last one ends in the other tone.
        let ends: Vec<char> = clauses(line).filter_map(|clause| clause.chars().last()).collect();
        if let [.., inner, _] = ends[..] {
            let fits = matches!(tone(inner, system), Tone::Unknown) || tone(inner, system).may_be(inner_end);
            faults.extend(
                (!fits).then(|| format!("{line}: the clause ending in {inner} should end in {}", inner_end.name())),
            );
        }
    }
    faults
}

#[test]
fn every_couplet_keeps_every_rule() {
    let mut faulty = vec![];
    for row in festive() {
        let verdict = judge(&row.input, &row.output);
        let own = own_faults(&row, verdict.system());
        if !verdict.passes() || verdict.tail.is_some() || verdict.same_place || !own.is_empty() {
            faulty.push(format!("{} / {}: {} {own:?}", row.input, row.output, verdict.line(true)));
        }
        assert_eq!(row.instruction, DEFAULT_INSTRUCTION);
        let plain = |c: char| c == '，' || ('\u{4e00}'..='\u{9fff}').contains(&c) && !is_traditional(c);
        assert!(row.lines().iter().all(|line| line.chars().all(plain)), "{} / {}", row.input, row.output);
    }
    assert!(faulty.is_empty(), "{}", faulty.join("\n"));
}

#[test]
fn a_line_with_a_fault_of_its_own_is_found() {
    for (upper, want) in [
        ("天天天天地", "do not alternate"),
        ("天地地天天天天", "ThreeLevel"),
        ("天地，天地", "should end in 平"),
        ("天地地天，天天天地", ""),
    ] {
        let row = Row { instruction: String::new(), input: upper.into(), output: String::new() };
        let found = own_faults(&row, System::Pingshui).join(", ");
        assert!(found.contains(want) && found.is_empty() == want.is_empty(), "{upper}: {found}");
    }
}

/// The README gives the first two.
#[test]
fn the_lines_are_more_parallel_than_those_of_the_poems() {
    type Share = fn(&Verdict) -> f64;
    let mean = |rows: &[Row], share: Share| {
        rows.iter().map(|row| share(&judge(&row.input, &row.output))).sum::<f64>() / rows.len() as f64
    };
    let (ours, poems) = (festive(), rows("couplets_test.json"));
    let readme = std::fs::read_to_string(root().join("data/README.md")).unwrap();
    let shares: [(&str, Share); 3] = [("pos", |v| v.pos), ("seg", |v| v.seg), ("parallel", |v| v.parallel)];
    for (name, share) in shares {
        let (got, usual) = (mean(&ours, share), mean(&poems, share));
        assert!(got > usual + 0.02, "{name}: {got} against {usual}");
        let told = readme.contains(&format!("{got:.3}")) && readme.contains(&format!("{usual:.3}"));
        assert!(told || name == "parallel", "data/README.md: {name} is {got:.3} against {usual:.3}");
    }
}

#[test]
fn nothing_is_said_twice() {
    let rows = festive();
    let mut seen = HashSet::new();
    for clause in rows.iter().flat_map(Row::lines).flat_map(clauses) {
        assert!(seen.insert(clause), "{clause} stands twice");
    }
    let lines = lines(&rows);
    for (at, (row, line)) in lines.iter().enumerate() {
        for (other_row, other) in &lines[at + 1..] {
            let near = row != other_row && distance(line, other).is_some_and(|differing| 2 * differing <= line.len());
            assert!(!near, "{} and {} are alike", String::from_iter(line), String::from_iter(other));
        }
    }
}

#[test]
fn no_line_stands_in_another_set() {
    let ours = lines(&festive());
    for name in ["couplets_train.json", "couplets_valid.json", "couplets_test.json"] {
        for (_, other) in lines(&rows(name)) {
            let taken = ours.iter().find(|(_, line)| distance(line, &other).is_some_and(|differing| differing <= 1));
            assert!(taken.is_none(), "{name}: {} is as good as ours", String::from_iter(&other));
        }
    }
}

/// The list by kind has the same couplets, and the README counts them right.
#[test]
fn the_list_and_the_readme_agree() {
    let list = std::fs::read_to_string(root().join("data/couplets_festive.tsv")).unwrap();
    let list: Vec<[&str; 3]> = (list.lines().skip(1))
        .map(|line| line.split('\t').collect::<Vec<_>>().try_into().expect("three columns"))
        .collect();
    let rows = festive();
    assert_eq!(list.len(), rows.len());
    let (mut kinds, mut shapes) = (BTreeMap::new(), BTreeMap::new());
    for ([kind, upper, lower], row) in list.into_iter().zip(&rows) {
        assert_eq!([upper, lower], row.lines());
        *kinds.entry(kind.to_owned()).or_insert(0) += 1;
        let lengths: Vec<String> = shape(upper).iter().map(usize::to_string).collect();
        *shapes.entry(lengths.join(" + ")).or_insert(0) += 1;
    }
    let readme = std::fs::read_to_string(root().join("data/README.md")).unwrap();
    for (what, count) in kinds.into_iter().chain(shapes) {
        assert!(readme.contains(&format!("| {what} | {count} |")), "data/README.md: {what} has {count} rows");
    }
    assert!(readme.contains(&format!("| `couplets_festive` | {} |", rows.len())));
}
