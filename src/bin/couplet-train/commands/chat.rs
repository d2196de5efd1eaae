//! `couplet-train chat`: a conversation. `clear` forgets it, `exit` leaves, Ctrl-C ends an answer.

use super::ask::{self, Asked, Words};
use crate::args::ChatArgs;
use couplet_train::{
    config::{self, Rules, table},
    error::{Error, Result, io_reason},
    generate::{Conversation, How, Limits, TextStream, Token},
    report::{Console, Header, Lang, Look},
    signal::{Interrupts, Stop},
};
use rustyline::{DefaultEditor, error::ReadlineError};
use std::{
    io::{BufRead, IsTerminal, Write, stderr, stdin, stdout},
    path::Path,
    time::Instant,
};

/// Talks until `exit` or the end of the input. Returns the exit code.
pub fn run(args: &ChatArgs, look: Look) -> Result<u8> {
    let mut console = Console::new(stderr(), look);
    let words = Words::sort(&args.words)?;
    if let Some(text) = words.texts.first() {
        return Err(Error::input(format!("`{text}` is neither `key=value` nor a config file"))
            .hint("chat reads its texts from the keyboard; `couplet-train generate` answers those on the command line")
            .hint_zh("chat 从键盘读取文本；命令行中的文本请用 `couplet-train generate`"));
    }
    let (config, notices) = config::inference(words.config.as_deref(), &words.overrides, table::Command::Chat)?;
    if config.generation.rules.is_some_and(|rules| rules != Rules::Off) {
        return Err(Error::input("a conversation keeps no rules")
            .hint("`couplet-train generate rules=strict` answers first lines by the rules")
            .hint_zh("请用 `couplet-train generate rules=strict` 按联律对句"));
    }
    let sampling = ask::sampling(&config.generation, config.llamafactory, 1)?;
    let mut header = Header::default();
    let asked = ask::open(&config, &args.ask, false, &mut header, &mut console)?;
    if asked.voices.len() > 1 {
        return Err(Error::input("a conversation has one adapter")
            .hint("`couplet-train generate` shows several side by side")
            .hint_zh("`couplet-train generate` 可并排比较多个适配器"));
    }
    let limits = Limits { max_new_tokens: config.generation.max_new_tokens.unwrap_or(1024), stop: asked.stop.clone() };
    ask::describe_sampling(&mut header, &sampling, &limits);
    notices.into_iter().for_each(|notice| header.notice(notice.en, notice.zh));
    console.header(&header);

    let mut chat = Chat {
        asked: &asked,
        skip_special: config.generation.skip_special_tokens.unwrap_or(true),
        conversation: Conversation::new(&asked.model, asked.voices[0].adapter.as_ref()),
        history: Vec::new(),
        turns: 0,
    };
    if stdin().is_terminal() {
        console.line(look.lang.pick(
            "`clear` forgets the conversation, `exit` leaves, Ctrl-C ends an answer",
            "`clear` 清除对话，`exit` 退出，Ctrl-C 停止回答",
        ));
        let interrupts = Interrupts::install()?;
        let interrupted = || interrupts.requested();
        let how = How { sampling, limits, interrupted: &interrupted };
        return chat.at_the_keyboard(&how, &interrupts, &mut console);
    }
    let stop = Stop::install()?;
    let interrupted = || stop.requested().is_some();
    let how = How { sampling, limits, interrupted: &interrupted };
    let (mut input, mut read) = (stdin().lock(), (0, 0));
    while let Some(line) = next_line(&mut input, &mut read)? {
        if !chat.hear(&line, &how, &mut console)? || interrupted() {
            break;
        }
    }
    Ok(stop.requested().map_or(0, |signal| signal.exit_code()))
}

/// The next line without its end, `None` behind the last; `read`: the bytes and lines before it. Errors: it is not UTF-8.
fn next_line(input: &mut impl BufRead, (bytes, lines): &mut (u64, usize)) -> Result<Option<String>> {
    let mut line = vec![];
    let unreadable = |err: std::io::Error| {
        Error::input(format!("stdin: {}", io_reason(&err)))
            .hint("one text a line is read: from a file with `couplet-train chat … < FILE`")
            .hint_zh("每行读取一条文本，可从文件读入：`couplet-train chat … < 文件`")
    };
    if input.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
        return Ok(None);
    }
    *lines += 1;
    let text = std::str::from_utf8(&line).map_err(|err| {
        let at = err.valid_up_to();
        Error::not_utf8(Path::new("stdin"), (*bytes + at as u64, &format!("line {lines}")), &line[at..])
    })?;
    *bytes += line.len() as u64;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

struct Chat<'a> {
    asked: &'a Asked,
    skip_special: bool,
    conversation: Conversation<'a>,
    /// (text, answer) so far.
    history: Vec<(String, String)>,
    /// Turns since the start: each draws other numbers of the seed.
    turns: u64,
}

impl Chat<'_> {
    fn at_the_keyboard(&mut self, how: &How, interrupts: &Interrupts, console: &mut Console) -> Result<u8> {
        let broken = |err: ReadlineError| Error::run(format!("cannot read from the terminal: {err}"));
        let mut editor = DefaultEditor::new().map_err(broken)?;
        let prompt = console.look().lang.pick("You: ", "你：");
        loop {
            match editor.readline(prompt) {
                Ok(line) => {
                    // A line that the editor cannot remember is still asked.
                    let _ = editor.add_history_entry(line.as_str());
                    interrupts.forget();
                    if !self.hear(&line, how, console)? {
                        return Ok(0);
                    }
                }
                Err(ReadlineError::Interrupted) => {
                    console.line(console.look().lang.pick("`exit` leaves", "输入 `exit` 退出"));
                }
                Err(ReadlineError::Eof) => return Ok(0),
                Err(err) => return Err(broken(err)),
            }
        }
    }

    /// One line of the user; false when he leaves. What only this line makes impossible is said and does not end the talk.
    fn hear(&mut self, line: &str, how: &How, console: &mut Console) -> Result<bool> {
        match line.trim() {
            "" => {}
            "exit" => return Ok(false),
            "clear" => {
                self.history.clear();
                console.line(console.look().lang.pick("the conversation is forgotten", "对话已清除"));
            }
            text => match self.answer(text, how) {
                Ok(pace) => console.detail(&pace(console.look().lang)),
                Err(err) if err.kind() == couplet_train::error::Kind::Input => console.error(&err),
                Err(err) => return Err(err),
            },
        }
        Ok(true)
    }

    fn answer(&mut self, text: &str, how: &How) -> Result<impl Fn(Lang) -> String + use<>> {
        let prompt = self.asked.speaker.prompt(&self.asked.tokenizer, &self.history, text)?;
        let mut stream = TextStream::new(&self.asked.tokenizer, self.skip_special);
        let mut out = stdout().lock();
        let (began, mut first, mut said) = (Instant::now(), None, String::new());
        let mut show = |text: &str| -> Result<()> {
            said += text;
            out.write_all(text.as_bytes())?;
            Ok(out.flush()?)
        };
        self.conversation.answer(&prompt, self.turns, how, &mut |token: Token| {
            first.get_or_insert_with(|| began.elapsed().as_secs_f64());
            show(&stream.push(token.id)?)
        })?;
        show(&stream.finish()?)?;
        writeln!(out)?;
        let (characters, seconds) = (ask::characters(&said), began.elapsed().as_secs_f64());
        self.turns += 1;
        self.history.push((text.to_owned(), said));
        Ok(move |lang| ask::pace(lang, characters, seconds, first))
    }
}
