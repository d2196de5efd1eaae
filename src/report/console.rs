//! What the user sees while a run goes on: header, progress, evaluations, summary. The only place of the library that prints.
//!
//! Lines go to the writer given at construction. On a terminal indicatif draws a bar on stderr between them.
//! Nothing here can end a run: a closed terminal or a full pipe loses lines and no more.

use super::{
    lang::Lang,
    look::{Look, Progress, Verbosity},
    pace::Pace,
    text::{Header, Summary, harmless, table},
};
use crate::{
    config::COUPLET_PASS,
    error::{Error, Result},
    trainer::event::{
        EvalPhase, Evaluated, Event, Logged, Observer, Sample, SaveFailed, Saved, Step, Trouble, Written,
    },
};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{io::Write, time::Instant};

/// Seconds between two lines of progress where there is no bar.
const BETWEEN: f64 = 5.0;
/// Bytes of a file that takes long enough to say how far it is.
const LARGE: u64 = 100 << 20;
/// Characters of a text that are shown.
const SHOWN: usize = 32;

/// Prints a run. See the module.
pub struct Console<'a> {
    out: Box<dyn Write + 'a>,
    look: Look,
    bar: Option<ProgressBar>,
    /// The file being downloaded, and how much of it the last line told.
    download: Option<(String, u64)>,
    /// The work in progress, when it began, and at which second of it the last line was told.
    work: Option<(String, Instant, f64)>,
    pace: Pace,
    /// The step of the last evaluation told.
    evaluated_at: Option<usize>,
}

impl<'a> Console<'a> {
    /// `out`: stderr, or a buffer in tests.
    pub fn new(out: impl Write + 'a, look: Look) -> Self {
        Self {
            out: Box::new(out),
            look,
            bar: None,
            download: None,
            work: None,
            pace: Pace::default(),
            evaluated_at: None,
        }
    }

    /// How it looks.
    pub fn look(&self) -> Look {
        self.look
    }

    /// What will be done, then what the user should know.
    pub fn header(&mut self, header: &Header) {
        let lang = self.look.lang;
        let rows: Vec<_> = header.rows(lang).into_iter().map(|(label, value)| (label, harmless(value))).collect();
        let mut text = table(&rows, |label| self.paint(BOLD, label));
        for notice in header.notices(lang) {
            text += &format!("{}{}\n", self.paint(YELLOW, lang.pick("note: ", "注意：")), harmless(notice));
        }
        self.say(&text);
    }

    /// What came out.
    pub fn summary(&mut self, summary: &Summary) {
        self.end_bar();
        let rows = summary.rows(self.look.lang).into_iter().map(|(label, value)| (label, harmless(&value)));
        let text = table(&rows.collect::<Vec<_>>(), |label| self.paint(BOLD, label));
        self.say(&format!("\n{text}"));
    }

    /// One line.
    pub fn line(&mut self, text: &str) {
        self.say(&format!("{text}\n"));
    }

    /// One line that only `-v` shows.
    pub fn detail(&mut self, text: &str) {
        if self.look.verbosity == Verbosity::Verbose {
            self.line(text);
        }
    }

    /// An error and its hint; also when quiet.
    pub fn error(&mut self, err: &Error) {
        self.end_bar();
        let lang = self.look.lang;
        let fact = harmless(&err.to_string());
        let mut text = format!("{}{fact}\n", self.paint(RED, lang.pick("error: ", "错误：")));
        if let Some(hint) = err.hint_text(lang == Lang::Zh) {
            text += &format!("{}{}\n", self.paint(BOLD, lang.pick("hint: ", "提示：")), harmless(hint));
        }
        self.put(&text);
    }

    /// `done` of `total` bytes of a file are here: a bar on a terminal, elsewhere a line when a file starts, and for a large one
    /// a line every tenth of it.
    pub fn download(&mut self, file: &str, done: u64, total: u64) {
        self.transfer(self.look.lang.pick("downloading", "正在下载"), file, done, total);
    }

    /// Another process downloads `file`, and is waited for.
    pub fn download_waits(&mut self, file: &str) {
        self.end_bar();
        self.line(&match self.look.lang {
            Lang::En => format!("waiting for another process that is downloading {file}"),
            Lang::Zh => format!("另一个进程正在下载 {file}，等待其完成"),
        });
    }

    /// An attempt to get `file` failed; the next begins in `seconds`.
    pub fn download_again(&mut self, file: &str, reason: &str, seconds: f64) {
        self.end_bar();
        self.download = None;
        self.line(&match (self.look.lang, seconds > 0.0) {
            (Lang::En, true) => format!("{file}: {reason}; trying again in {seconds:.0} s"),
            (Lang::Zh, true) => format!("{file}：{reason}；{seconds:.0} 秒后重试"),
            (Lang::En, false) => format!("{file}: {reason}; going on with it"),
            (Lang::Zh, false) => format!("{file}：{reason}；立即续传"),
        });
    }

    /// `done` of `total` bytes of weights are in the folder `dir`; shown as a download is.
    pub fn export(&mut self, dir: &str, done: u64, total: u64) {
        self.transfer(self.look.lang.pick("writing", "正在写入"), dir, done, total);
    }

    /// `done` of `total` pieces of some work: a bar on a terminal, elsewhere a line every few seconds, both with the time
    /// left; then a line with the time it took.
    pub fn progress(&mut self, what: &str, done: usize, total: usize) {
        if self.work.as_ref().is_none_or(|(name, ..)| name != what) {
            self.end_bar();
            self.work = Some((what.to_owned(), Instant::now(), 0.0));
            if self.wants_bar() {
                let eta = self.look.lang.pick("ETA", "剩余");
                let bar = bar(total as u64, &format!("{{prefix}} [{{bar:24}}] {{pos}}/{{len}}  {eta} {{eta}}"));
                bar.set_prefix(what.to_owned());
                self.bar = Some(bar);
            }
        }
        self.bar.iter().for_each(|bar| bar.set_position(done as u64));
        let Some((_, began, told)) = &mut self.work else { return };
        let elapsed = began.elapsed().as_secs_f64();
        let is_due = done >= total || (self.bar.is_none() && elapsed - *told >= BETWEEN);
        if is_due {
            *told = elapsed;
        }
        if done >= total {
            self.end_bar();
            self.work = None;
        }
        if is_due && self.look.progress != Progress::None {
            let left = elapsed * total.saturating_sub(done) as f64 / done.max(1) as f64;
            self.line(&match done >= total {
                true => format!("{what} {done}/{total}  {}", self.look.lang.duration(elapsed)),
                false => format!(
                    "{what} {done}/{total}  {} {}",
                    self.look.lang.pick("ETA", "剩余"),
                    self.look.lang.duration(left)
                ),
            });
        }
    }

    fn transfer(&mut self, verb: &str, file: &str, done: u64, total: u64) {
        if self.download.as_ref().is_none_or(|(name, _)| name != file) {
            self.end_bar();
            self.download = Some((file.to_owned(), done));
            match self.wants_bar() {
                true => {
                    self.bar = Some(bar(total, "{prefix} [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta}"))
                }
                false => self.line(&format!("{verb} {file} ({})", HumanBytes(total))),
            }
            self.bar.iter().for_each(|bar| bar.set_prefix(file.to_owned()));
        }
        self.bar.iter().for_each(|bar| bar.set_position(done));
        if done >= total {
            self.end_bar();
            self.download = None;
        } else if let Some((_, told)) = &mut self.download
            && self.bar.is_none()
            && total >= LARGE
            && done - *told >= total / 10
        {
            *told = done;
            let (done, total, share) = (HumanBytes(done), HumanBytes(total), done as f64 / total as f64 * 100.0);
            self.line(&format!("{verb} {file} {share:.0}% ({done}/{total})"));
        }
    }

    fn step(&mut self, e: &Step) {
        self.pace.step(e);
        if let Some(bar) = &self.bar {
            let text = self.numbers(e.step, self.pace.loss, e.lr, self.pace.total_steps);
            bar.set_position(e.step as u64);
            bar.set_message(text);
        }
    }

    fn logged(&mut self, e: &Logged) {
        let verbose = self.look.verbosity == Verbosity::Verbose;
        let wanted = match self.look.progress {
            Progress::Auto => self.bar.is_none() || verbose,
            Progress::Plain => true,
            Progress::None => false,
        };
        if wanted {
            let lang = self.look.lang;
            let width = e.total_steps.to_string().len();
            let mut text = format!(
                "{} {:>width$}/{}  {} {:.2}  {}",
                lang.pick("step", "步"),
                e.step,
                e.total_steps,
                lang.pick("epoch", "轮次"),
                e.epoch,
                self.numbers(e.step, e.loss, e.lr, e.total_steps),
            );
            if verbose {
                let tokens = lang.pick("tokens/s", "词元/秒");
                text += &format!("  grad_norm {:.3}  {:.0} {tokens}", e.grad_norm, self.pace.tokens_per_second());
            }
            self.line(&text);
        }
        self.pace.start_window();
    }

    /// `loss 5.123  lr 2.0e-4  38.2 samples/s  ETA 0:00:53`
    fn numbers(&self, step: usize, loss: f64, lr: f64, total_steps: usize) -> String {
        let lang = self.look.lang;
        let eta = self.pace.seconds_per_step() * total_steps.saturating_sub(step) as f64;
        format!(
            "{} {loss:.3}  {} {lr:.1e}  {:.1} {}  {} {}",
            lang.pick("loss", "损失"),
            lang.pick("lr", "学习率"),
            self.pace.samples_per_second(),
            lang.pick("samples/s", "样本/秒"),
            lang.pick("ETA", "剩余"),
            lang.duration(eta),
        )
    }

    fn saved(&mut self, e: &Saved) {
        let (step, path) = (e.step, e.path.display());
        self.detail(&match self.look.lang {
            Lang::En => format!("checkpoint of step {step} saved: {path}"),
            Lang::Zh => format!("第 {step} 步的检查点已保存：{path}"),
        });
    }

    fn save_failed(&mut self, e: &SaveFailed) {
        let (step, reason) = (e.step, &e.reason);
        self.line(&match self.look.lang {
            Lang::En => format!("warning: the checkpoint of step {step} was not saved: {reason}"),
            Lang::Zh => format!("警告：第 {step} 步的检查点未能保存：{reason}"),
        });
    }

    fn trouble(&mut self, e: &Trouble) {
        let what = &e.what;
        self.line(&match self.look.lang {
            Lang::En => format!("warning: {what}; the run goes on"),
            Lang::Zh => format!("警告：{what}；运行继续"),
        });
    }

    fn evaluated(&mut self, e: &Evaluated) {
        let Evaluated { step, total_steps, loss, loss_per_token, samples, runtime, .. } = e;
        // The final evaluation is often that of the last step, told a moment ago.
        if e.when == EvalPhase::Final && self.evaluated_at == Some(*step) {
            return;
        }
        self.evaluated_at = Some(*step);
        let text = match self.look.lang {
            Lang::En => {
                let when = match e.when {
                    EvalPhase::Before => "before training".to_owned(),
                    EvalPhase::During => format!("at step {step}/{total_steps}"),
                    EvalPhase::Final => "after training".to_owned(),
                };
                format!(
                    "held-out loss {when}: {loss:.4} ({loss_per_token:.4} per token, {samples} samples, {runtime:.1} s)"
                )
            }
            Lang::Zh => {
                let when = match e.when {
                    EvalPhase::Before => "训练前".to_owned(),
                    EvalPhase::During => format!("第 {step}/{total_steps} 步"),
                    EvalPhase::Final => "训练后".to_owned(),
                };
                format!("{when}留出集损失：{loss:.4}（按词元 {loss_per_token:.4}，{samples} 条，{runtime:.1} 秒）")
            }
        };
        self.line(&text);
        for (name, value) in e.metrics().into_iter().skip(1).filter(|(name, _)| name != COUPLET_PASS) {
            self.line(&format!("  {name} {value:.4}"));
        }
        if let Some(written) = &e.written {
            self.written(written);
        }
    }

    fn written(&mut self, written: &Written) {
        let lang = self.look.lang;
        if let Some(share) = written.couplet_pass {
            self.line(&format!("{} {:.1} %", lang.pick("couplets that pass:", "合格率："), 100.0 * share));
        }
        for Sample { prompt, answer } in &written.samples {
            self.line(&format!("  {}  →  {}", one_line(prompt), one_line(answer)));
        }
    }

    fn start(&mut self, total_steps: usize, resumed_at: usize) {
        self.pace = Pace::new(total_steps);
        if self.wants_bar() {
            let step = self.look.lang.pick("step", "步");
            let bar = bar(total_steps as u64, &format!("{step} {{pos}}/{{len}} [{{bar:24}}] {{msg}}"));
            bar.set_position(resumed_at as u64);
            self.bar = Some(bar);
        }
    }

    fn wants_bar(&self) -> bool {
        self.look.terminal && self.look.progress == Progress::Auto && self.look.verbosity > Verbosity::Quiet
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.look.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn say(&mut self, text: &str) {
        if self.look.verbosity > Verbosity::Quiet {
            self.put(text);
        }
    }

    fn put(&mut self, text: &str) {
        // Nobody reads a broken pipe, and training goes on without him.
        let mut write = || {
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Observer for Console<'_> {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Data(_) => {} // the header has said it
            Event::Started(e) => self.start(e.total_steps, e.resumed_at),
            Event::Step(e) => self.step(e),
            Event::Logged(e) => self.logged(e),
            Event::Evaluated(e) => self.evaluated(e),
            Event::Saved(e) => self.saved(e),
            Event::SaveFailed(e) => self.save_failed(e),
            Event::Trouble(e) => self.trouble(e),
            Event::Finished(_) => self.end_bar(),
            Event::Compared(_) => {} // said behind what was read back
        }
        Ok(())
    }
}

/// As much of a text as is worth showing, on one line: control characters would move the cursor.
pub fn one_line(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '␤' } else { c }).collect();
    if text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const YELLOW: &str = "33";

/// ASCII, because block characters are two columns wide in some Chinese terminals. A wrong template gives indicatif's own bar.
fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let target = ProgressDrawTarget::stderr_with_hz(8);
    let bar = ProgressBar::with_draw_target(Some(length), target).with_style(style.progress_chars("=> "));
    bar.tick(); // the first step of a large model takes a while
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::{evaluated, finished, logged, started, step};
    use std::io;

    const PLAIN: Look =
        Look { lang: Lang::En, progress: Progress::Auto, verbosity: Verbosity::Normal, terminal: false, color: false };

    fn printed(look: Look, act: impl FnOnce(&mut Console)) -> String {
        let mut out = Vec::new();
        act(&mut Console::new(&mut out, look));
        String::from_utf8(out).unwrap()
    }

    /// Two steps of half a second with four samples each, one log line, three evaluations.
    fn run(look: Look) -> String {
        let events = [
            started(100),
            Event::Evaluated(evaluated(0, 100, 6.0, EvalPhase::Before)),
            step(1, 5.0, 0.5),
            Event::Evaluated(evaluated(1, 100, 4.75, EvalPhase::During)),
            step(2, 4.0, 0.5),
            Event::Logged(logged(2, 100, 4.5)),
            Event::Finished(finished(2, 0.2)),
            Event::Evaluated(evaluated(2, 100, 4.25, EvalPhase::Final)),
        ];
        printed(look, |console| events.iter().for_each(|event| console.on_event(event).unwrap()))
    }

    const STEP: &str = "step   2/100  epoch 0.20  loss 4.500  lr 2.0e-4  8.0 samples/s  ETA 0:00:49\n";

    #[test]
    fn a_run_in_plain_lines() {
        let want = format!(
            "held-out loss before training: 6.0000 (6.0100 per token, 5 samples, 1.2 s)\n\
             held-out loss at step 1/100: 4.7500 (4.7600 per token, 5 samples, 1.2 s)\n{STEP}\
             held-out loss after training: 4.2500 (4.2600 per token, 5 samples, 1.2 s)\n"
        );
        assert_eq!(run(PLAIN), want);
        assert_eq!(run(Look { color: true, ..PLAIN }), want, "nothing here is coloured");
    }

    #[test]
    fn a_run_in_chinese() {
        let got = run(Look { lang: Lang::Zh, ..PLAIN });
        let want = "训练前留出集损失：6.0000（按词元 6.0100，5 条，1.2 秒）\n\
                    第 1/100 步留出集损失：4.7500（按词元 4.7600，5 条，1.2 秒）\n\
                    步   2/100  轮次 0.20  损失 4.500  学习率 2.0e-4  8.0 样本/秒  剩余 0:00:49\n\
                    训练后留出集损失：4.2500（按词元 4.2600，5 条，1.2 秒）\n";
        assert_eq!(got, want);
    }

    #[test]
    fn the_evaluation_of_the_last_step_is_told_once() {
        let told = printed(PLAIN, |console| {
            for when in [EvalPhase::During, EvalPhase::Final] {
                console.on_event(&Event::Evaluated(evaluated(2, 2, 4.25, when))).unwrap();
            }
        });
        assert_eq!(told, "held-out loss at step 2/2: 4.2500 (4.2600 per token, 5 samples, 1.2 s)\n");
    }

    #[test]
    fn modes_choose_what_is_said() {
        for (look, steps, evaluations, why) in [
            (PLAIN, true, 3, "no terminal: lines"),
            (Look { terminal: true, ..PLAIN }, false, 3, "a terminal: a bar instead"),
            (Look { terminal: true, progress: Progress::Plain, ..PLAIN }, true, 3, "lines asked for"),
            (Look { progress: Progress::None, ..PLAIN }, false, 3, "no progress"),
            (Look { verbosity: Verbosity::Quiet, ..PLAIN }, false, 0, "quiet"),
            (Look { terminal: true, verbosity: Verbosity::Quiet, ..PLAIN }, false, 0, "quiet on a terminal"),
        ] {
            let got = run(look);
            assert_eq!(got.contains(STEP), steps, "{why}: {got}");
            assert_eq!(got.matches("held-out").count(), evaluations, "{why}: {got}");
        }
        let verbose = run(Look { verbosity: Verbosity::Verbose, terminal: true, ..PLAIN });
        assert!(verbose.contains("ETA 0:00:49  grad_norm 0.500  160 tokens/s\n"), "{verbose}");
    }

    #[test]
    fn header_error_and_summary() {
        let mut header = Header::default();
        header.row("model", "模型", "Qwen/Qwen3-0.6B");
        header.row("learning rate", "学习率", "2e-4");
        header.notice("`report_to` is ignored", "忽略 `report_to`");
        let err = Error::input("data: no such file").hint("look").hint_zh("看");
        let show = |look| {
            printed(look, |console| {
                console.header(&header);
                console.detail("seen with -v only");
                console.error(&err);
            })
        };
        assert_eq!(
            show(PLAIN),
            "model          Qwen/Qwen3-0.6B\nlearning rate  2e-4\nnote: `report_to` is ignored\nerror: data: no such file\nhint: look\n"
        );
        assert_eq!(
            show(Look { lang: Lang::Zh, ..PLAIN }),
            "模型    Qwen/Qwen3-0.6B\n学习率  2e-4\n注意：忽略 `report_to`\n错误：data: no such file\n提示：看\n"
        );
        assert_eq!(show(Look { verbosity: Verbosity::Quiet, ..PLAIN }), "error: data: no such file\nhint: look\n");
        assert!(show(Look { verbosity: Verbosity::Verbose, ..PLAIN }).contains("seen with -v only\n"));
        let colored = show(Look { color: true, ..PLAIN });
        assert!(
            colored.contains("\x1b[1mmodel        \x1b[0m  Qwen"),
            "labels are padded inside the colour: {colored:?}"
        );

        let summary = Summary {
            steps: 100,
            total_steps: 100,
            chosen: None,
            seconds: 53.0,
            samples_per_second: 38.25,
            loss_before: Some(5.0),
            loss_after: Some(3.0),
            train_loss: 3.5,
            verdict: vec!["stable".into(), "no gap".into()],
            samples: vec!["上联  甲".into(), "训练后  乙".into()],
            output_dir: "out".into(),
            files: vec!["adapter_model.safetensors".into(), "run.json".into()],
            next: vec!["couplet-train generate 上联 --adapter out".into()],
        };
        assert_eq!(
            printed(PLAIN, |console| console.summary(&summary)),
            "\ndone           100 steps in 0:00:53, 38.2 samples/s\nheld-out loss  5.0000 → 3.0000 (-2.0000)\n\
             training loss  3.5000\nverdict        stable\n               no gap\nsamples        上联  甲\n               训练后  乙\nfiles          out\n               adapter_model.safetensors  run.json\n\
             next           couplet-train generate 上联 --adapter out\n"
        );
    }

    #[test]
    fn what_an_error_quotes_does_not_steer_the_terminal() {
        let err = Error::input("a.json: \x1b[2Jgone\r\n1 | \u{9b}31m").hint("\x07");
        let got = printed(PLAIN, |console| console.error(&err));
        assert_eq!(got, "error: a.json: \u{fffd}[2Jgone\u{fffd}\n1 | \u{fffd}31m\nhint: \u{fffd}\n");
    }

    #[test]
    fn a_download_is_a_line_per_file_where_there_is_no_bar() {
        let got = printed(PLAIN, |console| {
            for (file, done) in [("config.json", 0), ("config.json", 700), ("a.safetensors", 0), ("a.safetensors", 10)]
            {
                console.download(file, done, 700);
            }
        });
        assert_eq!(got, "downloading config.json (700 B)\ndownloading a.safetensors (700 B)\n");
    }

    #[test]
    fn a_large_download_says_how_far_it_is_and_what_it_waits_for() {
        let got = printed(PLAIN, |console| {
            (0..=1000).for_each(|mb| console.download("a.safetensors", mb << 20, 1000 << 20));
            console.download_waits("b.safetensors");
            console.download("b.safetensors", 50 << 20, 1000 << 20);
            console.download_again("b.safetensors", "it said nothing for too long", 2.0);
            console.download_again("b.safetensors", "the connection was closed", 0.0);
            console.download("b.safetensors", 60 << 20, 1000 << 20);
        });
        let lines: Vec<&str> = got.lines().collect();
        assert_eq!(lines[0], "downloading a.safetensors (1000.00 MiB)");
        assert_eq!(lines[1], "downloading a.safetensors 10% (100.00 MiB/1000.00 MiB)");
        assert_eq!(lines[9], "downloading a.safetensors 90% (900.00 MiB/1000.00 MiB)");
        assert_eq!(
            lines[10..],
            [
                "waiting for another process that is downloading b.safetensors",
                "downloading b.safetensors (1000.00 MiB)",
                "b.safetensors: it said nothing for too long; trying again in 2 s",
                "b.safetensors: the connection was closed; going on with it",
                "downloading b.safetensors (1000.00 MiB)",
            ]
        );
    }

    #[test]
    fn short_work_is_one_line_where_there_is_no_bar() {
        let work = |look| {
            printed(look, |console| {
                [0, 10, 20, 100].into_iter().for_each(|done| console.progress("answers", done, 100));
                console.progress("loss", 1, 1);
            })
        };
        assert_eq!(work(PLAIN), "answers 100/100  0:00:00\nloss 1/1  0:00:00\n");
        assert_eq!(work(Look { progress: Progress::None, ..PLAIN }), "");
    }

    #[test]
    fn what_was_written_follows_the_loss() {
        let sample = Sample { prompt: "春\n风".into(), answer: "雨".repeat(40) };
        let written = Some(Written { samples: vec![sample], couplet_pass: Some(0.625) });
        let event = Event::Evaluated(Evaluated { written, ..evaluated(5, 10, 4.0, EvalPhase::During) });
        let got = printed(PLAIN, |console| console.on_event(&event).unwrap());
        let (_, got) = got.split_once('\n').unwrap();
        assert_eq!(got, format!("couplets that pass: 62.5 %\n  春␤风  →  {}…\n", "雨".repeat(32)));
    }

    #[test]
    fn a_closed_pipe_does_not_end_the_run() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut console = Console::new(Broken, PLAIN);
        console.on_event(&Event::Logged(logged(1, 2, 1.0))).unwrap();
        console.error(&Error::run("x"));
    }
}
