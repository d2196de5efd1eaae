//! What is wrong with a couplet, where, and what would be right; in Chinese and English.

use super::{Kind, Verdict, kinds};
use crate::prosody::{self, Tail, Tone};
use serde::Serialize;

/// Where a character stands. Counts from 1, as people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The clause; 0 where the line has only one.
    pub clause: usize,
    /// The character within the clause.
    pub at: usize,
}

impl Place {
    /// The place of character number `index` (from 0, breaks not counted) of a line.
    fn of(line: &str, index: usize) -> Self {
        let shape = prosody::shape(line);
        let mut at = index;
        for (clause, len) in shape.iter().enumerate() {
            if at < *len {
                return Self { clause: if shape.len() == 1 { 0 } else { clause + 1 }, at: at + 1 };
            }
            at -= len;
        }
        Self { clause: 0, at: index + 1 }
    }

    fn text(self, chinese: bool) -> String {
        match (self.clause, chinese) {
            (0, true) => format!("第{}字", self.at),
            (0, false) => format!("character {}", self.at),
            (clause, true) => format!("第{clause}句第{}字", self.at),
            (clause, false) => format!("clause {clause} character {}", self.at),
        }
    }
}

/// One thing that is wrong. Places are those of 下联, and `character` is what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants say what their fields are")]
pub enum Fault {
    /// There is no 下联.
    Empty,
    /// Another number of clauses.
    Clauses { upper: usize, lower: usize },
    /// A clause (from 1; 0 where there is only one) of another length.
    Length { clause: usize, upper: usize, lower: usize },
    /// 上联 ends in 平, so no 下联 can be right.
    UpperEnd { character: char },
    /// 下联 does not end in 平.
    LowerEnd { character: char },
    /// A node that does not oppose 上联's.
    Node { place: Place, character: char, wanted: Tone },
    /// 三平尾 or 三仄尾.
    Tail { tail: Tail },
    /// A closed class not answered in kind. Not decisive: the rules let numbers, colours and directions answer each other.
    Kind { place: Place, character: char, asked: char, kind: Kind },
    /// 上联 repeats a character at these two places, 下联 does not.
    RepeatMissing { first: Place, second: Place, asked: char },
    /// 下联 repeats a character at these two places, 上联 does not.
    RepeatAdded { first: Place, second: Place, character: char },
    /// 下联 is 上联.
    Copied,
    /// A character of 上联 stands in 下联.
    Shared { place: Place, character: char },
}

/// The parts of the one-line verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Shape,
    Tones,
    Parallel,
    Repeats,
}

impl Item {
    fn name(self, chinese: bool) -> &'static str {
        match (self, chinese) {
            (Self::Shape, true) => "字数",
            (Self::Shape, false) => "length ",
            (Self::Tones, true) => "平仄",
            (Self::Tones, false) => "tones ",
            (Self::Parallel, true) => "对仗",
            (Self::Parallel, false) => "parallel ",
            (Self::Repeats, true) => "重字",
            (Self::Repeats, false) => "repeats ",
        }
    }
}

impl Fault {
    fn item(&self) -> Item {
        match self {
            Self::Empty | Self::Clauses { .. } | Self::Length { .. } => Item::Shape,
            Self::UpperEnd { .. } | Self::LowerEnd { .. } | Self::Node { .. } | Self::Tail { .. } => Item::Tones,
            Self::Kind { .. } => Item::Parallel,
            Self::RepeatMissing { .. } | Self::RepeatAdded { .. } | Self::Copied | Self::Shared { .. } => Item::Repeats,
        }
    }

    /// The fault in a few words.
    pub fn text(&self, chinese: bool) -> String {
        if chinese { self.chinese() } else { self.english() }
    }

    fn chinese(&self) -> String {
        let at = |place: &Place| place.text(true);
        match self {
            Self::Empty => "无下联".into(),
            Self::Clauses { upper, lower } => format!("上联{upper}句，下联{lower}句"),
            Self::Length { clause: 0, upper, lower } => format!("上联{upper}字，下联{lower}字"),
            Self::Length { clause, upper, lower } => format!("第{clause}句上联{upper}字，下联{lower}字"),
            Self::UpperEnd { character } => format!("上联末字「{character}」应仄"),
            Self::LowerEnd { character } => format!("末字「{character}」应平"),
            Self::Node { place, character, wanted } => format!("{}「{character}」应{}", at(place), wanted.name()),
            Self::Tail { tail: Tail::ThreeLevel } => "三平尾".into(),
            Self::Tail { tail: Tail::ThreeOblique } => "三仄尾".into(),
            Self::Kind { place, character, asked, kind } => {
                format!("{}「{character}」应以{}对「{asked}」", at(place), kind.name(true))
            }
            Self::RepeatMissing { first, second, asked } => {
                format!("{}与{}应同字，如上联「{asked}」", at(first), at(second))
            }
            Self::RepeatAdded { first, second, character } => {
                format!("{}与{}同为「{character}」，上联不重", at(first), at(second))
            }
            Self::Copied => "下联照抄上联".into(),
            Self::Shared { place, character } => format!("{}「{character}」已见于上联", at(place)),
        }
    }

    fn english(&self) -> String {
        let at = |place: &Place| place.text(false);
        match self {
            Self::Empty => "no second line".into(),
            Self::Clauses { upper, lower } => format!("clause count {lower}, should be {upper}"),
            Self::Length { clause: 0, upper, lower } => format!("{lower}, should be {upper}"),
            Self::Length { clause, upper, lower } => format!("clause {clause}: {lower}, should be {upper}"),
            Self::UpperEnd { character } => format!("the first line's last 「{character}」 should be oblique"),
            Self::LowerEnd { character } => format!("last 「{character}」 should be level"),
            Self::Node { place, character, wanted } => {
                let wanted = if *wanted == Tone::Level { "level" } else { "oblique" };
                format!("{} 「{character}」 should be {wanted}", at(place))
            }
            Self::Tail { tail: Tail::ThreeLevel } => "three level tones at the end".into(),
            Self::Tail { tail: Tail::ThreeOblique } => "three oblique tones at the end".into(),
            Self::Kind { place, character, asked, kind } => {
                format!("{} 「{character}」 should be {} to answer 「{asked}」", at(place), kind.name(false))
            }
            Self::RepeatMissing { first, second, asked } => {
                format!("{} and {} should be one character, as 「{asked}」 above", at(first), at(second))
            }
            Self::RepeatAdded { first, second, character } => {
                format!("{} and {} are both 「{character}」, which the first line does not ask", at(first), at(second))
            }
            Self::Copied => "a copy of the first line".into(),
            Self::Shared { place, character } => format!("{} 「{character}」 is in the first line", at(place)),
        }
    }
}

/// Everything wrong with a couplet whose `verdict` is known but for its faults.
pub(super) fn faults(upper: &str, lower: &str, verdict: &Verdict) -> Vec<Fault> {
    if prosody::shape(lower).is_empty() {
        return vec![Fault::Empty];
    }
    let mut faults = shape_faults(upper, lower);
    faults.extend(tone_faults(upper, lower, verdict));
    if verdict.shape && !verdict.copied {
        faults.extend(kind_faults(upper, lower));
    }
    faults.extend(repeat_faults(upper, lower, verdict));
    faults
}

fn shape_faults(upper: &str, lower: &str) -> Vec<Fault> {
    let (a, b) = (prosody::shape(upper), prosody::shape(lower));
    if a.len() != b.len() {
        return vec![Fault::Clauses { upper: a.len(), lower: b.len() }];
    }
    let differing = (0..a.len()).filter(|at| a[*at] != b[*at]);
    let clause = |at| if a.len() == 1 { 0 } else { at + 1 };
    differing.map(|at| Fault::Length { clause: clause(at), upper: a[at], lower: b[at] }).collect()
}

fn tone_faults(upper: &str, lower: &str, verdict: &Verdict) -> Vec<Fault> {
    let system = verdict.system();
    let last = |line| prosody::characters(line).last();
    let mut faults = vec![];
    if let Some(character) = last(upper).filter(|c| !prosody::tone(*c, system).may_be(Tone::Oblique)) {
        faults.push(Fault::UpperEnd { character });
    }
    let clauses = prosody::shape(lower).len();
    for pair in prosody::node_pairs(upper, lower) {
        let wanted = prosody::tone(pair.upper, system).opposite();
        if let (Some(false), Some(wanted)) = (pair.opposed(system), wanted) {
            let place = Place { clause: if clauses == 1 { 0 } else { pair.clause + 1 }, at: pair.at + 1 };
            faults.push(Fault::Node { place, character: pair.lower, wanted });
        }
    }
    if let Some(character) = last(lower).filter(|c| !prosody::tone(*c, system).may_be(Tone::Level)) {
        // Said once, as the end, whether or not it is a node that fails too.
        let end = Place::of(lower, prosody::characters(lower).count() - 1);
        faults.retain(|fault| !matches!(fault, Fault::Node { place, .. } if *place == end));
        faults.push(Fault::LowerEnd { character });
    }
    faults.extend(verdict.tail.map(|tail| Fault::Tail { tail }));
    faults
}

fn kind_faults(upper: &str, lower: &str) -> Vec<Fault> {
    let (a, b): (Vec<char>, Vec<char>) = (prosody::characters(upper).collect(), prosody::characters(lower).collect());
    let fault = |(at, kind)| Fault::Kind { place: Place::of(lower, at), character: b[at], asked: a[at], kind };
    // A doubling that is not answered is a repeat, and said as one.
    kinds::unanswered(&a, &b).filter(|(_, kind)| *kind != Kind::Doubled).map(fault).collect()
}

fn repeat_faults(upper: &str, lower: &str, verdict: &Verdict) -> Vec<Fault> {
    if verdict.copied {
        return vec![Fault::Copied];
    }
    let (a, b): (Vec<char>, Vec<char>) = (prosody::characters(upper).collect(), prosody::characters(lower).collect());
    let place = |at| Place::of(lower, at);
    let mut faults = vec![];
    if verdict.shape && verdict.repeat == Some(false) {
        let (x, y) = (prosody::repeat_classes(upper), prosody::repeat_classes(lower));
        let at = (0..x.len()).find(|at| x[*at] != y[*at]).expect("the patterns differ");
        faults.push(if x[at] < at {
            Fault::RepeatMissing { first: place(x[at]), second: place(at), asked: a[at] }
        } else {
            Fault::RepeatAdded { first: place(y[at]), second: place(at), character: b[at] }
        });
    }
    let shared = (0..b.len()).filter(|at| a.contains(&b[*at]) && !b[..*at].contains(&b[*at]));
    faults.extend(shared.map(|at| Fault::Shared { place: place(at), character: b[at] }));
    faults
}

/// The verdict in one line: four items, each with its mark and the first reason.
pub(super) fn line(verdict: &Verdict, chinese: bool) -> String {
    let shape = mark(verdict, chinese, Item::Shape, verdict.shape);
    if !verdict.shape {
        return shape; // nothing else can be compared
    }
    let tones = mark(verdict, chinese, Item::Tones, verdict.tones().all());
    let repeats = mark(verdict, chinese, Item::Repeats, verdict.repeat != Some(false) && verdict.no_shared);
    format!("{shape} {tones} {}{:.2} {repeats}", Item::Parallel.name(chinese), verdict.parallel)
}

/// An item's name and mark; where it is bad, its first fault and how many there are.
fn mark(verdict: &Verdict, chinese: bool, item: Item, good: bool) -> String {
    let name = item.name(chinese);
    if good {
        return format!("{name}✓");
    }
    let reasons: Vec<String> =
        verdict.faults.iter().filter(|fault| fault.item() == item).map(|fault| fault.text(chinese)).collect();
    let system = if item == Item::Tones { verdict.system().name(chinese) } else { "" };
    let comma = match (system, chinese) {
        ("", _) => "",
        (_, true) => "，",
        (_, false) => ", ",
    };
    let more = match (reasons.len(), chinese) {
        (0 | 1, _) => String::new(),
        (n, true) => format!("，等{n}处"),
        (n, false) => format!(", and {} more", n - 1),
    };
    format!("{name}✗({system}{comma}{}{more})", reasons.first().map_or("", String::as_str))
}

#[cfg(test)]
mod tests {
    use super::super::judge;

    #[test]
    fn the_verdict_says_where_and_what_would_be_right() {
        for (upper, lower, zh, en) in [
            (
                "白日依山尽",
                "绿树入海流",
                "字数✓ 平仄✗(平水，第2字「树」应平) 对仗",
                "length ✓ tones ✗(Pingshui, character 2 「树」 should be level) parallel ",
            ),
            ("白日依山尽", "黄河入海", "字数✗(上联5字，下联4字)", "length ✗(4, should be 5)"),
            ("白日，依山尽", "黄河", "字数✗(上联2句，下联1句)", "length ✗(clause count 1, should be 2)"),
            ("白日，依山尽", "黄河，入海", "字数✗(第2句上联3字，下联2字)", "length ✗(clause 2: 2, should be 3)"),
            ("白日依山尽", "", "字数✗(无下联)", "length ✗(no second line)"),
            ("白日依山尽", "黄河入海口", "字数✓ 平仄✗(平水，末字「口」应平，等2处)", "tones ✗(Pingshui, last 「口」"),
            (
                "白日依山尽",
                "绿水入河口",
                "(平水，第2字「水」应平，等3处)",
                "character 2 「水」 should be level, and 2 more)",
            ),
            (
                "白日依山天",
                "黄河入海流",
                "(平水，上联末字「天」应仄，等2处)",
                "the first line's last 「天」 should be oblique",
            ),
        ] {
            let verdict = judge(upper, lower);
            assert!(verdict.line(true).contains(zh), "{} misses {zh}", verdict.line(true));
            assert!(verdict.line(false).contains(en), "{} misses {en}", verdict.line(false));
        }
    }

    #[test]
    fn reasons_in_a_few_words() {
        for (upper, lower, zh) in [
            ("白日依山尽", "白河入海流", "第1字「白」已见于上联"),
            ("白日，依山尽", "黄河，入黄流", "第1句第1字与第2句第2字同为「黄」，上联不重"),
            ("山山依水尽", "黄河入海流", "第1字与第2字应同字，如上联「山」"),
            ("白日依山尽", "白日依山尽", "下联照抄上联"),
            ("三日依山尽", "黄河入海流", "第1字「黄」应以数目对「三」"),
            ("白日依山尽", "黄河天天天", "三平尾"),
        ] {
            let verdict = judge(upper, lower);
            let texts: Vec<String> = verdict.faults.iter().map(|fault| fault.text(true)).collect();
            assert!(texts.iter().any(|text| text == zh), "{texts:?} misses {zh}");
            assert!(verdict.faults.iter().all(|fault| !fault.text(false).is_empty()));
        }
    }
}
