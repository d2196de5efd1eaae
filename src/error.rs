//! Errors that say where, what, and what to do.
//!
//! One type for the whole crate: a user never needs to match on a variant, he needs the place, the fact and the way out.
//! Internal failures (a tensor operation, an I/O error) are wrapped with the place where they happened.

use std::{fmt, path::Path};

/// What went wrong decides the exit code of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong usage, configuration, data or model files: found before the first step. Exit code 2.
    Input,
    /// The run itself failed. Exit code 1.
    Run,
    /// Nobody reads the output any more (`… | head -1`): no failure. Exit code 0, and nothing is said.
    NoReader,
}

/// How CUDA's libraries say that there is no more memory.
const OUT_OF_MEMORY: [&str; 3] =
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CURAND_STATUS_ALLOCATION_FAILED"];

/// Characters of a line of a message; what is longer is shown without its middle.
const LONGEST_LINE: usize = 600;

/// An error with a message (place and fact) and, where there is one, a hint (the way out).
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    hint_zh: Option<String>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The user's input is wrong: configuration, data, model files, paths.
    pub fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, message: shortened(message.into()), hint: None, hint_zh: None }
    }

    /// The run failed after it had started.
    pub fn run(message: impl Into<String>) -> Self {
        Self { kind: Kind::Run, ..Self::input(message) }
    }

    /// An input file that cannot be read or parsed: `path: reason`.
    pub fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::input(format!("{}: {reason}", path.display()))
    }

    /// A text that is not UTF-8.
    ///
    /// - `path`: the file; `stdin` or `-` for standard input, where what is piped must be converted.
    /// - `(byte, place)`: how many bytes are UTF-8, and where that is in other words, e.g. `line 2, row 1`.
    /// - `bytes`: those that follow, which tell UTF-16.
    pub fn not_utf8(path: &Path, (byte, place): (u64, &str), bytes: &[u8]) -> Self {
        let is_utf16 = byte == 0 && matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
        let (looks, encoding) = if is_utf16 { (": it looks like UTF-16", "UTF-16") } else { ("", "GB18030") };
        let err = Self::file(path, format!("not UTF-8 at byte {byte} ({place}){looks}"));
        if ["stdin", "-"].iter().any(|name| path == Path::new(name)) {
            return err
                .hint(format!("convert what is piped: … | iconv -f {encoding} -t UTF-8 | couplet-train …"))
                .hint_zh(format!("请先转换管道中的文本：… | iconv -f {encoding} -t UTF-8 | couplet-train …"));
        }
        err.hint(format!("save the file as UTF-8, e.g. iconv -f {encoding} -t UTF-8 OLD > NEW"))
            .hint_zh(format!("请将文件另存为 UTF-8，例如 iconv -f {encoding} -t UTF-8 旧文件 > 新文件"))
    }

    /// What the user can do, in English. Printed below the error as `hint: …`.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same hint in Chinese, printed instead where the user's locale is Chinese.
    pub fn hint_zh(mut self, hint: impl Into<String>) -> Self {
        self.hint_zh = Some(hint.into());
        self
    }

    /// Puts `place` in front of the message: `place: message`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Puts `more` behind the message: `message; more`.
    pub fn and(mut self, more: impl fmt::Display) -> Self {
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// The same error, met after the first step: the run failed.
    pub fn in_run(mut self) -> Self {
        self.kind = Kind::Run;
        self
    }

    /// The same error, met where no run has begun: what was asked for cannot be done.
    pub fn in_input(mut self) -> Self {
        self.kind = Kind::Input;
        self
    }

    /// Whether the input or the run is at fault.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the memory of a card is used up: the name that CUDA has for it. What is there of the run is sound then.
    pub fn out_of_memory(&self) -> Option<&'static str> {
        OUT_OF_MEMORY.into_iter().find(|name| self.message.contains(name))
    }

    /// The hint in the language asked for, falling back to English.
    pub fn hint_text(&self, chinese: bool) -> Option<&str> {
        match (chinese, &self.hint_zh) {
            (true, Some(zh)) => Some(zh),
            _ => self.hint.as_deref(),
        }
    }
}

/// Errors quote what is in files, and a line there may be as long as the file.
fn shortened(message: String) -> String {
    if message.len() <= LONGEST_LINE {
        return message;
    }
    let short = |line: &str| match line.chars().count() {
        n if n <= LONGEST_LINE => line.to_owned(),
        n => {
            let (begin, end) = (line.chars().take(LONGEST_LINE - 100), line.chars().skip(n - 100));
            begin.chain(['…']).chain(end).collect()
        }
    };
    message.lines().map(short).collect::<Vec<_>>().join("\n")
}

/// The text of a file that was read whole. Errors: it is not UTF-8.
pub fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|err| {
        let (before, rest) = err.as_bytes().split_at(err.utf8_error().valid_up_to());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::not_utf8(path, (before.len() as u64, &format!("line {line}")), rest)
    })
}

/// A size in bytes as it is told everywhere: `1.24 GB`.
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// The system's words for an I/O failure, without Rust's ` (os error N)`.
pub fn io_reason(err: &std::io::Error) -> String {
    let text = err.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(err: candle_core::Error) -> Self {
        // candle appends a backtrace where RUST_BACKTRACE is set; the first line is the fact, unless it is only the context of
        // one that says what users can do something about.
        let text = err.to_string();
        let is_short = |line: &&str| OUT_OF_MEMORY.iter().any(|name| line.contains(name));
        let fact = text.lines().find(is_short).or(text.lines().next()).unwrap_or_default();
        let failed = Self::run(format!("tensor operation failed: {fact}"));
        match failed.out_of_memory() {
            None => failed,
            Some(_) => failed
                .hint("the card's memory is used up: fewer rows at once need less; `nvidia-smi` shows who else uses it")
                .hint_zh("显存已用尽：请减少同时处理的行数；`nvidia-smi` 可查看还有谁在使用该显卡"),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(err: std::io::Error) -> Self {
        let kind = if err.kind() == std::io::ErrorKind::BrokenPipe { Kind::NoReader } else { Kind::Run };
        Self { kind, ..Self::run(io_reason(&err)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_nobody_would_read_is_shown_without_its_middle() {
        let err = Error::input(format!("a.txt:5: {}end\nhint", "长".repeat(5000)));
        let text = err.at("data").to_string();
        assert!(text.starts_with("data: a.txt:5: 长长") && text.ends_with("长end\nhint"), "{text}");
        assert!(text.contains('…') && text.chars().count() < LONGEST_LINE + 20, "{}", text.chars().count());
        let whole = "x".repeat(LONGEST_LINE);
        assert_eq!(Error::input(whole.clone()).to_string(), whole);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_placed() {
        for (bytes, want) in [
            (&b"\xe5\xa4\xa9\n\xcc\xec"[..], "f: not UTF-8 at byte 4 (line 2)"),
            (b"\xff\xfe)Y", "f: not UTF-8 at byte 0 (line 1): it looks like UTF-16"),
        ] {
            let err = utf8(Path::new("f"), bytes.to_vec()).unwrap_err();
            assert_eq!(err.to_string(), want);
            assert!([false, true].iter().all(|zh| err.hint_text(*zh).unwrap().contains("iconv -f ")), "{want}");
            let piped = utf8(Path::new("stdin"), bytes.to_vec()).unwrap_err();
            assert!([false, true].iter().all(|zh| piped.hint_text(*zh).unwrap().contains("… | iconv -f ")), "{want}");
        }
        assert_eq!(utf8(Path::new("f"), "天".into()).unwrap(), "天");
    }

    #[test]
    fn a_card_without_memory_is_known_by_any_of_its_names() {
        for (text, want) in [
            (
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")\n   0: a backtrace",
                Some("CUDA_ERROR_OUT_OF_MEMORY"),
            ),
            ("loading a tensor\nCublasError(CUBLAS_STATUS_ALLOC_FAILED)", Some("CUBLAS_STATUS_ALLOC_FAILED")),
            ("CurandError(CURAND_STATUS_ALLOCATION_FAILED)", Some("CURAND_STATUS_ALLOCATION_FAILED")),
            ("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")", None),
        ] {
            let err = Error::from(candle_core::Error::Msg(text.into()));
            assert_eq!(err.out_of_memory(), want, "{err}");
            assert_eq!(
                (err.hint_text(false).is_some(), err.hint_text(true).is_some()),
                (want.is_some(), want.is_some())
            );
            assert!(!err.to_string().contains('\n'), "one line: {err}");
        }
    }
}
