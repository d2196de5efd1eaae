//! A side as it stands in a file → the side as it is trained. Nothing is changed but what belongs to the notation of the file,
//! unless it is asked for.

use super::simplify::simplify;
use crate::prosody::is_mark;

/// What is asked for beyond the notation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tidy {
    /// 繁体 → 简体.
    pub simplify: bool,
    /// Full-width punctuation.
    pub full_width: bool,
}

/// A tidied side, and what was taken off it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tidied {
    pub text: String,
    /// `上联：` or `下联：` stood before it.
    pub had_heading: bool,
    /// It was written with a blank between any two characters.
    pub was_spaced: bool,
}

impl Tidy {
    /// The side without blanks around it, its heading, and blanks between single characters; then as asked for.
    pub(super) fn apply(self, side: &str) -> Tidied {
        let side = side.trim();
        let body = without_heading(side);
        let was_spaced = is_spaced(body);
        let mut text: String = if was_spaced { body.split_whitespace().collect() } else { body.to_owned() };
        if self.simplify {
            text = simplify(&text);
        }
        if self.full_width {
            text = full_width(&text);
        }
        Tidied { text, had_heading: body.len() < side.len(), was_spaced }
    }
}

fn without_heading(side: &str) -> &str {
    let rest = ["上联", "下联", "上聯", "下聯"].into_iter().find_map(|heading| side.strip_prefix(heading));
    rest.and_then(|rest| rest.trim_start().strip_prefix(['：', ':'])).map_or(side, str::trim_start)
}

/// Blanks between single characters: a way of cutting text into tokens.
fn is_spaced(side: &str) -> bool {
    let mut pieces = side.split_whitespace();
    side.contains(char::is_whitespace) && pieces.all(|piece| piece.chars().nth(1).is_none())
}

/// Half-width marks as their full-width counterparts; blanks beside marks are dropped, others become `，`.
fn full_width(side: &str) -> String {
    let mut text = String::with_capacity(side.len());
    let mut blank = false;
    for c in side.chars() {
        if c.is_whitespace() {
            blank = true;
            continue;
        }
        if blank && !is_mark(c) && text.chars().last().is_some_and(|last| !is_mark(last)) {
            text.push('，');
        }
        blank = false;
        text.push(match c {
            ',' => '，',
            ';' => '；',
            ':' => '：',
            '!' => '！',
            '?' => '？',
            '.' => '。',
            '(' => '（',
            ')' => '）',
            other => other,
        });
    }
    text
}

/// A Chinese character: the blocks of unified and compatibility ideographs, and 〇.
pub(super) fn is_han(c: char) -> bool {
    matches!(c, '〇' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_notation_is_taken_off() {
        let plain = Tidy::default();
        for (side, want, heading, spaced, why) in [
            ("海内存知己", "海内存知己", false, false, "nothing to do"),
            ("  海内存知己\u{3000}", "海内存知己", false, false, "around it"),
            ("晚 风 摇 树 , 天 ", "晚风摇树,天", false, true, "cut into characters"),
            ("春风 得意", "春风 得意", false, false, "a blank between clauses stays"),
            ("上联：海内存知己", "海内存知己", true, false, "a heading"),
            ("下联 : 海 内", "海内", true, true, "both"),
            ("上联难对", "上联难对", false, false, "no heading"),
            ("國泰,民安", "國泰,民安", false, false, "neither script nor punctuation"),
            ("", "", false, false, "nothing"),
        ] {
            let got = plain.apply(side);
            assert_eq!((got.text.as_str(), got.had_heading, got.was_spaced), (want, heading, spaced), "{why}");
        }
    }

    #[test]
    fn punctuation_and_script_change_when_asked() {
        let asked = Tidy { simplify: true, full_width: true };
        for (side, want) in [
            ("國泰,民安;風調:雨順!", "国泰，民安；风调：雨顺！"),
            ("春风 得意", "春风，得意"),
            ("春风, 得意 ，秋", "春风，得意，秋"),
            ("书山、学海", "书山、学海"),
        ] {
            assert_eq!(asked.apply(side).text, want);
            assert_eq!(asked.apply(want).text, want, "twice changes nothing more");
        }
    }

    #[test]
    fn chinese_characters_are_told_from_others() {
        for (c, han, mark) in [
            ('天', true, false),
            ('〇', true, false),
            ('𫓧', true, false),
            ('，', false, true),
            ('《', false, true),
            (' ', false, true),
            ('a', false, false),
            ('□', false, false),
            ('の', false, false),
            ('1', false, false),
        ] {
            assert_eq!((is_han(c), is_mark(c)), (han, mark), "{c}");
        }
    }
}
