//! What the user should know of the data although nothing stops the run.

use crate::{
    config::{DataConfig, OverLength, TemplateName},
    dataset::{
        Origin, Reason,
        encode::Row,
        leaks::Place,
        summary::{FileSummary, OverLong, Warning},
    },
};

/// Thoughts that are not trained although they are there, or that have to be served as they were trained.
pub(super) fn of_thoughts(rows: &[Row], data: &DataConfig) -> Option<Warning> {
    let thinks = |answer: &str| answer.contains("<think>");
    let with_thoughts =
        |row: &&Row| thinks(&row.record.response) || row.record.history.iter().any(|(_, answer)| thinks(answer));
    let rows = rows.iter().filter(with_thoughts).count();
    match (data.template, data.enable_thinking) {
        _ if rows == 0 => None,
        (TemplateName::Qwen3, Some(false)) => Some(Warning {
            en: format!(
                "enable_thinking=false takes the thoughts out of {rows} training rows; enable_thinking=true trains them"
            ),
            zh: format!("enable_thinking=false 会删去 {rows} 行训练数据中的思考；enable_thinking=true 则训练它们"),
        }),
        _ => Some(Warning {
            en: format!(
                "{rows} training rows have thoughts: serve the model with thinking on, as `generate` and `chat` do by themselves"
            ),
            zh: format!("{rows} 行训练数据含有思考：部署时请开启思考模式（`generate` 与 `chat` 会自动如此）"),
        }),
    }
}

/// Rows that are left out, by reason; and rows that are kept although they are odd.
pub(super) fn of_rows(files: &[FileSummary]) -> Vec<Warning> {
    let mut warnings = vec![];
    for file in files {
        let path = &file.path;
        // Of rows that are too long `of_losses` tells.
        for skips in file.reasons.iter().filter(|skips| skips.reason != Reason::TooLong) {
            let ((en, zh), rows, first) = (skips.reason.words(), skips.rows, skips.first.join("; "));
            warnings.push(Warning {
                en: format!("{path}: rows {en}, left out: {rows}, first {first}"),
                zh: format!("{path}：已略去的行（{zh}）：{rows}，前几行：{first}"),
            });
        }
        for (rows, en, zh) in [
            (
                file.empty_responses,
                "with an empty response, which teach to answer nothing",
                "回答为空的行（模型会学到“不作答”）",
            ),
            (file.empty_questions, "that ask nothing: their prompt and query are empty", "提问为空的行"),
            (
                file.no_history,
                "with a history that is no list, which is passed over, as in LlamaFactory",
                "history 不是列表的行（与 LlamaFactory 一样忽略该列）",
            ),
            (
                file.control_rows,
                "with the text of a control token in them, which becomes that token, as in LlamaFactory",
                "文本中含有控制词元的行（与 LlamaFactory 一样会变为该控制词元）",
            ),
        ] {
            if rows > 0 {
                warnings
                    .push(Warning { en: format!("{path}: rows {en}: {rows}"), zh: format!("{path}：{zh}：{rows}") });
            }
        }
        if let (Some(first), Some(warning)) = (file.first_control_row, warnings.last_mut()) {
            let (place, row) = file.place(first);
            warning.en += &format!(", first {place}: row {row}");
            warning.zh += &format!("，首见 {place} 第 {row} 行");
        }
    }
    warnings
}

/// Rows that are too long, and rows that lost their answer.
pub(super) fn of_losses(
    files: &[FileSummary],
    over_long: usize,
    named: &[OverLong],
    data: &DataConfig,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let limit = limit(data);
    let (verb, verb_zh) = match data.over_length {
        OverLength::Drop => ("left out", "已略去"),
        OverLength::Truncate | OverLength::Error => ("cut at the end", "已截断尾部"),
    };
    if over_long > 0 {
        let [rows, rows_zh] = [false, true].map(|chinese| name_rows(named, files, chinese));
        warnings.push(Warning {
            en: format!("rows longer than {limit}, {verb}: {over_long}, first {rows}"),
            zh: format!("超过 {limit} 的行，{verb_zh}：{over_long}，前几行：{rows_zh}"),
        });
    }
    let unlabelled: usize = files.iter().map(|file| file.unlabelled).sum();
    if unlabelled > 0 {
        warnings.push(Warning {
            en: format!("rows whose answer was cut away whole, counted but teaching nothing: {unlabelled}"),
            zh: format!("答案被整段截去的行，计入样本但无可学内容：{unlabelled}"),
        });
    }
    warnings
}

/// Training rows that stand in the data more than once.
pub(super) fn of_repeats(repeats: &[(Origin, Origin)], files: &[FileSummary]) -> Option<Warning> {
    let rows = repeats.len();
    let (row, first) = repeats.first()?;
    let [row, first] = [row, first].map(|origin| Place::of(*origin, files));
    let [(row, row_zh), (first, first_zh)] = [row, first].map(|place| (place.text(false), place.text(true)));
    Some(Warning {
        en: format!("training rows that are the same as an earlier one: {rows}, first {row}, as {first}"),
        zh: format!("与前面某行相同的训练行：{rows}，第一处：{row_zh}，同 {first_zh}"),
    })
}

/// Columns that are named at most, and characters of a name.
const NAMES: usize = 8;
const LONGEST_NAME: usize = 40;

/// Names out of a data file, which may be many, long, and anything.
pub(super) fn names(all: &[String], chinese: bool) -> String {
    let name = |name: &String| {
        let mut short: String =
            name.chars().take(LONGEST_NAME).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if name.chars().nth(LONGEST_NAME).is_some() {
            short.push('…');
        }
        short
    };
    let mut text = all.iter().take(NAMES).map(name).collect::<Vec<_>>().join(if chinese { "、" } else { ", " });
    match all.len().saturating_sub(NAMES) {
        0 => {}
        more if chinese => text += &format!(" 等，另有 {more} 列"),
        more => text += &format!(" and {more} more"),
    }
    text
}

/// The longest row, in words.
pub(super) fn limit(data: &DataConfig) -> String {
    match data.packing {
        false => format!("cutoff_len = {}", data.cutoff_len),
        true => format!("cutoff_len - 1 = {} (packing)", data.longest_row()),
    }
}

pub(super) fn name_rows(rows: &[OverLong], files: &[FileSummary], chinese: bool) -> String {
    let name = |OverLong { origin, tokens }: &OverLong| {
        let place = Place::of(*origin, files).text(chinese);
        if chinese { format!("{place}（{tokens} 个词元）") } else { format!("{place} ({tokens} tokens)") }
    };
    rows.iter().map(name).collect::<Vec<_>>().join(if chinese { "、" } else { ", " })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_columns_are_few_and_short_and_steer_nothing() {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&all(&["id", "出处"]), false), "id, 出处");
        assert_eq!(names(&all(&["id", "出处"]), true), "id、出处");
        assert_eq!(names(&all(&["a\u{1b}[2J\nnote: b"]), false), "a\u{fffd}[2J\u{fffd}note: b");
        assert_eq!(names(&all(&[&"长".repeat(41)]), false), "长".repeat(40) + "…");
        let many: Vec<String> = (0..256).map(|n| n.to_string()).collect();
        assert_eq!(names(&many, false), "0, 1, 2, 3, 4, 5, 6, 7 and 248 more");
        assert_eq!(names(&many[..9], true), "0、1、2、3、4、5、6、7 等，另有 1 列");
    }
}
