//! The instruction of a data set: what training put before its texts, and generation puts there by itself.

use serde::Serialize;
use std::{cmp::Reverse, collections::HashMap};

/// An instruction and how many of the training rows have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// May be empty.
    pub text: String,
    /// Rows with exactly this text.
    pub rows: usize,
    /// All rows have it.
    pub shared: bool,
}

/// The most frequent of `texts`; of equally frequent ones the first. `None` when there is none.
pub fn most_frequent<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Instruction> {
    let mut counts = HashMap::new();
    let mut all = 0;
    for (i, text) in texts.enumerate() {
        counts.entry(text).or_insert((0, Reverse(i))).0 += 1;
        all += 1;
    }
    let (text, (rows, _)) = counts.into_iter().max_by_key(|&(_, rank)| rank)?;
    Some(Instruction { text: text.into(), rows, shared: rows == all })
}

/// The instruction of more than half of `rows`, each (instruction, input), where these have an input too. `None`: rows of this
/// data are asked with the text itself, as in a set of questions without inputs.
pub fn before<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Option<Instruction> {
    let found = most_frequent(rows.clone().map(|(instruction, _)| instruction))?;
    let before = |(instruction, input): &(&str, &str)| *instruction == found.text && !input.is_empty();
    let with_input = rows.clone().filter(before).count();
    (2 * with_input > rows.count()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_text_and_the_first_of_equals() {
        let of = |texts: &[&str]| most_frequent(texts.iter().copied()).map(|i| (i.text, i.rows, i.shared));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["b", "a", "b"]), Some(("b".into(), 2, false)));
        assert_eq!(of(&["c", "b", "a"]), Some(("c".into(), 1, false)));
        assert_eq!(of(&["", ""]), Some(("".into(), 2, true)));
    }

    #[test]
    fn an_instruction_is_spoken_if_most_rows_have_it_before_an_input() {
        for (rows, want, why) in [
            (&[][..], None, "nothing"),
            (&[("a", "x"), ("a", "y")], Some(("a", 2, true)), "one for all"),
            (&[("a", "x"), ("a", "y"), ("b", "z")], Some(("a", 2, false)), "one for most"),
            (&[("a", "x"), ("b", "y")], None, "no more than half"),
            (&[("a", ""), ("b", ""), ("c", "")], None, "questions"),
            (&[("a", ""), ("a", "")], None, "one question, again and again"),
            (&[("a", "x"), ("a", "y"), ("a", "")], Some(("a", 3, true)), "most of them with an input"),
        ] {
            let got = before(rows.iter().copied());
            assert_eq!(got.as_ref().map(|i| (i.text.as_str(), i.rows, i.shared)), want, "{why}");
        }
    }
}
