//! `couplet-train evaluate`: held-out rows in; loss, answers and their metrics out, beside real and re-paired lines.

mod files;
mod rows;
mod ruled;
mod table;

use super::ask::{self, Asked, Words};
use crate::args::{AskArgs, EvaluateArgs};
use couplet_train::{
    config::{self, TemplateName},
    dataset,
    error::{Error, Result},
    eval::{
        metrics::{Separation, estimate_of, repaired, separations},
        suite::{self, Answered, Case, Column, Known, Recall, Writer},
    },
    generate::{How, Limits},
    report::{Console, Header, Lang, Look},
    signal::Stop,
};
use files::Results;
use rows::Rows;
use ruled::Ruled;
use std::{
    io::{Write, stderr, stdout},
    time::Instant,
};

/// LlamaFactory's bound of an answer, in tokens: for its files, and for models that think first.
const MAX_NEW_TOKENS: usize = 1024;

/// Rows whose 上联 is looked for among 32; more would take longer than all the rest.
const RECALLED: usize = 200;

/// Evaluates. The table goes to stdout. Returns the exit code: 0, or that of a signal; then nothing was written.
pub fn run(args: &EvaluateArgs, look: Look) -> Result<u8> {
    let began = Instant::now();
    let mut console = Console::new(stderr(), look);
    let words = Words::sort(&args.words)?;
    if let Some(text) = words.texts.first() {
        return Err(Error::input(format!("`{text}` is neither `key=value` nor a config file"))
            .hint("couplet-train evaluate --adapter outputs/run dataset=couplets_test")
            .hint_zh("couplet-train evaluate --adapter outputs/run dataset=couplets_test"));
    }
    // 1. What can be wrong with the input, cheapest first.
    let (config, notices) = config::evaluation(words.config.as_deref(), &words.overrides)?;
    let sampling = ask::sampling(&config.inference.generation, false, 1)?;
    dataset::registry::look_up(&config.dataset_dir, rows::names(&config)?)?;
    let out = config.output_dir.as_deref().map(|dir| files::Place::new(dir, config.overwrite)).transpose()?;

    // 2. The models and the rows.
    let mut header = Header::default();
    let who = AskArgs { base: args.base.clone(), adapter: args.adapter.clone(), ..AskArgs::default() };
    let asked = ask::open(&config.inference, &who, !args.no_base, &mut header, &mut console)?;
    refuse_another_base(&asked)?;
    let rows = Rows::load(&config, &asked)?;
    let limit = config.inference.generation.max_new_tokens;
    let thinks = asked.speaker.template == TemplateName::Qwen3 && asked.speaker.enable_thinking == Some(true);
    let max_new_tokens = limit.unwrap_or(match config.inference.llamafactory || thinks {
        true => MAX_NEW_TOKENS,
        false => rows.room_for_answers().min(MAX_NEW_TOKENS),
    });
    let limits = Limits { max_new_tokens, stop: asked.stop.clone() };

    // 3. Said before it is done.
    header.rows.retain(|(label, ..)| *label != "instruction"); // the rows bring their own
    rows.describe(&mut header);
    let ruled = Ruled::new(&config.inference.generation, config.n, &asked, &rows, &mut header)?;
    if ruled.is_none() {
        ask::describe_sampling(&mut header, &sampling, &limits);
    }
    notices.into_iter().for_each(|notice| header.notice(notice.en, notice.zh));
    if ruled.is_none()
        && config.inference.llamafactory
        && config.inference.generation.do_sample.is_none()
        && !sampling.is_random()
    {
        header.notice(
            "greedy, so that the numbers repeat; LlamaFactory would sample: do_sample=true",
            "逐词取最可能者，结果可重复；LlamaFactory 默认采样：do_sample=true",
        );
    }
    console.header(&header);

    // 4. The columns.
    let stop = Stop::install()?;
    stop.defer();
    let interrupted = || stop.requested().is_some();
    let how = How { sampling, limits, interrupted: &interrupted };
    let skip_special = config.inference.generation.skip_special_tokens.unwrap_or(true);
    let mut job = Job {
        asked: &asked,
        rows: &rows,
        how: &how,
        ruled: ruled.as_ref(),
        batch: (args.batch_size.into(), skip_special),
        seed: sampling.seed,
        recall: None,
        console: &mut console,
    };
    let results = job.results()?;
    if let Some(signal) = stop.requested() {
        console.line(look.lang.pick("stopped: nothing was written", "已中止：未写入任何结果"));
        return Ok(signal.exit_code());
    }

    // 5. What came out.
    if let Some(out) = &out {
        out.write(&results, &asked, &rows, &how, config.inference.generation.rules.unwrap_or_default())?;
    }
    stdout().write_all(table::render(&results, look.lang).as_bytes())?;
    console.line(&told(out.as_ref(), began.elapsed().as_secs_f64(), look.lang));
    Ok(0)
}

/// Numbers of an adapter over a base that it was not made for mean nothing.
fn refuse_another_base(asked: &Asked) -> Result<()> {
    let foreign = asked.trained.iter().find(|trained| trained.is_of_another_base(&asked.base_digest));
    foreign.map_or(Ok(()), |trained| {
        let (fact, _) = trained.another_base();
        Err(Error::file(&trained.dir, fact)
            .hint("evaluate it over that one; to try it on this one all the same, copy it without its run.json")
            .hint_zh("请用 `--base` 指定正确的基座；若仍要用此基座，请复制该适配器但不带 run.json"))
    })
}

fn told(out: Option<&files::Place>, seconds: f64, lang: Lang) -> String {
    match (out, lang) {
        (Some(out), Lang::En) => format!("{seconds:.0} s; results in {}", out.dir().display()),
        (Some(out), Lang::Zh) => format!("用时 {seconds:.0} 秒；结果在 {}", out.dir().display()),
        (None, Lang::En) => format!("{seconds:.0} s; `output_dir=…` keeps answers and numbers"),
        (None, Lang::Zh) => format!("用时 {seconds:.0} 秒；用 `output_dir=…` 保存回答与数字"),
    }
}

/// The work.
struct Job<'a, 'c, 'o> {
    asked: &'a Asked,
    rows: &'a Rows,
    how: &'a How<'a>,
    ruled: Option<&'a Ruled>,
    batch: (usize, bool),
    seed: u64,
    /// For couplets alone.
    recall: Option<Recall<'a>>,
    console: &'c mut Console<'o>,
}

impl<'a> Job<'a, '_, '_> {
    /// All columns. Where a signal asked for the end they are not whole.
    fn results(&mut self) -> Result<Results> {
        let cases = &self.rows.cases;
        if self.rows.couplets {
            let uppers: Vec<&str> = cases.iter().map(|case| case.upper.as_str()).collect();
            self.recall = Some(Recall::new(self.writer(None), &uppers, self.seed)?);
        }
        let mut results = Results::default();
        for voice in 0..self.asked.voices.len() {
            self.voice(voice, &mut results)?;
        }
        if self.rows.couplets && !(self.how.interrupted)() {
            self.lines(&mut results)?;
        }
        Ok(results)
    }

    fn writer(&self, voice: Option<usize>) -> Writer<'a> {
        let asked = self.asked;
        let adapter = voice.and_then(|voice| asked.voices[voice].adapter.as_ref());
        Writer { model: &asked.model, adapter, tokenizer: &asked.tokenizer }
    }

    /// The column of the base or of an adapter.
    fn voice(&mut self, voice: usize, results: &mut Results) -> Result<()> {
        let (rows, stop, seed) = (self.rows, self.how.interrupted, self.seed);
        let writer = self.writer(Some(voice));
        let (name, n) = (column_name(self.asked, voice), rows.cases.len());
        let known = self.known(voice);
        let started = Instant::now();
        let sums = suite::token_sums(writer, &rows.examples, stop, &mut self.told(&name, ("loss", "损失"), n))?;
        let loss_seconds = started.elapsed().as_secs_f64();
        let forced = suite::forced(writer, &rows.cases, stop, &mut self.told(&name, ("perplexity", "困惑度"), n))?;
        let started = Instant::now();
        let answered = self.answers(writer, &name)?;
        let seconds = started.elapsed().as_secs_f64();
        if stop() {
            return Ok(()); // what is not whole is not measured
        }
        let mut column = Column::of_answers(&name, &rows.cases, &answered, rows.couplets, known, seed);
        let lines: Vec<(usize, &str)> =
            answered.iter().enumerate().map(|(row, answer)| (row, suite::line(&answer.text, true))).collect();
        self.recall_of(&mut column, &lines)?;
        column.push_loss(suite::average(&sums, rows.loss_batch, seed));
        column.push_perplexity(forced, seed);
        results.columns.push(column);
        results.answers.push(files::Answers { answered, seconds, loss_seconds });
        Ok(())
    }

    fn answers(&mut self, writer: Writer, name: &str) -> Result<Vec<Answered>> {
        let (asked, rows, how, batch, ruled) = (self.asked, self.rows, self.how, self.batch, self.ruled);
        let told = &mut self.told(name, ("answers", "生成"), rows.cases.len());
        match ruled {
            Some(ruled) => ruled.answers(asked, writer.adapter, rows, how.interrupted, told),
            None => suite::answers(writer, &rows.cases, how, batch, told),
        }
    }

    /// The right answers, and the same lines re-paired.
    fn lines(&mut self, results: &mut Results) -> Result<()> {
        let cases = &self.rows.cases;
        let known = self.known(0);
        let pairs: Vec<(String, String)> =
            cases.iter().map(|case| (case.upper.clone(), case.reference.clone())).collect();
        let own: Vec<(usize, usize)> = (0..cases.len()).map(|row| (row, row)).collect();
        let mixed = repaired(&pairs, self.seed);
        let mut judged = vec![];
        for (name, pairs) in [("reference", own), ("repaired", mixed)] {
            let lines: Vec<(&Case, &str)> =
                pairs.iter().map(|(upper, lower)| (&cases[*upper], cases[*lower].reference.as_str())).collect();
            let mut column = Column::of_lines(name, &lines, known, self.seed);
            let picked: Vec<(usize, &str)> =
                pairs.iter().map(|(upper, lower)| (*upper, cases[*lower].reference.as_str())).collect();
            self.recall_of(&mut column, &picked)?;
            results.columns.push(column);
            judged.push(suite::judged_lines(&lines));
        }
        results.separations = separations(&judged[0], &judged[1]);
        let recalled = |column: &Column| column.get("recall_of_32").map(|estimate| estimate.value);
        let [.., real, mixed] = results.columns.as_slice() else { return Ok(()) };
        // Of yes and no, the area is the mean of the two right shares.
        if let (Some(real), Some(mixed)) = (recalled(real), recalled(mixed)) {
            results.separations.push(Separation::of("recall_of_32", 0.5 + (real - mixed) / 2.0));
        }
        Ok(())
    }

    fn recall_of(&mut self, column: &mut Column, lines: &[(usize, &str)]) -> Result<()> {
        let Some(recall) = self.recall.take() else { return Ok(()) };
        let lines = &lines[..lines.len().min(RECALLED)];
        let (name, n) = (column.name.clone(), lines.len());
        let found = recall.pick(lines, self.how.interrupted, &mut self.told(&name, ("recall", "意境"), n))?;
        column.push("recall_of_32", estimate_of(found, self.seed));
        self.recall = Some(recall);
        Ok(())
    }

    /// The training lines of the adapter that answers, else of the first.
    fn known(&self, voice: usize) -> Option<&'a Known> {
        let bases = self.asked.voices.len() - self.asked.trained.len();
        self.rows.known.get(voice.saturating_sub(bases))?.as_ref()
    }

    /// Shows how far a piece of work is, out of `total`.
    fn told(&mut self, column: &str, (en, zh): (&str, &str), total: usize) -> impl FnMut(usize) {
        let what = format!("{column}: {}", self.console.look().lang.pick(en, zh));
        move |done| self.console.progress(&what, done, total)
    }
}

/// `base`; `tuned` for the only adapter, else its folder's name.
fn column_name(asked: &Asked, voice: usize) -> String {
    let bases = asked.voices.len() - asked.trained.len();
    match (voice < bases, asked.trained.len()) {
        (true, _) => "base".into(),
        (false, 1) => "tuned".into(),
        (false, _) => asked.voices[voice].name.clone(),
    }
}
