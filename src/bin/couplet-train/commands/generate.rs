//! `couplet-train generate`: texts in, answers out; one model, or several side by side.

use super::{
    ask::{self, Asked, Voice, Words},
    ruled,
};
use crate::args::GenerateArgs;
use couplet_train::{
    config::{self, table},
    dataset::template::EMPTY_THOUGHT,
    error::{Error, Result, io_reason, utf8},
    eval::couplet::{extract, judge},
    generate::{Answer, How, Limits, TextStream, Token, generate, refuse_too_long},
    prosody::{System, Tone, characters, tone},
    report::{Console, Header, Lang, Look, text::pad},
    signal::Stop,
};
use serde_json::json;
use std::{
    io::{IsTerminal, Read, Write, stderr, stdin, stdout},
    path::Path,
    time::Instant,
};
use unicode_width::UnicodeWidthStr;

/// Tokens of an answer at most, where nothing says otherwise; LlamaFactory's files have 1024.
const MAX_NEW_TOKENS: usize = 128;

/// Characters of a line that is judged; a longer text is prose.
const LONGEST: usize = 60;

/// Answers every text. Returns the exit code: 0, or that of a signal.
pub fn run(args: &GenerateArgs, look: Look) -> Result<u8> {
    let mut console = Console::new(stderr(), look);
    let words = Words::sort(&args.words)?;
    let (config, notices) = config::inference(words.config.as_deref(), &words.overrides, table::Command::Generate)?;
    if ruled::asked_for(args, &config)? {
        return ruled::run(args, &config, notices, words.texts, look);
    }
    let n = usize::from(args.n);
    let sampling = ask::sampling(&config.generation, config.llamafactory, n)?;
    let Texts { texts, places } = Texts::read(args, words.texts)?;
    let mut header = Header::default();
    let asked = ask::open(&config, &args.ask, args.compare, &mut header, &mut console)?;
    let default_tokens = if config.llamafactory { 1024 } else { MAX_NEW_TOKENS };
    let limits =
        Limits { max_new_tokens: config.generation.max_new_tokens.unwrap_or(default_tokens), stop: asked.stop.clone() };
    ask::describe_sampling(&mut header, &sampling, &limits);
    notices.into_iter().for_each(|notice| header.notice(notice.en, notice.zh));
    let couplets = !args.ask.raw && asked.speaker.instruction.as_ref().is_some_and(|text| text.contains('联'));
    let texts = match couplets {
        true => ruled::uppers(&asked, &texts, look.lang == Lang::Zh, |_| true, &mut header),
        false => texts,
    };
    console.header(&header);
    for (text, place) in texts.iter().zip(&places) {
        let prompt = prompt(&asked, text, args.ask.raw).and_then(|ids| refuse_too_long(&asked.model, ids.len()));
        prompt.map_err(|err| err.at(place))?;
    }

    let stop = Stop::install()?;
    stop.defer(); // what is answered so far is shown
    let interrupted = || stop.requested().is_some();
    let how = How { sampling, limits, interrupted: &interrupted };
    let mut job = Job {
        asked: &asked,
        how: &how,
        n,
        json: args.json,
        skip_special: config.generation.skip_special_tokens.unwrap_or(true),
        raw: args.ask.raw,
        couplets,
        chinese: look.lang == Lang::Zh,
        characters: 0,
        first_token: None,
        began: Instant::now(),
    };
    match texts.as_slice() {
        [text] if n == 1 && asked.voices.len() == 1 && !args.json => job.stream(text)?,
        _ => {
            let batch = usize::from(args.batch_size);
            for (i, texts) in texts.chunks(batch).enumerate() {
                job.batch(i * batch, texts, texts.len() > 1 || i > 0)?;
            }
        }
    }
    let seconds = job.began.elapsed().as_secs_f64();
    console.line(&ask::pace(look.lang, job.characters, seconds, job.first_token));
    Ok(stop.requested().map_or(0, |signal| signal.exit_code()))
}

/// The texts to answer, none of them blank, and where each stands.
pub struct Texts {
    pub texts: Vec<String>,
    /// `text 2`, or `lines.txt:2`.
    pub places: Vec<String>,
}

impl Texts {
    /// Those on the command line, else the lines of the file, else those of stdin; blank lines are left out.
    pub fn read(args: &GenerateArgs, texts: Vec<String>) -> Result<Self> {
        let from_file = match (&args.file, texts.is_empty()) {
            (Some(_), false) => {
                return Err(Error::input("a text and --file")
                    .hint("give the texts on the command line or in a file, not both")
                    .hint_zh("文本请写在命令行或文件中，不要同时使用"));
            }
            (None, false) => None,
            (Some(file), true) if file != Path::new("-") => Some(file.display().to_string()),
            (_, true) => Some("stdin".to_owned()),
        };
        let (texts, places): (Vec<String>, Vec<String>) = match from_file {
            None => (1..).zip(texts).map(|(i, text)| (text, format!("text {i}"))).unzip(),
            Some(name) => {
                let lines = (1..).zip(lines(&name)?).filter(|(_, line)| !line.trim().is_empty());
                lines.map(|(i, line)| (line, format!("{name}:{i}"))).unzip()
            }
        };
        match texts.iter().position(|text| text.trim().is_empty()) {
            None if texts.is_empty() => Err(nothing("no text to answer".into())),
            None => Ok(Self { texts, places }),
            Some(i) => Err(nothing(format!("{} is empty", places[i]))),
        }
    }
}

/// What is asked with `text`. Blanks around it are no part of it, unless it is to be asked as it stands.
fn prompt(asked: &Asked, text: &str, raw: bool) -> Result<Vec<u32>> {
    asked.speaker.prompt(&asked.tokenizer, &[], if raw { text } else { text.trim() })
}

fn nothing(fact: String) -> Error {
    Error::input(fact)
        .hint("couplet-train generate --adapter outputs/run \"海内存知己\"; or one text a line with --file or on stdin")
        .hint_zh("couplet-train generate --adapter outputs/run \"海内存知己\"；或用 --file 或标准输入，每行一条")
}

/// The lines of a file or of stdin.
fn lines(name: &str) -> Result<Vec<String>> {
    if name == "stdin" && stdin().is_terminal() {
        return Err(nothing("no text to answer".into()));
    }
    let mut bytes = Vec::new();
    let read = match name {
        "stdin" => stdin().read_to_end(&mut bytes).map(|_| ()),
        file => std::fs::read(file).map(|read| bytes = read),
    };
    let path = Path::new(name);
    read.map_err(|err| {
        Error::file(path, format!("cannot be read: {}", io_reason(&err)))
            .hint("check the path; one text a line")
            .hint_zh("请检查路径；每行一条文本")
    })?;
    let text = utf8(path, bytes)?;
    let text = text.trim_start_matches('\u{feff}').trim_end();
    Ok(text.lines().map(str::to_owned).collect())
}

/// The work and what it measured.
struct Job<'a> {
    asked: &'a Asked,
    how: &'a How<'a>,
    n: usize,
    json: bool,
    skip_special: bool,
    raw: bool,
    /// The instruction speaks of couplets: answers are judged.
    couplets: bool,
    chinese: bool,
    characters: usize,
    first_token: Option<f64>,
    began: Instant,
}

impl Job<'_> {
    /// One text, one answer, shown while it comes.
    fn stream(&mut self, text: &str) -> Result<()> {
        let prompt = prompt(self.asked, text, self.raw)?;
        let mut stream = TextStream::new(&self.asked.tokenizer, self.skip_special);
        let mut out = stdout().lock();
        let (mut characters, mut first) = (0, None);
        let began = self.began;
        let mut show = |text: &str| -> Result<()> {
            characters += ask::characters(text);
            out.write_all(text.as_bytes())?;
            Ok(out.flush()?)
        };
        let adapter = self.asked.voices[0].adapter.as_ref();
        generate(&self.asked.model, adapter, &[prompt], (1, 0), self.how, &mut |token: Token| {
            first.get_or_insert_with(|| began.elapsed().as_secs_f64());
            show(&stream.push(token.id)?)
        })?;
        show(&stream.finish()?)?;
        writeln!(out)?;
        (self.characters, self.first_token) = (characters, first);
        Ok(())
    }

    /// Several texts or answers; `first` is the number of `texts[0]` among all, `name_them` shows each text above its answers
    /// where several voices answer.
    fn batch(&mut self, first: usize, texts: &[String], name_them: bool) -> Result<()> {
        if (self.how.interrupted)() {
            return Ok(());
        }
        let prompts = texts.iter().map(|text| prompt(self.asked, text, self.raw)).collect::<Result<Vec<_>>>()?;
        let (began, mut first_token) = (self.began, self.first_token);
        let mut answered = Vec::new();
        for voice in &self.asked.voices {
            let started = Instant::now();
            let mut told = |_: Token| -> Result<()> {
                first_token.get_or_insert_with(|| began.elapsed().as_secs_f64());
                Ok(())
            };
            let adapter = voice.adapter.as_ref();
            let answers = generate(&self.asked.model, adapter, &prompts, (self.n, first), self.how, &mut told)?;
            answered.push((voice, answers, started.elapsed().as_secs_f64()));
        }
        self.first_token = first_token;
        let mut out = stdout().lock();
        let width = self.asked.voices.iter().map(|voice| voice.name.width()).max().unwrap_or(0);
        for (i, text) in texts.iter().enumerate() {
            if answered.len() > 1 && name_them && !self.json {
                writeln!(out, "{text}")?;
            }
            for (voice, answers, seconds) in &answered {
                let lines = match self.json {
                    true => vec![self.json_line(text, voice, &answers[i], *seconds)?],
                    false if answered.len() == 1 => self.lines(&answers[i])?,
                    false => {
                        let label = pad(&voice.name, width);
                        let lines = self.lines(&answers[i])?.into_iter();
                        lines.map(|line| format!("{label}  {line}{}", self.verdict(text, &line))).collect()
                    }
                };
                for line in lines {
                    writeln!(out, "{line}")?;
                }
            }
        }
        Ok(out.flush()?)
    }

    /// What the judge says of an answer shown beside others; nothing where the text is no line of a couplet.
    fn verdict(&self, text: &str, answer: &str) -> String {
        let has_tone = |c| System::ALL.into_iter().any(|system| tone(c, system) != Tone::Unknown);
        let is_line = characters(text).all(has_tone) && (3..=LONGEST).contains(&characters(text).count());
        match is_line && self.couplets {
            true => format!("   {}", judge(text.trim(), extract(answer)).line(self.chinese)),
            false => String::new(),
        }
    }

    /// Every answer as one line of text: without an empty thought at its start, line breaks as blanks.
    fn lines(&mut self, answers: &[Answer]) -> Result<Vec<String>> {
        let mut lines = Vec::with_capacity(answers.len());
        for answer in answers {
            let text = self.asked.tokenizer.decode(&answer.ids, self.skip_special)?;
            let text = text.trim_start_matches(EMPTY_THOUGHT).trim().replace(['\n', '\r'], " ");
            self.characters += ask::characters(&text);
            lines.push(text);
        }
        Ok(lines)
    }

    /// `seconds`: of the batch the answers were made in.
    fn json_line(&mut self, text: &str, voice: &Voice, answers: &[Answer], seconds: f64) -> Result<String> {
        let mut outputs = Vec::with_capacity(answers.len());
        for answer in answers {
            let text = self.asked.tokenizer.decode(&answer.ids, self.skip_special)?;
            self.characters += ask::characters(&text);
            outputs.push(json!({
                "text": text,
                "tokens": answer.ids.len(),
                "finish_reason": answer.finish.name(),
            }));
        }
        let seconds = (seconds * 1e4).round() / 1e4;
        Ok(json!({"prompt": text, "model": voice.name, "outputs": outputs, "seconds": seconds}).to_string())
    }
}
