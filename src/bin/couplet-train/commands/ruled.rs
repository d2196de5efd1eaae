//! `couplet-train generate rules=shape | strict`: 上联 in, 下联 that keep the rules by construction out, the best first.

use super::{
    ask::{self, Asked, Voice},
    generate::Texts,
};
use crate::args::GenerateArgs;
use couplet_train::{
    config::{GenerationConfig, InferenceConfig, Notice, Rules},
    error::{Error, Result},
    eval::couplet::{CleanUpper, Note, clean_upper},
    generate::{
        Choice, lines,
        rank::{Candidate, Scorer, Weights},
        rules::{Plan, TokenTable},
        search::Beam,
    },
    report::{Console, Header, Lang, Look, console::one_line, text::pad},
    signal::Stop,
};
use serde_json::json;
use std::{
    io::{Write, stderr, stdout},
    time::Instant,
};
use unicode_width::UnicodeWidthStr;

/// Lines that are found and ranked for every 上联, where nothing says otherwise.
pub const CANDIDATES: usize = 8;

/// Rows of a batch, at most: texts answered at once times candidates.
pub const ROWS: usize = 256;

/// Whether rules are asked for. Errors: a pattern without them.
pub fn asked_for(args: &GenerateArgs, config: &InferenceConfig) -> Result<bool> {
    let rules = config.generation.rules.unwrap_or_default();
    if rules == Rules::Off && args.pattern.is_some() {
        return Err(Error::input("--pattern without rules")
            .hint("add rules=strict, or rules=shape to keep nothing but the length")
            .hint_zh("请加上 rules=strict；只限字数则用 rules=shape"));
    }
    Ok(rules != Rules::Off)
}

/// Answers every text by the rules. Returns the exit code: 0, or that of a signal.
pub fn run(
    args: &GenerateArgs,
    config: &InferenceConfig,
    notices: Vec<Notice>,
    typed: Vec<String>,
    look: Look,
) -> Result<u8> {
    let mut console = Console::new(stderr(), look);
    let generation = &config.generation;
    let rules = generation.rules.unwrap_or_default();
    let Texts { texts, places } = Texts::read(args, typed)?;
    let mut header = Header::default();
    let asked = ask::open(config, &args.ask, args.compare, &mut header, &mut console)?;
    let table = TokenTable::new(&asked.tokenizer)?;
    let width = generation.candidates.unwrap_or(CANDIDATES).max(args.n.into());
    let weights = Weights {
        beta: generation.rank_beta.unwrap_or(Weights::MEASURED.beta),
        gamma: generation.rank_gamma.unwrap_or(Weights::MEASURED.gamma),
    };
    let Weights { beta, gamma } = weights;
    header.row("rules", "规则", format!("{}; the best of {width}, beta {beta}, gamma {gamma}", rules.name()));
    let idle = without_effect(generation).join(", ");
    if !idle.is_empty() {
        header.notice(
            format!("rules look for the most likely lines: nothing is sampled; without effect: {idle}"),
            format!("有规则时取最可能的句子，不采样；以下设置不起作用：{idle}"),
        );
    }
    notices.into_iter().for_each(|notice| header.notice(notice.en, notice.zh));
    let chinese = look.lang == Lang::Zh;
    // Of a wrong end the plan says what follows from it.
    let worth_a_note = |note: &Note| !matches!(note, Note::EndsLevel(_));
    let uppers = match args.ask.raw {
        true => texts.clone(),
        false => uppers(&asked, &texts, chinese, worth_a_note, &mut header),
    };
    let planned: Vec<(&str, Plan)> = uppers
        .iter()
        .zip(&places)
        .map(|(upper, place)| {
            let plan = Plan::new(upper, rules, args.pattern.as_deref());
            plan.map(|plan| (upper.as_str(), plan)).map_err(|err| err.at(place))
        })
        .collect::<Result<_>>()?;
    for (upper, plan) in &planned {
        for relaxed in plan.relaxed() {
            let note = |chinese| format!("{}: {}", one_line(upper), relaxed.text(chinese));
            header.notice(note(false), note(true));
        }
    }
    console.header(&header);

    let stop = Stop::install()?;
    let interrupted = || stop.requested().is_some();
    let choice = Choice { beam: Beam { width, n: width }, weights };
    let mut job = Job { asked: &asked, table: &table, choice, n: args.n.into(), json: args.json, characters: 0 };
    let began = Instant::now();
    let batch = usize::from(args.batch_size).min((ROWS / width).max(1));
    for (texts, planned) in texts.chunks(batch).zip(planned.chunks(batch)) {
        if !interrupted() {
            job.batch(texts, planned, &interrupted)?;
        }
    }
    console.line(&ask::pace(look.lang, job.characters, began.elapsed().as_secs_f64(), None));
    Ok(stop.requested().map_or(0, |signal| signal.exit_code()))
}

/// Keys that are given and mean nothing where lines are searched for.
fn without_effect(given: &GenerationConfig) -> Vec<&'static str> {
    let keys = [
        ("do_sample", given.do_sample == Some(true)),
        ("temperature", given.temperature.is_some()),
        ("top_p", given.top_p.is_some()),
        ("top_k", given.top_k.is_some()),
        ("repetition_penalty", given.repetition_penalty.is_some()),
        ("max_new_tokens", given.max_new_tokens.is_some()),
        ("seed", given.seed.is_some()),
    ];
    keys.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
}

/// The texts as the model has learned them; what was changed, or `worth_a_note`, is said in the header.
pub fn uppers(
    asked: &Asked,
    texts: &[String],
    chinese: bool,
    worth_a_note: impl Fn(&Note) -> bool,
    header: &mut Header,
) -> Vec<String> {
    let cleaned: Vec<CleanUpper> = texts.iter().map(|text| clean_upper(text, asked.comma)).collect();
    for clean in &cleaned {
        let notes = clean.notes.iter().filter(|note| worth_a_note(note));
        let notes: Vec<String> = notes.map(|note| note.text(chinese)).collect();
        if notes.is_empty() {
            continue;
        }
        let line = format!("{}: {}", one_line(&clean.text), notes.join(if chinese { "；" } else { "; " }));
        header.notice(line.clone(), line);
    }
    cleaned.into_iter().map(|clean| clean.text).collect()
}

struct Job<'a> {
    asked: &'a Asked,
    table: &'a TokenTable,
    choice: Choice,
    n: usize,
    json: bool,
    characters: usize,
}

impl Job<'_> {
    fn batch(&mut self, texts: &[String], planned: &[(&str, Plan)], interrupted: &dyn Fn() -> bool) -> Result<()> {
        let mut answered = Vec::new();
        for voice in &self.asked.voices {
            let Asked { model, tokenizer, speaker, .. } = self.asked;
            let scorer = Scorer { model, adapter: voice.adapter.as_ref(), tokenizer, speaker };
            let began = Instant::now();
            let ranked = lines(scorer, self.table, planned, self.choice, interrupted)?;
            answered.push((voice, ranked, began.elapsed().as_secs_f64()));
        }
        let mut out = stdout().lock();
        let width = self.asked.voices.iter().map(|voice| voice.name.width()).max().unwrap_or(0);
        for (i, text) in texts.iter().enumerate() {
            if answered.len() > 1 && !self.json {
                writeln!(out, "{text}")?;
            }
            for (voice, ranked, seconds) in &answered {
                let best = &ranked[i][..self.n.min(ranked[i].len())];
                self.characters += best.iter().map(|candidate| ask::characters(&candidate.text)).sum::<usize>();
                if self.json {
                    writeln!(out, "{}", json_line(text, voice, best, *seconds))?;
                    continue;
                }
                for candidate in best {
                    match answered.len() {
                        1 => writeln!(out, "{}", candidate.text)?,
                        _ => writeln!(out, "{}  {}", pad(&voice.name, width), candidate.text)?,
                    }
                }
            }
        }
        Ok(out.flush()?)
    }
}

/// `log_p` in nats with the end of the line; `score` is what the lines are ranked by, in nats a character.
fn json_line(text: &str, voice: &Voice, best: &[Candidate], seconds: f64) -> String {
    let rounded = |x: f64| (x * 1e4).round() / 1e4;
    let output = |candidate: &Candidate| {
        json!({
            "text": candidate.text,
            "tokens": candidate.ids.len(),
            "finish_reason": "stop",
            "log_p": rounded(candidate.given),
            "score": rounded(candidate.score),
        })
    };
    let outputs: Vec<_> = best.iter().map(output).collect();
    json!({"prompt": text, "model": voice.name, "outputs": outputs, "seconds": rounded(seconds)}).to_string()
}
