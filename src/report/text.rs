//! The two blocks around a run, as text: what will be done, and what came out. Columns by East Asian width.

use super::lang::Lang;
use std::path::PathBuf;
use unicode_width::UnicodeWidthStr;

/// Longest line of a wrapped list, in columns.
const WRAP: usize = 96;

/// What is printed before the first step. The binary fills it.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// Label in English, label in Chinese, value. Lines of a value after its first go below it.
    pub rows: Vec<(&'static str, &'static str, String)>,
    /// What the user should know, in English and in Chinese: ignored keys, truncated rows, defaults of the dialect.
    pub notices: Vec<(String, String)>,
}

impl Header {
    /// A row whose value reads the same in both languages.
    pub fn row(&mut self, en: &'static str, zh: &'static str, value: impl Into<String>) {
        self.rows.push((en, zh, value.into()));
    }

    /// Something the user should know.
    pub fn notice(&mut self, en: impl Into<String>, zh: impl Into<String>) {
        self.notices.push((en.into(), zh.into()));
    }

    pub(super) fn rows(&self, lang: Lang) -> Vec<(&str, &str)> {
        self.rows.iter().map(|(en, zh, value)| (lang.pick(en, zh), value.as_str())).collect()
    }

    /// Every notice, in this language.
    pub fn notices(&self, lang: Lang) -> impl Iterator<Item = &str> {
        self.notices.iter().map(move |(en, zh)| lang.pick(en, zh))
    }
}

/// What is printed after the last step. The binary fills it. Losses in nats per supervised token.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Optimizer steps done.
    pub steps: usize,
    /// Steps that were planned; more than were done where the run stopped early.
    pub total_steps: usize,
    /// Under `load_best_model_at_end`: step, name and value of the metric by which the adapter was chosen.
    pub chosen: Option<(usize, String, f64)>,
    /// Seconds of training.
    pub seconds: f64,
    /// Training samples per second.
    pub samples_per_second: f64,
    /// Held-out loss before training; `None` without held-out rows.
    pub loss_before: Option<f64>,
    /// Held-out loss after training.
    pub loss_after: Option<f64>,
    /// Mean loss of all steps.
    pub train_loss: f64,
    /// Stability, overfitting, generalisation, a line each; empty without held-out rows.
    pub verdict: Vec<String>,
    /// Held-out rows answered before and after training, a line each.
    pub samples: Vec<String>,
    /// Where everything was written.
    pub output_dir: PathBuf,
    /// The files in it worth naming.
    pub files: Vec<String>,
    /// Commands to go on with, one a line.
    pub next: Vec<String>,
}

impl Summary {
    pub(super) fn rows(&self, lang: Lang) -> Vec<(&'static str, String)> {
        let time = lang.duration(self.seconds);
        let (steps, total, rate) = (self.steps, self.total_steps, self.samples_per_second);
        let mut done = match lang {
            Lang::En => format!("{steps} steps in {time}, {rate:.1} samples/s"),
            Lang::Zh => format!("{steps} 步，用时 {time}，{rate:.1} 样本/秒"),
        };
        if steps < total {
            done += &match lang {
                Lang::En => format!("; stopped early after step {steps} of {total} (early_stopping_steps)"),
                Lang::Zh => format!("；在第 {steps}/{total} 步后提前停止（early_stopping_steps）"),
            };
        }
        let mut rows = vec![(lang.pick("done", "完成"), done)];
        if let Some((step, name, value)) = &self.chosen {
            let text = match lang {
                Lang::En => format!("that of step {step}, the best ({name} {value:.4})"),
                Lang::Zh => format!("取自第 {step} 步，验证结果最好（{name} {value:.4}）"),
            };
            rows.push((lang.pick("adapter", "适配器"), text));
        }
        let held_out = match (self.loss_before, self.loss_after) {
            (Some(before), Some(after)) => Some(format!("{before:.4} → {after:.4} ({:+.4})", after - before)),
            (Some(loss), None) | (None, Some(loss)) => Some(format!("{loss:.4}")),
            (None, None) => None,
        };
        rows.extend(held_out.map(|text| (lang.pick("held-out loss", "留出集损失"), text)));
        rows.push((lang.pick("training loss", "训练损失"), format!("{:.4}", self.train_loss)));
        if !self.verdict.is_empty() {
            rows.push((lang.pick("verdict", "结论"), self.verdict.join("\n")));
        }
        if !self.samples.is_empty() {
            rows.push((lang.pick("samples", "示例"), self.samples.join("\n")));
        }
        let files = wrap(&self.files).join("\n");
        rows.push((
            lang.pick("files", "文件"),
            format!("{}\n{files}", self.output_dir.display()).trim_end().to_owned(),
        ));
        if !self.next.is_empty() {
            rows.push((lang.pick("next", "下一步"), self.next.join("\n")));
        }
        rows
    }
}

/// Labels in one column, values in the next; `label` may add invisible colour to a padded label.
pub fn table<V: AsRef<str>>(rows: &[(&str, V)], label: impl Fn(&str) -> String) -> String {
    let width = rows.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        for (i, line) in value.as_ref().split('\n').enumerate() {
            let name = if i == 0 { label(&pad(name, width)) } else { " ".repeat(width) };
            text += format!("{name}  {line}").trim_end();
            text.push('\n');
        }
    }
    text
}

/// `text` of a file for a terminal, which may obey what stands in it: line breaks as `⏎` and a line break, other controls (C0, C1)
/// as a sign or, as bytes are, `<1B>`.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown += "⏎\n",
            '\r' => shown.push('␍'),
            '\t' => shown.push('⇥'),
            c if c.is_control() => shown += &format!("<{:02X}>", u32::from(c)),
            c => shown.push(c),
        }
    }
    shown
}

/// `text`, which quotes files that others wrote, without what a terminal obeys; line breaks stay.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Spaces behind `text` until it is `width` columns wide.
pub fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// Cells below each other by East Asian width, two spaces apart; every line has as many.
pub fn columns(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|at| lines.iter().map(|line| line[at].width()).max().unwrap_or(0)).collect();
    let line = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// `items` two spaces apart, in lines of at most [`WRAP`] columns.
fn wrap(items: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if line.width() + 2 + item.width() <= WRAP => *line += &format!("  {item}"),
            _ => lines.push(item.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_by_width() {
        for (rows, want, why) in [
            (vec![("model", "a"), ("lr", "b")], "model  a\nlr     b\n", "ASCII"),
            (
                vec![("模型", "a"), ("lr", "b"), ("学习率", "c")],
                "模型    a\nlr      b\n学习率  c\n",
                "Chinese is two columns wide",
            ),
            (vec![("data", "a\nb"), ("x", "")], "data  a\n      b\nx\n", "further lines go below the value"),
            (vec![], "", "nothing"),
        ] {
            assert_eq!(table(&rows, str::to_owned), want, "{why}");
        }
    }

    #[test]
    fn nothing_in_a_text_speaks_to_the_terminal() {
        for (text, want, why) in [
            ("海内 a", "海内 a", "nothing to hide"),
            ("a\nb\n", "a⏎\nb⏎\n", "line breaks stay"),
            ("\r\t", "␍⇥", "controls with a sign"),
            ("\x1b[31m\0\x7f", "<1B>[31m<00><7F>", "C0"),
            ("\u{85}\u{9b}2J", "<85><9B>2J", "C1"),
        ] {
            assert_eq!(shown(text), want, "{why}");
        }
        assert!(
            (0..=0x10ffff)
                .filter_map(char::from_u32)
                .all(|c| shown(&c.to_string()).chars().all(|c| c == '\n' || !c.is_control()))
        );
    }

    #[test]
    fn the_summary_says_what_there_is() {
        let held_out = |before, after| {
            let summary = Summary { loss_before: before, loss_after: after, ..Summary::default() };
            let rows = summary.rows(Lang::En);
            rows.into_iter().find(|(label, _)| *label == "held-out loss").map(|(_, text)| text)
        };
        for (before, after, want) in [
            (Some(5.0), Some(3.25), Some("5.0000 → 3.2500 (-1.7500)")),
            (Some(3.0), Some(3.5), Some("3.0000 → 3.5000 (+0.5000)")),
            (None, Some(3.5), Some("3.5000")),
            (None, None, None),
        ] {
            assert_eq!(held_out(before, after).as_deref(), want);
        }
    }

    #[test]
    fn an_early_end_and_the_choice_of_the_adapter_are_said() {
        let rows = |summary: Summary| summary.rows(Lang::En);
        let said =
            |rows: Vec<(&'static str, String)>, label| rows.into_iter().find(|(l, _)| *l == label).map(|(_, t)| t);
        let chosen = Some((2, "eval_loss".to_owned(), 3.5));
        let early = || Summary { steps: 4, total_steps: 20, chosen: chosen.clone(), ..Summary::default() };
        let done = said(rows(early()), "done").unwrap();
        assert!(done.ends_with("; stopped early after step 4 of 20 (early_stopping_steps)"), "{done}");
        assert_eq!(said(rows(early()), "adapter").unwrap(), "that of step 2, the best (eval_loss 3.5000)");
        let whole = || Summary { steps: 20, total_steps: 20, ..Summary::default() };
        assert!(!said(rows(whole()), "done").unwrap().contains("early"));
        assert_eq!(said(rows(whole()), "adapter"), None, "the last: nothing to say");
    }

    #[test]
    fn long_lists_wrap() {
        let lines = wrap(&vec!["模".repeat(20); 5]);
        assert_eq!(lines.len(), 3, "two names of 40 columns fit into a line: {lines:?}");
        assert!(lines.iter().all(|line| line.width() <= WRAP));
    }
}
