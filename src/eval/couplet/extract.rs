//! Finds 下联 in what a model wrote around it.

use crate::prosody::{is_break, is_quote};

/// The line in a raw answer: thoughts, a heading such as `下联：`, quotes and marks of formatting, a final full stop and
/// explanations are left out. Empty where there is no line.
///
/// Nothing inside the line is changed. `extract(raw) == raw` says that the model wrote the line and nothing else.
pub fn extract(raw: &str) -> &str {
    let answer = after_thoughts(raw);
    let headed = answer.rfind("下联").and_then(|at| after_heading(&answer[at + "下联".len()..]));
    let line = headed.or_else(|| first_line(answer)).unwrap_or_default();
    strip(without_remarks(strip(line)))
}

/// What follows the last `</think>`; nothing where a thought was begun and not ended.
fn after_thoughts(raw: &str) -> &str {
    match raw.rfind("</think>") {
        Some(at) => &raw[at + "</think>".len()..],
        None => raw.find("<think>").map_or(raw, |at| &raw[..at]),
    }
}

/// The first line after a heading (given without `下联` itself); `None` where this is no heading but a sentence.
fn after_heading(rest: &str) -> Option<&str> {
    let rest = rest.trim_start_matches(is_formatting);
    let rest = rest.strip_prefix(['是', '为']).or_else(|| rest.strip_prefix("如下")).unwrap_or(rest);
    let rest = rest.trim_start_matches(is_formatting).strip_prefix(['：', ':'])?;
    first_line(rest)
}

/// The first line that is not a heading itself (`好的，对句如下：`).
fn first_line(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !strip(line).is_empty());
    lines.find(|line| !line.trim_end_matches(is_formatting).ends_with(['：', ':']))
}

/// Cuts what is said about the line on the same line: `（注：…）`, `横批：…`.
fn without_remarks(line: &str) -> &str {
    let remark = ["（", "(", "【", "横批", "——"].into_iter().filter_map(|mark| line.find(mark)).min();
    &line[..remark.unwrap_or(line.len())]
}

fn strip(line: &str) -> &str {
    line.trim_matches(|c| is_formatting(c) || is_quote(c) || is_break(c))
}

fn is_formatting(c: char) -> bool {
    matches!(c, '*' | '#' | '`' | '_' | '>' | '-' | '~') || c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_in_what_stands_around_it() {
        for (raw, want, why) in [
            ("黄河入海流", "黄河入海流", "the line alone"),
            ("黄河入海流。\n", "黄河入海流", "final stop"),
            ("春风，花草香！", "春风，花草香", "inner breaks stay"),
            ("<think>\n\n</think>\n\n黄河入海流", "黄河入海流", "an empty thought"),
            ("<think>下联：河</think>黄河入海流", "黄河入海流", "a thought about it"),
            ("<think>黄河", "", "a thought without end"),
            ("下联：黄河入海流", "黄河入海流", "heading"),
            ("下联:黄河入海流\n\n解释：对仗工整", "黄河入海流", "explanation on another line"),
            ("上联：白日依山尽\n下联：黄河入海流", "黄河入海流", "both lines"),
            ("**下联：** 黄河入海流", "黄河入海流", "bold heading"),
            ("**下联**：黄河入海流", "黄河入海流", "bold heading, colon outside"),
            ("好的，下联如下：\n「黄河入海流」", "黄河入海流", "on the next line, in quotes"),
            ("下联为：“黄河入海流”。", "黄河入海流", "quotes and stop"),
            ("当然可以：\n黄河入海流\n这个下联工整。", "黄河入海流", "a heading without the word; a sentence with it"),
            ("黄河入海流（对仗工整）", "黄河入海流", "remark on the same line"),
            ("黄河入海流 横批：江山如画", "黄河入海流", "横批"),
            ("\n\n", "", "nothing"),
            ("，。", "", "only breaks"),
        ] {
            assert_eq!(extract(raw), want, "{why}");
        }
    }
}
