//! The numbers of the data as they are read on a terminal.

use super::{Couplets, Fed, Shape, SplitStats, Stats};
use crate::commands::header::thousands;
use couplet_train::{
    config::OverLength,
    dataset::{
        leaks::{Leaks, Place},
        near::Likeness,
        stats::{Bin, Lengths},
        summary::FileSummary,
    },
    report::{
        Lang,
        text::{columns, harmless, shown, table},
    },
};
use unicode_width::UnicodeWidthStr;

/// Rows of one kind that are named here; JSON has them all.
const NAMED: usize = 5;
/// Shapes of couplets that are named.
const SHAPES: usize = 8;
/// Columns of the longest bar.
const BAR: usize = 40;

/// All of it.
pub fn render(stats: &Stats, lang: Lang) -> String {
    let mut rows: Vec<(&str, String)> = vec![];
    rows.push((
        lang.pick("files", "文件"),
        stats.files.iter().map(|file| of_file(file, stats.over_length, lang)).collect::<Vec<_>>().join("\n"),
    ));
    rows.push((lang.pick("lengths", "长度"), lengths(&stats.splits, lang)));
    for split in &stats.splits {
        rows.push((lang.pick(split.name, zh_of(split.name)), bars(&split.histogram)));
    }
    rows.push((lang.pick("too long", "超长"), too_long(stats, lang)));
    let prefix = shown(&stats.prefix.text);
    let prefix = prefix.strip_suffix('\n').unwrap_or(&prefix);
    rows.push((
        lang.pick("prefix", "共同前缀"),
        match lang {
            Lang::En => format!("{} tokens are common to all training rows:\n{prefix}", stats.prefix.tokens),
            Lang::Zh => format!("全部训练行以相同的 {} 个词元开头：\n{prefix}", stats.prefix.tokens),
        },
    ));
    rows.push((lang.pick("an epoch", "每轮"), fed(&stats.feed, lang)));
    rows.push((lang.pick("repeats", "重复"), repeats(stats, lang)));
    rows.extend(stats.instruction.as_ref().map(|instruction| {
        let (n, of) = (thousands(instruction.rows), thousands(stats.splits.first().map_or(0, |split| split.rows)));
        let text = shown(&instruction.text);
        let text = match lang {
            Lang::En => format!("{text} ({n} of {of} rows)"),
            Lang::Zh => format!("{text}（{of} 行中的 {n} 行）"),
        };
        (lang.pick("instruction", "指令"), text)
    }));
    rows.push((lang.pick("couplets", "对联"), couplets(&stats.couplets, lang)));
    let leaks: Vec<String> = stats.leaks.iter().map(|leaks| of_leaks(leaks, lang)).collect();
    if leaks.is_empty() {
        rows.push((lang.pick("leaks", "泄漏"), lang.pick("no row is held out", "没有留出数据").to_owned()));
    } else {
        rows.push((lang.pick("leaks", "泄漏"), leaks.join("\n")));
    }
    harmless(&table(&rows, str::to_owned)) // names of files and data sets
}

fn zh_of(split: &str) -> &'static str {
    match split {
        "training" => "训练",
        "held out" => "验证",
        _ => "测试",
    }
}

/// Read, kept and lost rows of a file.
fn of_file(file: &FileSummary, over_length: OverLength, lang: Lang) -> String {
    let (rows, read, kept) = (thousands(file.rows), thousands(file.read), thousands(file.kept));
    let mut text = match lang {
        Lang::En => format!("{} ({}): {read} of {rows} rows read, {kept} kept", file.name, file.path),
        Lang::Zh => format!("{}（{}）：共 {rows} 行，读取 {read} 行，保留 {kept} 行", file.name, file.path),
    };
    let (cut, cut_zh) = if over_length == OverLength::Error { ("too long", "超长") } else { ("cut", "截断") };
    for skips in &file.reasons {
        let ((en, zh), rows) = (skips.reason.words(), thousands(skips.rows));
        text += &match lang {
            Lang::En => format!(", {rows} left out: {en}"),
            Lang::Zh => format!("，略去 {rows} 行：{zh}"),
        };
    }
    for (count, en, zh) in [
        (file.truncated, cut, cut_zh),
        (file.unlabelled, "without anything to learn", "无可学内容"),
        (file.empty_responses, "with an empty answer", "回答为空"),
        (file.empty_questions, "with an empty question", "提问为空"),
        (file.no_history, "with a history that is no list", "history 不是列表"),
        (file.control_rows, "with the text of a control token", "含有控制词元"),
    ] {
        if count > 0 {
            text += &match lang {
                Lang::En => format!(", {} {en}", thousands(count)),
                Lang::Zh => format!("，{zh} {} 行", thousands(count)),
            };
        }
    }
    text
}

fn lengths(splits: &[SplitStats], lang: Lang) -> String {
    let head = ["", "", "tokens", "min", "mean", "50 %", "90 %", "95 %", "99 %", "max"];
    let head_zh = ["", "", "词元", "最短", "平均", "50 %", "90 %", "95 %", "99 %", "最长"];
    let mut lines = vec![head.iter().zip(head_zh).map(|(en, zh)| lang.pick(en, zh).to_owned()).collect::<Vec<_>>()];
    for split in splits {
        let rows = [
            (lang.pick("said", "输入"), &split.prompt),
            (lang.pick("answered", "回答"), &split.response),
            (lang.pick("whole row", "整行"), &split.whole),
        ];
        for (i, (what, of)) in rows.into_iter().enumerate() {
            let name = match (i, lang) {
                (0, Lang::En) => format!("{}, {} rows", split.name, thousands(split.rows)),
                (0, Lang::Zh) => format!("{} {} 行", zh_of(split.name), thousands(split.rows)),
                _ => String::new(),
            };
            lines.push([vec![name, what.to_owned()], numbers(of)].concat());
        }
    }
    columns(&to_the_right(lines, 2)).trim_end().to_owned()
}

/// The cells of column `first` and those behind it end below each other.
fn to_the_right(mut lines: Vec<Vec<String>>, first: usize) -> Vec<Vec<String>> {
    for column in first..lines.first().map_or(0, Vec::len) {
        let width = lines.iter().map(|line| line[column].width()).max().unwrap_or(0);
        for line in &mut lines {
            line[column] = " ".repeat(width - line[column].width()) + &line[column];
        }
    }
    lines
}

fn numbers(of: &Lengths) -> Vec<String> {
    let Lengths { tokens, min, mean, p50, p90, p95, p99, max } = of;
    let rest = [p50, p90, p95, p99, max].map(|n| thousands(*n));
    [vec![thousands(*tokens), thousands(*min), format!("{mean:.1}")], rest.to_vec()].concat()
}

/// A line a bin; rows that are there always show.
fn bars(bins: &[Bin]) -> String {
    let most = bins.iter().map(|bin| bin.rows).max().unwrap_or(0).max(1);
    let line = |bin: &Bin| {
        let lengths = if bin.from == bin.to { bin.from.to_string() } else { format!("{}–{}", bin.from, bin.to) };
        vec![lengths, "█".repeat((bin.rows * BAR).div_ceil(most)), thousands(bin.rows)]
    };
    columns(&to_the_right(bins.iter().map(line).collect(), 2)).trim_end().to_owned()
}

fn too_long(stats: &Stats, lang: Lang) -> String {
    let (rows, limit) = (&stats.over_long, stats.longest_row);
    if rows.is_empty() {
        return match lang {
            Lang::En => format!("no row has more than {limit} tokens"),
            Lang::Zh => format!("没有超过 {limit} 个词元的行"),
        };
    }
    let (en, zh) = match stats.over_length {
        OverLength::Error => ("training refuses them", "训练时会报错"),
        OverLength::Drop => ("training leaves them out", "训练时会略去"),
        OverLength::Truncate => ("training cuts them", "训练时会截断"),
    };
    let n = thousands(rows.len());
    let mut lines = vec![match lang {
        Lang::En => format!("{n} rows of more than {limit} tokens; {en} (over_length)"),
        Lang::Zh => format!("超过 {limit} 个词元的有 {n} 行，{zh}（over_length）"),
    }];
    lines.extend(rows.iter().take(NAMED).map(|row| match lang {
        Lang::En => format!("{}: {} tokens", row.place.text(false), thousands(row.tokens)),
        Lang::Zh => format!("{}：{} 个词元", row.place.text(true), thousands(row.tokens)),
    }));
    lines.extend(more(rows.len(), lang));
    lines.join("\n")
}

/// That only the first were named.
fn more(rows: usize, lang: Lang) -> Option<String> {
    (rows > NAMED).then(|| match lang {
        Lang::En => format!("… {} more, all of them with --json", thousands(rows - NAMED)),
        Lang::Zh => format!("……另有 {}，用 --json 列出全部", thousands(rows - NAMED)),
    })
}

fn fed(fed: &Fed, lang: Lang) -> String {
    let Fed { samples_a_step, batch, feed, .. } = fed;
    let percent = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
    let (tokens, trained, rows) = (thousands(feed.tokens), thousands(fed.trained), thousands(feed.fed));
    let share = percent(feed.fed, feed.tokens);
    let (padded, waste) = (thousands(feed.padded), percent(feed.padded.saturating_sub(feed.tokens), feed.padded));
    let (off, off_zh) = if fed.share_prefix { ("", "") } else { (" (shared_prefix off)", "（不共享前缀）") };
    match lang {
        Lang::En => format!(
            "{tokens} tokens, {trained} of them trained\n\
             {rows} go through the model, {share:.1} %{off}: {samples_a_step} samples a step, a common prefix once\n\
             {padded} as LlamaFactory pads batches of {batch}, {waste:.1} % of it padding"
        ),
        Lang::Zh => format!(
            "{tokens} 个词元，其中训练 {trained} 个\n\
             实际计算 {rows} 个，占 {share:.1} %{off_zh}：每步 {samples_a_step} 条，共同前缀只算一次\n\
             按 LlamaFactory 以 {batch} 条为批填充则为 {padded} 个，其中 {waste:.1} % 为填充"
        ),
    }
}

fn repeats(stats: &Stats, lang: Lang) -> String {
    let doubles = thousands(stats.doubles.len());
    let (questions, alike) = (thousands(stats.contradictions.len()), &stats.alike);
    let of_them = thousands(stats.contradictions.iter().map(Vec::len).sum());
    let (rows, groups, largest) = (thousands(alike.rows), thousands(alike.groups), thousands(alike.largest));
    let mut lines = vec![match lang {
        Lang::En => format!("{doubles} training rows are the same as an earlier one"),
        Lang::Zh => format!("{doubles} 行训练数据与之前的某行完全相同"),
    }];
    lines.extend(stats.doubles.iter().take(NAMED).map(|double| like(&double.row, &double.first, lang)));
    lines.extend(more(stats.doubles.len(), lang));
    lines.push(match lang {
        Lang::En => format!("{questions} questions have several answers, in {of_them} rows"),
        Lang::Zh => format!("{questions} 个问题有不止一种回答，共 {of_them} 行"),
    });
    let named = |rows: &Vec<Place>| {
        rows.iter().map(|place| place.text(lang == Lang::Zh)).collect::<Vec<_>>().join(lang.pick(", ", "、"))
    };
    lines.extend(stats.contradictions.iter().take(NAMED).map(|rows| format!("  {}", named(rows))));
    lines.extend(more(stats.contradictions.len(), lang));
    lines.push(match lang {
        Lang::En => format!(
            "{rows} rows have a line that another has too, or all but one character of it; {groups} groups, the largest of {largest}"
        ),
        Lang::Zh => format!("{rows} 行有一句与其他行相同或仅差一字；共 {groups} 组，最大一组 {largest} 行"),
    });
    lines.join("\n")
}

fn like(row: &Place, other: &Place, lang: Lang) -> String {
    let [row, other] = [row, other].map(|place| place.text(lang == Lang::Zh));
    format!("  {row} = {other}")
}

fn couplets(couplets: &Couplets, lang: Lang) -> String {
    if couplets.rows == 0 {
        return lang.pick("no row has two sides that are made alike", "没有上下联字数相同的行").to_owned();
    }
    let named =
        couplets.shapes.iter().take(SHAPES).map(|shape| format!("{} {}", name(shape, lang), thousands(shape.rows)));
    let mut text = named.collect::<Vec<_>>().join(lang.pick(", ", "，"));
    let others = couplets.shapes.iter().skip(SHAPES);
    if others.len() > 0 {
        let kinds = others.len();
        let rows = thousands(others.map(|shape| shape.rows).sum());
        text += &match lang {
            Lang::En => format!(", {kinds} other shapes {rows}"),
            Lang::Zh => format!("，其他 {kinds} 种 {rows}"),
        };
    }
    text
}

/// 五言, or the characters of its clauses.
fn name(shape: &Shape, lang: Lang) -> String {
    const DIGITS: [&str; 10] = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九"];
    match (shape.characters.as_slice(), lang) {
        ([n @ 1..=9], Lang::Zh) => format!("{}言", DIGITS[*n]),
        ([n], Lang::Zh) => format!("{n} 言"),
        ([n @ (5 | 7)], Lang::En) => format!("{n} characters ({}言)", DIGITS[*n]),
        ([n], Lang::En) => format!("{n} characters"),
        (clauses, _) => clauses.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
    }
}

/// How many, and the first of every kind.
fn of_leaks(leaks: &Leaks, lang: Lang) -> String {
    let mut lines = vec![leaks.counts(lang == Lang::Zh)];
    for likeness in Likeness::ALL {
        let of_kind = leaks.found.iter().filter(|found| found.likeness == likeness);
        lines.extend(of_kind.clone().take(NAMED).map(|found| {
            let what = match likeness {
                Likeness::Equal => lang.pick("equal", "相同"),
                Likeness::OneCharacter => lang.pick("one character", "差一字"),
                Likeness::SharedLine => lang.pick("a line", "一句相同"),
                Likeness::NearLine => lang.pick("a line but one character", "一句差一字"),
            };
            format!("{}  ({what})", like(&found.held_out, &found.train, lang))
        }));
        lines.extend(more(of_kind.count(), lang));
    }
    lines.join("\n")
}
