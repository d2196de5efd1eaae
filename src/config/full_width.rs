//! Characters that Chinese input methods put where ASCII was meant: `１`, `：`, `，`, `“`. A key or a number with one of them in it
//! looks right and cannot be read, so that the error says which it is.

use crate::error::Error;

/// The ASCII character that was probably meant.
fn half(c: char) -> Option<char> {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0), // the whole of ASCII stands there again
        '\u{3000}' => Some(' '),
        '“' | '”' => Some('"'),
        '‘' | '’' => Some('\''),
        '、' => Some(','),
        '。' => Some('.'),
        '【' => Some('['),
        '】' => Some(']'),
        '−' => Some('-'),
        _ => None,
    }
}

/// Characters that are named at most.
const SHOWN: usize = 8;

/// `err` with the hint that says which characters of `text` are full-width and what to type; as it is where there are none.
pub fn explained(err: Error, text: &str) -> Error {
    let run = text.chars().skip_while(|c| half(*c).is_none()).take_while(|c| half(*c).is_some());
    let run: String = run.take(SHOWN).collect();
    let ascii: String = run.chars().filter_map(half).collect();
    match ascii.trim() {
        "" if run.is_empty() => err,
        "" => err
            .hint("a full-width blank (U+3000): type a plain one")
            .hint_zh("此处有全角空格（U+3000）：请改用半角空格"),
        ascii => named(err, run.trim(), ascii),
    }
}

/// The same of `key：value` or `key＝value`, where `=` was meant.
pub fn explained_sign(err: Error, text: &str) -> Error {
    match sign(text) {
        Some(sign) => named(err, &sign.to_string(), "="),
        None => explained(err, text),
    }
}

/// The same where a parser stopped at byte `at` of a text: of the characters that touch it, outside of quotes. Elsewhere they may
/// be meant.
pub fn explained_at(err: Error, text: &str, at: usize) -> Error {
    let (before, line) = line_at(text, at);
    let bare = outside_of_quotes(line);
    let (left, right) = bare.split_at(bare.floor_char_boundary(at - before.len()));
    let is_full = |c| half(c).is_some();
    let start = left.trim_end_matches(is_full).len();
    let end = bare.len() - right.trim_start_matches(is_full).len();
    explained(err, &bare[start..end])
}

/// The same for TOML, whose parser stops behind a key that has no `=`, and at the beginning of a value: also of those in the place
/// of a key, a sign, a bracket or a `#`, and in a number.
pub fn explained_in_toml(err: Error, text: &str, at: usize) -> Error {
    let (before, line) = line_at(text, at);
    if ends_in_long_quotes(before) {
        return err;
    }
    let bare = outside_of_quotes(line);
    let key = bare.split_once('=').map_or("", |(key, _)| key);
    let mark = if bare.trim_start().starts_with(['【', '［', '＃']) { &bare } else { "" };
    let value = &bare[bare.floor_char_boundary(at - before.len())..];
    let number = if is_number(value) { value } else { "" };
    match [key, mark, number].into_iter().find(|place| place.contains(|c| half(c).is_some())) {
        _ if sign(&bare).is_some() => explained_sign(err, &bare),
        Some(place) => explained(err, place),
        None => explained_at(err, text, at),
    }
}

/// Whether a value was to be a number or a truth value, and no text without quotes.
fn is_number(value: &str) -> bool {
    let ascii = |c: char| half(c).unwrap_or(c);
    let begins = value.chars().next().is_some_and(|c| ascii(c).is_ascii_digit() || "+-.".contains(ascii(c)));
    (begins || value.starts_with("true") || value.starts_with("false")) && value.chars().all(|c| ascii(c).is_ascii())
}

fn named(err: Error, run: &str, ascii: &str) -> Error {
    err.hint(format!("full-width `{run}`: type `{ascii}`"))
        .hint_zh(format!("此处有全角字符 `{run}`：请改用半角 `{ascii}`"))
}

/// The key of a line of YAML with its `：`, or `＃`: where these stand, YAML sees neither a key nor a comment, but text.
pub fn in_place_of_a_key(line: &str) -> Option<&str> {
    match line.trim_start() {
        comment if comment.starts_with('＃') => Some("＃"),
        line => key_with_sign(line, &['：']),
    }
}

/// The full-width sign behind a key.
fn sign(line: &str) -> Option<char> {
    key_with_sign(line.trim_start(), &['：', '＝'])?.chars().next_back()
}

/// What `line` begins with, if it is a key and one of `signs`.
fn key_with_sign<'a>(line: &'a str, signs: &[char]) -> Option<&'a str> {
    let (end, sign) = line.match_indices(signs).next()?;
    let is_key = |c: char| half(c).unwrap_or(c).is_ascii_alphanumeric() || matches!(c, '_' | '＿');
    (end > 0 && line[..end].trim_end().chars().all(is_key)).then_some(&line[..end + sign.len()])
}

/// What stands before the line of byte `at`, and the line.
fn line_at(text: &str, at: usize) -> (&str, &str) {
    let start = text[..text.floor_char_boundary(at)].rfind('\n').map_or(0, |end| end + 1);
    let (before, behind) = text.split_at(start);
    (before, behind.lines().next().unwrap_or_default())
}

/// Whether a text of TOML goes on inside of three quotes.
fn ends_in_long_quotes(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = ["\"\"\"", "'''"].iter().filter_map(|quotes| rest.find(quotes)).min() {
        let (quotes, behind) = rest[at..].split_at(3);
        match behind.find(quotes) {
            Some(end) => rest = &behind[end + 3..],
            None => return true,
        }
    }
    false
}

/// A line with blanks, byte for byte, for what stands in ASCII quotes and comments: there no full-width character is meant. A quote
/// that is not closed goes on to the end of the line, but for one full-width quote there, which was to close it.
fn outside_of_quotes(line: &str) -> String {
    let (mut bare, mut rest) = (String::new(), line);
    while let Some(at) = rest.find(['"', '\'', '#']) {
        bare.push_str(&rest[..at]);
        let (mark, behind) = rest[at..].split_at(1);
        let closes = |at: &usize| !(mark == "\"" && behind[..*at].ends_with('\\'));
        let end = match behind.match_indices(mark).map(|(at, _)| at).find(closes) {
            _ if mark == "#" => rest.len(),
            Some(end) => at + 1 + end + 1,
            None => rest.len() - closing_quote(behind).len(),
        };
        bare.push_str(&" ".repeat(end - at));
        rest = &rest[end..];
    }
    bare + rest
}

/// The full-width quote that a text ends with, if it is the only one in it.
fn closing_quote(text: &str) -> &str {
    let quotes = ['“', '”', '‘', '’', '＂', '＇'];
    match text.match_indices(quotes).collect::<Vec<_>>().as_slice() {
        [(at, quote)] if text[*at..].trim_end() == *quote => &text[*at..],
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_are_full_width_are_named() {
        for (text, want, why) in [
            ("１６", Some("full-width `１６`: type `16`"), "digits"),
            ("lora_rank：8", Some("full-width `：`: type `:`"), "a colon"),
            ("q_proj，v_proj、o_proj", Some("full-width `，`: type `,`"), "the first of two"),
            ("a\u{3000}b", Some("a full-width blank (U+3000): type a plain one"), "a blank"),
            ("＝\u{3000}5", Some("full-width `＝`: type `=`"), "a blank behind another"),
            ("对联 16", None, "characters that ASCII lacks"),
        ] {
            let err = explained(Error::input("x"), text);
            assert_eq!(err.hint_text(false), want, "{why}");
            assert_eq!(err.hint_text(true).is_some_and(|zh| zh.contains("全角")), want.is_some(), "{why}");
        }
    }

    #[test]
    fn a_sign_is_an_equals_sign_behind_a_key() {
        for (text, want) in [
            ("lora_rank：16", Some("full-width `：`: type `=`")),
            ("lora_rank ＝ 16", Some("full-width `＝`: type `=`")),
            ("a = １６：", Some("full-width `１６：`: type `16:`")),
            ("lora_rank", None),
            ("  lora_rank：16", Some("full-width `：`: type `=`")),
            ("\tlora_rank ＝ 16", Some("full-width `＝`: type `=`")),
            ("   lora_rank：16", Some("full-width `：`: type `=`")),
            (" ＃ 秩", Some("full-width `＃`: type `#`")),
        ] {
            assert_eq!(explained_sign(Error::input("x"), text).hint_text(false), want, "{text}");
        }
    }

    #[test]
    fn a_key_of_yaml_is_told_from_text() {
        for (line, want) in [
            ("  lora_rank：16", Some("lora_rank：")),
            ("lora＿rank ： 16", Some("lora＿rank ：")),
            ("＃ 秩", Some("＃")),
            ("default_system: 说：好", None),
            ("对联：好", None),
            ("：", None),
        ] {
            assert_eq!(in_place_of_a_key(line), want, "{line}");
        }
    }

    #[test]
    fn quotes_and_comments_are_left_out() {
        for (line, want) in [
            ("lora_rank ＝ 16 # 秩：８", "lora_rank ＝ 16"),
            ("a = \"对，联\" ，", "a = ，"),
            ("a = \"对\\\"，联\" ，", "a = ，"),
            ("a = '对\\' ，", "a = ，"),
            ("a = \"out” ", "a = ”"),
            ("a = \"说“好”，对", "a ="),
        ] {
            let bare = outside_of_quotes(line);
            assert_eq!(bare.len(), line.len(), "{line}");
            assert_eq!(bare.split_whitespace().collect::<Vec<_>>().join(" "), want, "{line}");
        }
    }

    #[test]
    fn three_quotes_are_open_until_three_close_them() {
        for (text, want) in [
            ("a = \"\"\"\n", true),
            ("a = \"\"\"x\"\"\"\n", false),
            ("a = '''\"\"\"\n", true),
            ("a = '''\"\"\"'''\n", false),
            ("a = \"x\"\n", false),
        ] {
            assert_eq!(ends_in_long_quotes(text), want, "{text}");
        }
    }
}
