//! The whole way, from files to files.

use super::*;
use crate::dataset::registry;
use serde_json::{Value, json};
use std::{collections::HashSet, fs};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(lines: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.path("lines.txt"), lines).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self, name: &str) -> Options {
        Options::new(self.path("lines.txt"), self.path("out"), name)
    }

    fn prepare(&self, name: &str, overwrite: bool) -> Result<Prepared> {
        prepare(&Options { overwrite, ..self.options(name) })
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    /// Inputs and outputs of a file of rows.
    fn rows(&self, name: &str) -> Vec<[String; 3]> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let row = |row: &Value| ["instruction", "input", "output"].map(|key| text(&row[key]));
        self.json(name).as_array().unwrap().iter().map(row).collect()
    }
}

/// Couplets of five and seven characters, which end 仄 … 平; every fifth differs from the one before it by a character.
fn many(count: usize) -> String {
    let [oblique, level] = ["水海月雨雪露日草树竹柳菊桂", "山江河湖溪泉云风霜烟霞星天花林松梅桃荷莲兰"]
        .map(|characters| characters.chars().collect::<Vec<_>>());
    let all = [&oblique[..], &level].concat();
    let mut state = 12345u64;
    let mut next = |characters: &[char]| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        characters[(state >> 33) as usize % characters.len()]
    };
    let mut side = |len: usize, last: &[char]| -> String {
        (1..=len).map(|at| next(if at == len { last } else { &all[..] })).collect()
    };
    let mut lines: Vec<String> = vec![];
    for row in 0..count {
        let len = if row % 3 == 0 { 7 } else { 5 };
        let line = match lines.last() {
            Some(last) if row % 5 == 4 => last.replacen(last.chars().next().unwrap(), "春", 1),
            _ => format!("{} {}", side(len, &oblique), side(len, &level)),
        };
        lines.push(line);
    }
    lines.join("\n")
}

#[test]
fn lines_become_rows_and_an_entry() {
    let folder = Folder::new(
        "\u{feff}海内存知己 天涯若比邻\r\n\n  两个黄鹂鸣翠柳\t一行白鹭上青天\n无边落木萧萧下\u{3000}\u{3000}不尽长江滚滚来",
    );
    let prepared = folder.prepare("tang", false).unwrap();
    assert_eq!(prepared.parts, [(Part::Train, 3, folder.path("out/tang.json"))]);
    assert_eq!((prepared.kept, prepared.dropped, prepared.notes), (3, vec![], vec![]));
    let row = |first: &str, second: &str| json!({"instruction": "请为以下上联生成一个对仗工整、寓意吉祥的下联\u{ff0c}注意词性对应和平仄协调。", "input": first, "output": second});
    assert_eq!(
        folder.json("out/tang.json"),
        json!([
            row("海内存知己", "天涯若比邻"),
            row("两个黄鹂鸣翠柳", "一行白鹭上青天"),
            row("无边落木萧萧下", "不尽长江滚滚来")
        ])
    );
    assert_eq!(folder.json("out/dataset_info.json")["tang"]["file_name"], "tang.json");
    assert!(registry::look_up(&folder.path("out"), &["tang".into()]).is_ok());
}

#[test]
fn nothing_is_overwritten_unasked() {
    let folder = Folder::new("天 地");
    folder.prepare("a", false).unwrap();
    folder.prepare("b", false).unwrap();
    let error = folder.prepare("a", false).unwrap_err();
    assert!(error.to_string().ends_with("a.json: exists already"), "{error}");
    folder.prepare("a", true).unwrap();
    fs::remove_file(folder.path("out/a.json")).unwrap();
    let error = folder.prepare("a", false).unwrap_err();
    assert!(error.to_string().ends_with("a_dropped.tsv: exists already"), "{error}");
    fs::write(folder.path("out/d_test.json"), "mine").unwrap();
    let error = folder.prepare("d", false).unwrap_err();
    assert!(error.to_string().ends_with("d_test.json: exists already"), "{error}");

    fs::write(folder.path("out/dataset_info.json"), r#"{"c": {"file_name": "other.json"}, "b": 1}"#).unwrap();
    let error = folder.prepare("c", false).unwrap_err();
    assert!(error.to_string().ends_with("\"c\" is another data set already"), "{error}");
    folder.prepare("c", true).unwrap();
    let registry = folder.json("out/dataset_info.json");
    assert_eq!(registry["c"]["file_name"], "c.json");
    assert_eq!(registry["b"], 1, "other entries stay as they are");
    let names: Vec<String> = fs::read_dir(folder.path("out"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
}

#[test]
fn an_input_is_never_its_own_result() {
    let folder = Folder::new("天 地");
    folder.prepare("a", false).unwrap();
    let again = Options { overwrite: true, ..Options::new(folder.path("out/a.json"), folder.path("out"), "a") };
    let error = prepare(&again).unwrap_err();
    assert!(error.to_string().ends_with("a.json: would be read and replaced at once"), "{error}");
}

#[test]
fn a_file_that_is_not_understood_leaves_nothing() {
    for (lines, want) in [
        ("春风又绿", "lines.txt:1: nothing parts two sides here: 春风又绿"),
        ("春 风 又 绿", "lines.txt:1: nothing parts two sides here: 春 风 又 绿"),
        (" \n\t\n", "lines.txt: holds no couplets"),
    ] {
        let folder = Folder::new(lines);
        let error = folder.prepare("a", false).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint_text(true).is_some(), "{want}");
        assert!(!folder.path("out").exists(), "{want}");
    }
}

#[test]
fn where_every_row_is_dropped_the_report_says_why() {
    let folder = Folder::new("天 天\n年年卖萌处 岁岁读书人\n");
    let error = folder.prepare("a", false).unwrap_err();
    let place = folder.path("lines.txt").display().to_string();
    let want = format!(
        "every row was dropped: copied 1 (first {place}:1), register 1 (first {place}:2); {place}:1: 1 of 1 places hold the \
         same character: 天 / 天"
    );
    assert_eq!(error.to_string(), want);
    assert!(error.hint_text(false).unwrap().contains("a_dropped.tsv") && error.hint_text(true).is_some());
    let report = fs::read_to_string(folder.path("out/a_dropped.tsv")).unwrap();
    assert!(report.lines().count() == 3 && report.contains("\tregister\t卖萌\t"), "{report}");
    assert!(!folder.path("out/a.json").exists() && !folder.path("out/dataset_info.json").exists());

    // What the hint advises is not in the way of itself; another file of that name is.
    let keep = Options { keep: vec![Reason::Copied], ..folder.options("a") };
    assert_eq!(prepare(&keep).unwrap().kept, 1);
    fs::write(folder.path("out/b_dropped.tsv"), "mine").unwrap();
    let error = folder.prepare("b", false).unwrap_err();
    assert!(error.to_string().ends_with("b_dropped.tsv: exists already"), "{error}");
}

#[test]
fn names_are_file_names() {
    let folder = Folder::new("天 地");
    for name in ["", "a/b", "..", "a,b", "a b"] {
        assert!(folder.prepare(name, false).is_err(), "{name:?}");
    }
    assert!(folder.prepare("对联-1", false).is_ok());
}

#[test]
fn every_dropped_row_is_reported() {
    let folder = Folder::new("海内存知己 天涯若比邻\n天 地 人\n海内存知己 天涯若比邻\n天涯A 海角\n风 雨\n春 秋");
    let prepared = folder.prepare("a", false).unwrap();
    let place = |line: usize| format!("{}:{line}", folder.path("lines.txt").display());
    let want = [(Reason::Sides, 1, place(2)), (Reason::Characters, 1, place(4)), (Reason::Duplicate, 1, place(3))];
    assert_eq!(prepared.dropped, want);
    let report = fs::read_to_string(folder.path("out/a_dropped.tsv")).unwrap();
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(lines.len(), 1 + 3);
    assert_eq!(lines[1], format!("{}\tsides\tnot two sides but 3\t天 地 人", place(2)));
    assert_eq!(lines[2], format!("{}\tduplicate\tas {}\t海内存知己 / 天涯若比邻", place(3), place(1)));
    assert_eq!(lines[3], format!("{}\tcharacters\t上联, character 3: A\t天涯A / 海角", place(4)));
}

#[test]
fn parts_are_whole_disjoint_and_keep_near_duplicates_together() {
    let folder = Folder::new(&many(600));
    let options = Options { split: "rest/60/60".parse().unwrap(), ..folder.options("a") };
    let prepared = prepare(&options).unwrap();
    let sizes: Vec<usize> = prepared.parts.iter().map(|(_, rows, _)| *rows).collect();
    assert_eq!((sizes[1], sizes[2], sizes.iter().sum::<usize>()), (60, 60, prepared.kept));
    assert!(prepared.groups.groups > 50, "{:?}", prepared.groups);
    let parts = ["out/a.json", "out/a_valid.json", "out/a_test.json"].map(|name| folder.rows(name));
    let pairs =
        |part: &'static [[String; 3]]| part.iter().map(|[_, upper, lower]| [upper.as_str(), lower]).collect::<Vec<_>>();
    let [train, valid, test] = parts.map(|part| pairs(part.leak()));
    for (seen, held_out) in [(&train, &valid), (&train, &test), (&valid, &test)] {
        assert_eq!(near::leaks(seen, held_out), []);
    }
    // By the slow way as well.
    let near = |a: &str, b: &str| {
        a.chars().count() == b.chars().count() && a.chars().zip(b.chars()).filter(|(a, b)| a != b).count() <= 1
    };
    for (seen, held_out) in
        train.iter().flat_map(|seen| valid.iter().chain(&test).map(move |held_out| (seen, held_out)))
    {
        assert!(seen.iter().all(|a| held_out.iter().all(|b| !near(a, b))), "{seen:?}, {held_out:?}");
    }
}

/// The sides without marks, in the order of their characters: the same for all repeats of a couplet.
fn bare([_, upper, lower]: [String; 3]) -> [String; 2] {
    let mut sides = [upper, lower].map(|side| side.replace(['，', '。'], ""));
    sides.sort();
    sides
}

#[test]
fn the_same_couplets_are_drawn_whatever_their_order() {
    // Repeats with marks, and with the sides exchanged: reversed, they are what is kept.
    let mut lines = many(300);
    for (at, line) in many(300).lines().enumerate().filter(|(at, _)| at % 3 == 0) {
        let (upper, lower) = line.split_once(' ').unwrap();
        lines += &if at % 2 == 0 { format!("\n{lower} {upper}") } else { format!("\n{upper}， {lower}。") };
    }
    let mut reversed: Vec<&str> = lines.lines().collect();
    reversed.reverse();
    let sets = [lines.clone(), reversed.join("\n")].map(|lines| {
        let folder = Folder::new(&lines);
        let options = Options { take: Some(200), split: "160/20/20".parse().unwrap(), ..folder.options("a") };
        prepare(&options).unwrap();
        ["out/a.json", "out/a_valid.json", "out/a_test.json"]
            .map(|name| folder.rows(name).into_iter().map(bare).collect::<HashSet<_>>())
    });
    assert_eq!(sets[0], sets[1]);
    let folder = Folder::new(&lines);
    let options = Options { take: Some(200), seed: 1, split: "160/20/20".parse().unwrap(), ..folder.options("a") };
    prepare(&options).unwrap();
    assert_ne!(
        folder.rows("out/a_test.json").into_iter().map(bare).collect::<HashSet<_>>(),
        sets[0][2],
        "another seed, other rows"
    );
}

#[test]
fn a_second_preparation_with_fewer_parts_takes_the_old_ones_back() {
    let folder = Folder::new(&many(100));
    let first = folder.prepare("a", false).unwrap();
    assert_eq!(first.parts.len(), 3);
    let options = Options { overwrite: true, split: "none".parse().unwrap(), ..folder.options("a") };
    let second = prepare(&options).unwrap();
    assert_eq!((second.parts.len(), second.notes.len()), (1, 2), "{:?}", second.notes);
    let registry = folder.json("out/dataset_info.json");
    assert_eq!(registry.as_object().unwrap().keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn training_rows_are_balanced_worded_and_tagged_and_the_others_are_not() {
    let folder = Folder::new(&many(600));
    fs::write(folder.path("instructions.txt"), "请对下联。要工整。\n请对下联。\n请对下联。要有意境。\n").unwrap();
    let options = Options {
        balance: true,
        tag: true,
        instructions: Instructions::read(&folder.path("instructions.txt"), "").unwrap(),
        ..folder.options("a")
    };
    let prepared = prepare(&options).unwrap();
    let [five, seven] = [&prepared.balanced[0], &prepared.balanced[1]];
    assert_eq!((five.en, seven.en, five.after), ("5", "7", seven.after));
    assert!(five.before > seven.before && prepared.themes[0].0 == "写景", "{prepared:?}");
    let rows = folder.rows("out/a.json");
    assert_eq!(prepared.told, rows.iter().filter(|[instruction, ..]| instruction.contains("题材：")).count());
    assert!(prepared.told > 0);
    assert_eq!(rows.len(), five.after + seven.after);
    let usual = rows.iter().filter(|[instruction, ..]| instruction == "请对下联。要工整。").count();
    assert!(2 * usual > rows.len(), "{usual} of {}", rows.len());
    let texts: HashSet<&str> = rows.iter().map(|[instruction, ..]| instruction.as_str()).collect();
    assert!(
        texts.contains("请对下联。题材：写景。") && texts.iter().all(|text| text.starts_with("请对下联。")),
        "{texts:?}"
    );
    for name in ["out/a_valid.json", "out/a_test.json"] {
        let rows = folder.rows(name);
        assert!(!rows.is_empty() && rows.iter().all(|[instruction, ..]| instruction == "请对下联。要工整。"));
        let different: HashSet<_> = rows.iter().collect();
        assert_eq!(different.len(), rows.len(), "no copies");
    }
}

#[test]
fn sides_that_end_as_no_couplet_does_are_an_error_where_the_format_was_guessed() {
    let exchange = |line: &str| line.split_once(' ').map(|(upper, lower)| format!("{lower} {upper}")).unwrap();
    let exchanged = |count: usize, from: usize| {
        let lines = many(count);
        let of = |(at, line): (usize, &str)| if at < from { line.to_owned() } else { exchange(line) };
        lines.lines().enumerate().map(of).collect::<Vec<_>>().join("\n")
    };
    let folder = Folder::new(&exchanged(30, 0));
    let error = folder.prepare("a", false).unwrap_err();
    let want = "30 of 30 rows 上联 does not end in 仄, or 下联 not in 平, read as: a pair a line, parted by blanks";
    assert!(error.to_string().ends_with(want) && error.hint_text(true).is_some(), "{error}");
    assert!(!folder.path("out").exists());
    let advised = |error: &Error| [false, true].map(|zh| error.hint_text(zh).unwrap().contains("--columns"));
    assert_eq!(advised(&error), [false; 2], "lines have no columns");
    let table = Folder::new(&exchanged(30, 0).replace(' ', "\t"));
    assert_eq!(advised(&table.prepare("a", false).unwrap_err()), [true; 2]);
    for strict in [false, true] {
        let folder = Folder::new(&exchanged(50, 20));
        let options = Options { strict, ..folder.options("a") };
        assert!(prepare(&options).is_err(), "also where the rows are dropped for it");
        let said = Layout { format: Some(Format::Lines), ..Layout::default() };
        let prepared = prepare(&Options { layout: said, ..options }).unwrap();
        assert!(prepared.notes[0].en.contains(" of 50 rows 上联 does not end"), "{:?}", prepared.notes);
    }
    assert!(Folder::new(&exchanged(19, 0)).prepare("a", false).is_ok(), "a few tell nothing");
}

/// Couplets that all have one 上联, so that they are one group of near-duplicates.
fn one_group(count: usize) -> String {
    let lines = many(3 * count);
    let lowers = lines.lines().filter_map(|line| line.split_once(' ')).map(|(_, lower)| lower);
    let mut five: Vec<&str> = lowers.filter(|lower| lower.chars().count() == 5).collect();
    five.dedup();
    five.into_iter().take(count).map(|lower| format!("海内存知己 {lower}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_part_that_cannot_be_filled_is_said() {
    let folder = Folder::new(&one_group(100));
    for (split, want) in [
        (
            "rest/10/10",
            "no group of near-duplicates fits into the 10 rows of validation, and none is parted: the largest has 100 of 100 rows",
        ),
        (
            "90/0/10",
            "no group of near-duplicates fits into the 10 rows of the test, and none is parted: the largest has 100 of 100 rows",
        ),
        ("99.5/0.5/0", "the share of validation is less than one row"),
    ] {
        let error = prepare(&Options { split: split.parse().unwrap(), ..folder.options("a") }).unwrap_err();
        assert!(error.to_string() == want && error.hint_text(true).is_some(), "{split}: {error}");
        assert!(!folder.path("out").exists(), "{split}");
    }
    let prepared = folder.prepare("a", false).unwrap();
    assert_eq!((prepared.parts.len(), prepared.notes.len()), (1, 2), "nothing was asked for: {:?}", prepared.notes);

    let others = many(700).lines().skip(670).collect::<Vec<_>>().join("\n");
    let folder = Folder::new(&format!("{}\n{others}", one_group(100)));
    let options = Options { split: "rest/40/0".parse().unwrap(), ..folder.options("a") };
    let prepared = prepare(&options).unwrap();
    assert_eq!(prepared.parts[1].1, 30);
    let want = "validation has 30 of 40 rows: near-duplicates are not parted, the largest group has 100";
    assert_eq!(prepared.notes.iter().map(|note| note.en.as_str()).collect::<Vec<_>>(), [want]);
    let enough = Options { split: "rest/30/0".parse().unwrap(), overwrite: true, ..folder.options("a") };
    assert_eq!(prepare(&enough).unwrap().notes, []);
}

#[test]
fn counts_that_may_be_meant_as_percent_are_said() {
    let folder = Folder::new(&many(200));
    let noted = |split: &str| {
        let options = Options { split: split.parse().unwrap(), overwrite: true, ..folder.options("a") };
        prepare(&options).unwrap().notes.iter().map(|note| note.en.clone()).collect::<Vec<_>>()
    };
    let want = "the numbers of --split add up to 90 and not to 100, so they are counts of rows, and no part has the other \
                110 rows; shares are written 90/5/5 or 90%/5%/5%";
    assert_eq!(noted("80/10"), [want]);
    for split in ["80/20", "80%/20%", "rest/10/10", "150/10/10", "100/50/20", "40/10/10"] {
        assert_eq!(noted(split), [""; 0], "{split}");
    }
}

#[test]
fn more_than_there_is_is_refused() {
    let folder = Folder::new(&many(40));
    for (options, want) in [
        (Options { take: Some(41), ..folder.options("a") }, "--take 41, but 40 rows are left after cleaning"),
        (
            Options { split: "30/10/10".parse().unwrap(), ..folder.options("a") },
            "50 rows are asked for, and 40 are left after cleaning",
        ),
        (Options { split: "0/20/20".parse().unwrap(), ..folder.options("a") }, "no row is left to train on"),
    ] {
        let error = prepare(&options).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(error.hint_text(true).is_some() && !folder.path("out").exists());
    }
}
