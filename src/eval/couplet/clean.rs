//! Makes an 上联 as people type it into one as the model has learned them, and says what was changed.

use crate::prosody::{self, System, Tone, is_break, is_quote};

/// How the training data writes the break between clauses. The two are different tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comma {
    /// `，` (U+FF0C).
    Full,
    /// `,`.
    Half,
}

impl Comma {
    fn character(self) -> char {
        match self {
            Self::Full => '，',
            Self::Half => ',',
        }
    }
}

/// What was changed, or is odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// `上联：` in front was removed.
    Heading,
    /// Quotes were removed.
    Quotes,
    /// Punctuation at the end was removed.
    FinalStop,
    /// Spaces were removed, or became the break between clauses.
    Spaces,
    /// Breaks were written as in the training data.
    Breaks(char),
    /// Characters of traditional script; left as they are, but the training data is simplified.
    Traditional(String),
    /// The line ends in 平; an 上联 ends in 仄.
    EndsLevel(char),
}

impl Note {
    /// The note in a few words.
    pub fn text(&self, chinese: bool) -> String {
        match (self, chinese) {
            (Self::Heading, true) => "去掉了「上联：」".into(),
            (Self::Heading, false) => "removed the heading 上联：".into(),
            (Self::Quotes, true) => "去掉了引号".into(),
            (Self::Quotes, false) => "removed quotes".into(),
            (Self::FinalStop, true) => "去掉了句末标点".into(),
            (Self::FinalStop, false) => "removed the final punctuation".into(),
            (Self::Spaces, true) => "处理了空格".into(),
            (Self::Spaces, false) => "replaced or removed spaces".into(),
            (Self::Breaks(comma), true) => format!("断句统一为「{comma}」，与训练数据一致"),
            (Self::Breaks(comma), false) => format!("breaks written as 「{comma}」, as in the training data"),
            (Self::Traditional(found), true) => format!("含繁体字「{found}」，训练数据为简体"),
            (Self::Traditional(found), false) => format!("traditional characters 「{found}」; the data is simplified"),
            (Self::EndsLevel(last), true) => format!("上联末字「{last}」为平声，通常应仄"),
            (Self::EndsLevel(last), false) => {
                format!("the last character 「{last}」 is level; a first line ends oblique")
            }
        }
    }
}

/// A cleaned 上联 and what was done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanUpper {
    /// The line to put before the model.
    pub text: String,
    /// What was changed or is odd, in that order.
    pub notes: Vec<Note>,
}

/// Cleans an 上联. Changes only what stands between and around the characters, never a character.
///
/// `、` stays, as it does in the data; other marks inside the line become `comma`.
pub fn clean_upper(typed: &str, comma: Comma) -> CleanUpper {
    let mut notes = vec![];
    let mut note = |changed: bool, what: Note| {
        if changed {
            notes.push(what);
        }
    };
    let line = typed.trim();
    let body = without_heading(line);
    note(body != line, Note::Heading);
    let unquoted: String = body.chars().filter(|c| !is_quote(*c)).collect();
    note(unquoted != body, Note::Quotes);
    let ended = unquoted.trim_matches(is_break);
    note(ended != unquoted.trim(), Note::FinalStop);
    let spaced = without_spaces(ended, comma);
    note(spaced != ended, Note::Spaces);
    let text = with_comma(&spaced, comma);
    note(text != spaced, Note::Breaks(comma.character()));
    let traditional: String = text.chars().filter(|c| prosody::is_traditional(*c)).collect();
    note(!traditional.is_empty(), Note::Traditional(traditional));
    if let Some(last) = prosody::characters(&text).last() {
        let level = System::ALL.iter().all(|system| prosody::tone(last, *system) == Tone::Level);
        note(level, Note::EndsLevel(last));
    }
    CleanUpper { text, notes }
}

fn without_heading(line: &str) -> &str {
    let rest = line.strip_prefix("上联").and_then(|rest| rest.trim_start().strip_prefix(['：', ':']));
    rest.map_or(line, str::trim_start)
}

/// Spaces between single characters, or beside other breaks, mean nothing; between longer pieces they part clauses.
fn without_spaces(line: &str, comma: Comma) -> String {
    let spaced_out = line.split_whitespace().all(|piece| piece.chars().filter(|c| !is_break(*c)).count() <= 1);
    let other_breaks = line.chars().any(|c| is_break(c) && !c.is_whitespace());
    let between = if spaced_out || other_breaks { String::new() } else { comma.character().to_string() };
    line.split_whitespace().collect::<Vec<_>>().join(&between)
}

/// Each run of breaks as one comma, but for `、`.
fn with_comma(line: &str, comma: Comma) -> String {
    let mut text = String::with_capacity(line.len());
    let mut after_break = false;
    for c in line.chars() {
        if !is_break(c) {
            text.push(c);
        } else if !after_break {
            text.push(if c == '、' { c } else { comma.character() });
        }
        after_break = is_break(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upper_line_is_cleaned_and_the_change_said() {
        use Note::*;
        for (typed, comma, want, notes) in [
            ("白日依山尽", Comma::Full, "白日依山尽", vec![]),
            ("上联：白日依山尽。", Comma::Full, "白日依山尽", vec![Heading, FinalStop]),
            ("“白日依山尽”\n", Comma::Full, "白日依山尽", vec![Quotes]),
            ("上联: 「白日依山尽！」", Comma::Full, "白日依山尽", vec![Heading, Quotes, FinalStop]),
            ("白 日 依 山 尽", Comma::Full, "白日依山尽", vec![Spaces]),
            ("国泰民安 风调雨顺", Comma::Full, "国泰民安，风调雨顺", vec![Spaces]),
            ("国泰民安, 风调雨顺", Comma::Full, "国泰民安，风调雨顺", vec![Spaces, Breaks('，')]),
            ("国泰民安，风调雨顺", Comma::Half, "国泰民安,风调雨顺", vec![Breaks(',')]),
            ("国泰、民安；风调雨顺", Comma::Full, "国泰、民安，风调雨顺", vec![Breaks('，')]),
            ("國泰民安風調雨順", Comma::Full, "國泰民安風調雨順", vec![Traditional("國風調順".into())]),
            ("春眠不觉晓春天", Comma::Full, "春眠不觉晓春天", vec![EndsLevel('天')]),
            ("", Comma::Full, "", vec![]),
        ] {
            let got = clean_upper(typed, comma);
            assert_eq!((got.text.as_str(), &got.notes), (want, &notes), "{typed}");
            assert!(notes.iter().all(|note| note.text(true) != note.text(false)));
            assert_eq!(clean_upper(&got.text, comma).text, want, "cleaning twice changes nothing more");
        }
    }
}
