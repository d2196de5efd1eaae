//! A data file as text that comes in pieces: unpacked where it is gzip, checked to be UTF-8, in bounded memory.
//!
//! Of the file no more is held than the row at hand and a chunk. Nothing is changed but a byte order mark taken off.

use crate::error::{Error, Result, io_reason};
use flate2::read::MultiGzDecoder;
use memchr::{memchr_iter, memrchr};
use std::{
    fs::File,
    io::{Cursor, ErrorKind, Read},
    path::Path,
};

/// Bytes of a row at most: far beyond any context, and what a broken file can take of memory.
pub(super) const LONGEST_ROW: usize = 16 << 20;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 18;

const MARK: char = '\u{feff}';

/// Where a text begins, from 1; the column in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What of a file is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A text without rows.
    Whole,
    Header,
    /// From 1.
    Row(usize),
}

/// The text of a file from where it is taken to where it is read.
pub(super) struct Input<'a> {
    source: Box<dyn Read + 'a>,
    path: &'a Path,
    /// What was read and not yet taken begins at `taken`.
    buffer: String,
    taken: usize,
    /// Bytes of the text before `buffer`.
    before: u64,
    /// Bytes that follow `buffer`: a character that is not whole, or no UTF-8.
    torn: Vec<u8>,
    place: Place,
    ended: bool,
    /// Why it cannot be read on.
    failed: Option<std::io::Error>,
    /// What is being read, for errors.
    pub(super) part: Part,
}

impl<'a> Input<'a> {
    /// Of a file, unpacked if it is `gzip`.
    pub(super) fn open(path: &'a Path, gzip: bool) -> Result<Self> {
        let file = File::open(path).map_err(|err| unreadable(path, &err))?;
        Ok(if gzip { Self::new(MultiGzDecoder::new(file), path) } else { Self::new(file, path) })
    }

    /// [`Self::of_any`] of a file.
    pub(super) fn open_any(path: &'a Path) -> Result<(Self, Vec<u8>)> {
        Self::of_any(File::open(path).map_err(|err| unreadable(path, &err))?, path)
    }

    /// Of anything that can be read, unpacked if it begins as gzip does; and its first four bytes, which tell other formats. It is
    /// never wound back, so that it may be a pipe.
    pub(super) fn of_any(mut source: impl Read + 'a, path: &'a Path) -> Result<(Self, Vec<u8>)> {
        let mut first = vec![];
        (&mut source).take(4).read_to_end(&mut first).map_err(|err| unreadable(path, &err))?;
        let gzip = first.starts_with(b"\x1f\x8b");
        let all = Cursor::new(first.clone()).chain(source);
        let input = if gzip { Self::new(MultiGzDecoder::new(all), path) } else { Self::new(all, path) };
        Ok((input, first))
    }

    /// Of anything that can be read; `path` is only named in errors.
    pub(super) fn new(source: impl Read + 'a, path: &'a Path) -> Self {
        Self {
            source: Box::new(source),
            path,
            buffer: String::new(),
            taken: 0,
            before: 0,
            torn: vec![],
            place: Place { line: 1, column: 1 },
            ended: false,
            failed: None,
            part: Part::Whole,
        }
    }

    /// What is read and not yet taken.
    pub(super) fn text(&self) -> &str {
        &self.buffer[self.taken..]
    }

    /// Where [`Self::text`] begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next byte; `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<u8>> {
        while self.text().is_empty() {
            if !self.more()? {
                return Ok(None);
            }
        }
        Ok(self.text().bytes().next())
    }

    /// Takes `bytes` of [`Self::text`], and says where they began.
    pub(super) fn take(&mut self, bytes: usize) -> (&str, Place) {
        let (start, place) = (self.taken, self.place);
        self.taken += bytes;
        let text = &self.buffer[start..self.taken];
        match memrchr(b'\n', text.as_bytes()) {
            None => self.place.column += text.len(),
            Some(last) => {
                self.place.line += memchr_iter(b'\n', text.as_bytes()).count();
                self.place.column = text.len() - last;
            }
        }
        (text, place)
    }

    /// Takes the blanks before the next byte, and says what that is.
    pub(super) fn past_blanks(&mut self) -> Result<Option<u8>> {
        loop {
            let blanks = self.text().bytes().take_while(u8::is_ascii_whitespace).count();
            self.take(blanks);
            if !self.text().is_empty() || !self.more()? {
                return Ok(self.text().bytes().next());
            }
        }
    }

    /// Reads on, so that [`Self::text`] grows. `false`: the file has ended. What has been taken is forgotten.
    ///
    /// Errors, the same ones whenever it is asked again: the file cannot be read; what follows is not UTF-8; a row is longer than
    /// any row.
    pub(super) fn more(&mut self) -> Result<bool> {
        if self.text().len() > LONGEST_ROW {
            return Err(self.too_long());
        }
        self.before += self.taken as u64;
        self.buffer.drain(..self.taken);
        self.taken = 0;
        while !self.ended {
            if let Some(err) = &self.failed {
                return Err(unreadable(self.path, err));
            }
            if std::str::from_utf8(&self.torn).is_err_and(|err| err.error_len().is_some()) {
                return Err(self.not_utf8());
            }
            match (&mut self.source).take(CHUNK as u64).read_to_end(&mut self.torn) {
                Ok(bytes) => self.ended = bytes == 0,
                Err(err) => {
                    self.failed = Some(err);
                    continue;
                }
            }
            if self.add() {
                return Ok(true);
            }
        }
        if self.torn.is_empty() { Ok(false) } else { Err(self.not_utf8()) }
    }

    /// Moves what is UTF-8 from `torn` to `buffer`. Returns whether there was any.
    fn add(&mut self) -> bool {
        let whole = match std::str::from_utf8(&self.torn) {
            Ok(text) => text,
            Err(err) => std::str::from_utf8(&self.torn[..err.valid_up_to()]).unwrap_or_default(),
        };
        let bytes = whole.len();
        let is_first = self.before == 0 && self.buffer.is_empty();
        match whole.strip_prefix(MARK).filter(|_| is_first) {
            None => self.buffer.push_str(whole),
            Some(text) => {
                self.buffer.push_str(text);
                self.before = MARK.len_utf8() as u64;
            }
        }
        self.torn.drain(..bytes);
        bytes > 0
    }

    /// What is being read, in words.
    pub(super) fn what(&self) -> String {
        match self.part {
            Part::Whole => "the text".into(),
            Part::Header => "the header".into(),
            Part::Row(row) => format!("row {row}"),
        }
    }

    fn not_utf8(&self) -> Error {
        let byte = self.before + self.buffer.len() as u64;
        let line = self.place.line + memchr_iter(b'\n', self.text().as_bytes()).count();
        let part = if self.part == Part::Whole { String::new() } else { format!(", {}", self.what()) };
        Error::not_utf8(self.path, (byte, &format!("line {line}{part}")), &self.torn)
    }

    fn too_long(&self) -> Error {
        let Place { line, column } = self.place;
        let (place, most) = (format!("{}:{line}:{column}", self.path.display()), LONGEST_ROW >> 20);
        match self.part {
            Part::Whole => Error::file(self.path, format!("is larger than {most} MB"))
                .hint("look whether this is the file that was meant: rows of data stand in files of their own")
                .hint_zh("请检查是否选错了文件：数据的各行应另存于其他文件"),
            Part::Header | Part::Row(_) => Error::input(format!("{place}: {} is longer than {most} MB", self.what()))
                .hint("no model reads so much at once: look whether a quote or a bracket is missing, or cut the row up")
                .hint_zh("没有模型能一次读这么多：请检查是否缺少引号或括号，或将该行拆开"),
        }
    }
}

/// The text of a small UTF-8 file, without a byte order mark. Errors: it is larger than [`LONGEST_ROW`].
pub(super) fn read_text(path: &Path) -> Result<String> {
    let mut input = Input::open(path, false)?;
    while input.more()? {}
    Ok(input.text().to_owned())
}

/// All that is still to be read.
pub(super) fn whole_text(mut input: Input) -> Result<String> {
    let mut text = String::new();
    loop {
        let piece = input.text().len();
        text.push_str(input.take(piece).0);
        if !input.more()? {
            return Ok(text);
        }
    }
}

fn unreadable(path: &Path, err: &std::io::Error) -> Error {
    let reason = io_reason(err);
    let error = Error::file(path, format!("cannot read: {reason}"));
    match err.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => error
            .hint("the packed file is damaged or cut off: `gzip -t FILE` tells; fetch it again")
            .hint_zh("压缩文件已损坏或不完整，可用 `gzip -t 文件` 检查；请重新获取"),
        _ => error.hint("check the path, and that you may read the file").hint_zh("请检查路径与读取权限"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, so that every character is torn.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.len().min(out.len()).min(1);
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn whole(source: impl Read) -> Result<String> {
        let mut input = Input::new(source, Path::new("f"));
        while input.more()? {}
        Ok(input.text().to_owned())
    }

    #[test]
    fn text_is_as_it_was_but_for_the_mark() {
        for (bytes, want) in [
            ("", ""),
            ("天\r\n地\0\u{85}\u{200f}", "天\r\n地\0\u{85}\u{200f}"),
            ("\u{feff}天", "天"),
            ("\u{feff}\u{feff}天", "\u{feff}天"),
            ("天\u{feff}", "天\u{feff}"),
            ("\u{feff}", ""),
        ] {
            assert_eq!(whole(bytes.as_bytes()).unwrap(), want, "{bytes:?}");
            assert_eq!(whole(Drops(bytes.as_bytes())).unwrap(), want, "{bytes:?}, byte by byte");
        }
    }

    #[test]
    fn lines_and_columns_are_counted_in_what_is_taken() {
        let mut input = Input::new("ab\nc天\n\nx".as_bytes(), Path::new("f"));
        assert_eq!(input.peek().unwrap(), Some(b'a'));
        for (bytes, want, line, column) in
            [(1, "a", 1, 1), (3, "b\nc", 1, 2), (3, "天", 2, 2), (2, "\n\n", 2, 5), (1, "x", 4, 1)]
        {
            let (text, place) = input.take(bytes);
            assert_eq!((text, place), (want, Place { line, column }));
        }
        assert_eq!((input.peek().unwrap(), input.place()), (None, Place { line: 4, column: 2 }));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_placed() {
        let long = [vec![b'a'; CHUNK + 7], b"\n\xb5\xd8".to_vec()].concat();
        for (bytes, want) in [
            (&b"[\n\"\xb5\xd8\"]"[..], "f: not UTF-8 at byte 3 (line 2)"),
            (b"\xef\xbb\xbf\xff", "f: not UTF-8 at byte 3 (line 1)"),
            (b"a\xe5\xa4", "f: not UTF-8 at byte 1 (line 1)"),
            (b"\xff\xfe[\0", "f: not UTF-8 at byte 0 (line 1): it looks like UTF-16"),
            (b"\xed\xa0\x80", "f: not UTF-8 at byte 0 (line 1)"),
            (&long, "f: not UTF-8 at byte 262152 (line 2)"),
        ] {
            assert_eq!(whole(bytes).unwrap_err().to_string(), want);
            assert_eq!(whole(Drops(bytes)).unwrap_err().to_string(), want, "byte by byte");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_again() {
        /// Fails once, and has nothing more to give then.
        struct Fails(bool);
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                if std::mem::replace(&mut self.0, true) { Ok(0) } else { Err(ErrorKind::InvalidData.into()) }
            }
        }
        let mut input = Input::new("天\n".as_bytes().chain(Fails(false)), Path::new("f"));
        let told = [(), ()].map(|()| {
            while input.more()? {}
            Ok::<_, Error>(())
        });
        for told in told {
            assert_eq!(told.unwrap_err().to_string(), "f: cannot read: invalid data");
        }
    }

    #[test]
    fn a_row_without_end_is_an_error_and_takes_no_more_memory() {
        let mut input = Input::new(std::io::repeat(0), Path::new("f"));
        let error = loop {
            match input.more() {
                Ok(more) => assert!(more, "it never ends"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "f: is larger than 16 MB");
        assert!(input.buffer.capacity() <= 4 * LONGEST_ROW);
        input.part = Part::Row(7);
        assert_eq!(input.more().unwrap_err().to_string(), "f:1:1: row 7 is longer than 16 MB");
    }

    #[test]
    fn a_packed_file_that_is_cut_off_is_told() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.gz");
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        packed.write_all("天地".repeat(999).as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut input = Input::open(&path, true)?;
            while input.more()? {}
            Ok::<_, Error>(input.text().len())
        };
        assert_eq!(read(&[&packed[..], &packed].concat()).unwrap(), 2 * 999 * 6, "members one behind the other");
        for (bytes, why) in [(&packed[..packed.len() - 3], "cut off"), (b"[]", "not packed at all")] {
            let error = read(bytes).unwrap_err();
            assert!(error.to_string().contains("f.gz: cannot read: "), "{why}: {error}");
            assert!(error.hint_text(false).unwrap().contains("gzip -t"), "{why}");
        }
    }
}
