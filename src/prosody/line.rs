//! The make of a line: clauses, rhythm nodes, repeated characters, and what 下联 must sound like.
//!
//! Positions count from 0 and count characters, never breaks.

use super::tones::{System, Tone, tone};
use serde::Serialize;

/// Whether a character separates clauses and is not one of the line's own: punctuation (full or half width) or a space.
pub fn is_break(c: char) -> bool {
    matches!(c, '，' | ',' | '、' | '；' | ';' | '：' | ':' | '。' | '！' | '!' | '？' | '?') || c.is_whitespace()
}

/// Whether a character is a quotation mark or a bracket of titles: it parts nothing.
pub fn is_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '“' | '”' | '‘' | '’' | '「' | '」' | '『' | '』' | '《' | '》' | '〈' | '〉' | '【' | '】'
    )
}

/// Whether a character is punctuation of any kind or a blank: what stands in a line without being a character of it. Boxes and
/// the like are characters, for they stand for lost ones.
pub fn is_mark(c: char) -> bool {
    // Ideographs first: nearly all characters are.
    if matches!(c, '\u{4e00}'..='\u{9fff}') {
        return false;
    }
    is_break(c)
        || is_quote(c)
        || matches!(
            c,
            '.' | '…'
                | '—'
                | '－'
                | '-'
                | '·'
                | '•'
                | '～'
                | '~'
                | '（'
                | '）'
                | '('
                | ')'
                | '〔'
                | '〕'
                | '['
                | ']'
        )
}

/// The clauses of a line, without breaks. None is empty.
pub fn clauses(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_break).filter(|clause| !clause.is_empty())
}

/// The characters of a line, without breaks; marks that part nothing are among them.
pub fn characters(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !is_break(*c))
}

/// Characters in each clause: two lines of a couplet have the same shape.
pub fn shape(text: &str) -> Vec<usize> {
    clauses(text).map(|clause| clause.chars().count()).collect()
}

/// The characters of a line as data are compared by: without marks of any kind, quotes and 《》 neither. ([`characters`] is what a
/// place in a line is counted by.)
pub fn bare(text: &str) -> impl Iterator<Item = char> + Clone {
    text.chars().filter(|c| !is_mark(*c))
}

/// [`bare`] characters in each clause that has any.
pub fn bare_shape(text: &str) -> Vec<usize> {
    clauses(text).map(|clause| bare(clause).count()).filter(|len| *len > 0).collect()
}

/// The rhythm nodes of a clause of `len` characters: every second character, and a single last one (二字而节).
pub fn nodes(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |at| at % 2 == 1 || at + 1 == len)
}

/// For each character, where the same character stood first: two lines repeat alike when these are equal.
pub fn repeat_classes(text: &str) -> Vec<usize> {
    let characters: Vec<char> = characters(text).collect();
    characters.iter().map(|c| characters.iter().position(|other| other == c).expect("it is there")).collect()
}

/// Three equal tones at the end of a clause: 三平尾 or 三仄尾.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// 三平尾.
    ThreeLevel,
    /// 三仄尾.
    ThreeOblique,
}

/// The fault at the end of a clause of five or more characters, if all three tones are certain.
pub fn tail(clause: &str, system: System) -> Option<Tail> {
    let mut last = clause.chars().rev().map(|c| tone(c, system));
    let three = [last.next()?, last.next()?, last.next()?];
    if last.count() < 2 {
        return None; // a clause of four has room for nothing else
    }
    match three {
        [Tone::Level, Tone::Level, Tone::Level] => Some(Tail::ThreeLevel),
        [Tone::Oblique, Tone::Oblique, Tone::Oblique] => Some(Tail::ThreeOblique),
        _ => None,
    }
}

/// What each character of 下联 must sound like to face `upper` in `system`: the opposite tone at every node, 平 at the
/// end. One entry a character; `None` where any tone will do.
///
/// A line that satisfies them passes the judge's tone rules, if `upper` ends in 仄 as it should.
pub fn demands(upper: &str, system: System) -> Vec<Option<Tone>> {
    let mut demands = vec![];
    for clause in clauses(upper) {
        let characters: Vec<char> = clause.chars().collect();
        let first = demands.len();
        demands.resize(first + characters.len(), None);
        for at in nodes(characters.len()) {
            demands[first + at] = tone(characters[at], system).opposite();
        }
    }
    if let Some(last) = demands.last_mut() {
        *last = Some(Tone::Level);
    }
    demands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_of_every_kind_part_clauses_and_are_not_counted() {
        for (text, want, why) in [
            ("春风得意", vec![4], "one clause"),
            ("春风，得意人", vec![2, 3], "full width"),
            ("春风,得意", vec![2, 2], "half width"),
            ("春、夏；秋;冬：雪:月。花！酒？", vec![1; 8], "all marks"),
            ("春风 得意　人", vec![2, 2, 1], "spaces of both widths"),
            ("，春风，，得意。", vec![2, 2], "no empty clause"),
            ("", vec![], "nothing"),
        ] {
            assert_eq!(shape(text), want, "{why}");
            assert_eq!(characters(text).count(), want.iter().sum::<usize>(), "{why}");
        }
    }

    #[test]
    fn marks_are_no_characters_and_what_stands_for_one_is() {
        let marks = "，,、；;：:。.！!？? \u{3000}\t\"'“”‘’「」『』《》〈〉【】…—－-·•～~（）()〔〕[]";
        assert!(marks.chars().all(is_mark));
        assert!("天〇𫓧aの1□○×*😀".chars().all(|c| !is_mark(c)));
        assert!(marks.chars().filter(|c| is_break(*c) || is_quote(*c)).count() > 20, "breaks and quotes among them");
    }

    #[test]
    fn bare_characters_are_counted_without_marks() {
        for (text, want, why) in [
            ("读《离骚》", vec![3], "a title"),
            ("“春风”，得意——人", vec![2, 3], "quotes and a dash"),
            ("《》，春", vec![1], "a clause of marks is none"),
            ("春□ 1", vec![2, 1], "what stands for a character is one"),
            ("……", vec![], "nothing"),
        ] {
            assert_eq!(bare_shape(text), want, "{why}");
            assert_eq!(bare(text).count(), want.iter().sum::<usize>(), "{why}");
        }
    }

    #[test]
    fn nodes_are_even_positions_and_a_single_last_one() {
        for (len, want) in [
            (0, vec![]),
            (1, vec![0]),
            (2, vec![1]),
            (3, vec![1, 2]),
            (4, vec![1, 3]),
            (5, vec![1, 3, 4]),
            (7, vec![1, 3, 5, 6]),
        ] {
            assert_eq!(nodes(len).collect::<Vec<_>>(), want, "{len} characters");
        }
    }

    #[test]
    fn repeats_compare_by_place() {
        for (upper, lower, same, why) in [
            ("山山水水", "花花草草", true, "doubled alike"),
            ("山山水水", "花草花草", false, "other places"),
            ("天连碧水", "水绕青山", true, "no repeat on either side"),
            ("望江楼，望江流", "印月井，印月影", true, "across clauses, breaks not counted"),
        ] {
            assert_eq!(repeat_classes(upper) == repeat_classes(lower), same, "{why}");
        }
    }

    #[test]
    fn tails_of_three_equal_tones() {
        for (clause, want, why) in [
            ("天天天山天", Some(Tail::ThreeLevel), "平平平"),
            ("天天地地地", Some(Tail::ThreeOblique), "仄仄仄"),
            ("白日依山尽", None, "平平仄"),
            ("天天看天天", None, "看 may be 仄"),
            ("山天天天", None, "four characters"),
            ("天", None, "one"),
        ] {
            assert_eq!(tail(clause, System::Pingshui), want, "{why}");
        }
    }

    #[test]
    fn demands_oppose_the_nodes_and_end_level() {
        use Tone::{Level, Oblique};
        for (upper, want, why) in [
            ("白日依山尽", vec![None, Some(Level), None, Some(Oblique), Some(Level)], "仄 平 仄 at the nodes"),
            ("看看天", vec![None, None, Some(Level)], "看 is free; 平 at the end even against a wrong 上联"),
            ("地，地", vec![Some(Level), Some(Level)], "a single character is a node"),
            ("", vec![], "nothing"),
        ] {
            assert_eq!(demands(upper, System::Pingshui), want, "{why}");
        }
        let lower = "黄河入海流".chars().map(|c| tone(c, System::Pingshui));
        assert!(lower.zip(demands("白日依山尽", System::Pingshui)).all(|(tone, demand)| tone.satisfies(demand)));
    }
}
