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
    let key = in_place_of_a_key(&text.replace('＝', "：")).map(str::len);
    match key.and_then(|end| text[..end].chars().last()) {
        Some(sign @ ('：' | '＝')) => named(err, &sign.to_string(), "="),
        _ => explained(err, text),
    }
}

fn named(err: Error, run: &str, ascii: &str) -> Error {
    err.hint(format!("full-width `{run}`: type `{ascii}`"))
        .hint_zh(format!("此处有全角字符 `{run}`：请改用半角 `{ascii}`"))
}

/// The key of a line of YAML with its `：`, or `＃`: where these stand, YAML sees neither a key nor a comment, but text.
pub fn in_place_of_a_key(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if line.starts_with('＃') {
        return Some("＃");
    }
    let end = line.find('：')?;
    let is_key = |c: char| half(c).unwrap_or(c).is_ascii_alphanumeric() || matches!(c, '_' | '＿');
    (end > 0 && line[..end].trim_end().chars().all(is_key)).then_some(&line[..end + '：'.len_utf8()])
}

/// What stands in a line outside of ASCII quotes and comments: there no full-width character is meant. A quote that is not closed
/// is none.
pub fn outside_of_quotes(line: &str) -> String {
    let (mut bare, mut rest) = (String::new(), line);
    while let Some(at) = rest.find(['"', '\'', '#']) {
        bare.push_str(&rest[..at]);
        let (mark, behind) = rest[at..].split_at(1);
        let closes = |at: &usize| !(mark == "\"" && behind[..*at].ends_with('\\'));
        match behind.match_indices(mark).map(|(at, _)| at).find(closes) {
            _ if mark == "#" => return bare,
            Some(end) => rest = &behind[end + 1..],
            None => rest = behind,
        }
    }
    bare + rest
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
            ("lora_rank ＝ 16 # 秩：８", "lora_rank ＝ 16 "),
            ("a = \"对，联\" ，", "a =  ，"),
            ("a = \"对\\\"，联\" ，", "a =  ，"),
            ("a = '对\\' ，", "a =  ，"),
            ("a = \"out”", "a = out”"),
        ] {
            assert_eq!(outside_of_quotes(line), want, "{line}");
        }
    }
}
