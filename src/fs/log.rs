//! Logs that grow line by line and lose no finished line.

use super::{ops, unwritable};
use crate::error::{Error, Result};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// A file that grows line by line; every finished line is handed to the system at once.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes in it, all of whole lines.
    len: u64,
}

impl LogFile {
    /// Starts an empty log, whatever was there.
    pub fn create(path: &Path) -> Result<Self> {
        Self::open(path, |_| 0)
    }

    /// Goes on with a log. A last line without its newline was cut off by a crash and is dropped.
    pub fn append(path: &Path) -> Result<Self> {
        Self::open(path, |old| old.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1))
    }

    fn open(path: &Path, keep: impl FnOnce(&[u8]) -> usize) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let file = ops::open_append(path)?;
            let old = ops::read(path)?;
            let len = keep(&old);
            if len < old.len() {
                ops::truncate(&file, path, len as u64)?;
            }
            Ok(Self { path: path.to_owned(), file, len: len as u64 })
        };
        open().map_err(|err| unwritable(path, &err))
    }

    /// Writes `line` and a newline in one call, so that a reader never sees half a line. After an error the line is not there.
    pub fn line(&mut self, line: &str) -> Result<()> {
        let bytes = format!("{line}\n").into_bytes();
        match ops::write_all(&self.file, &self.path, &bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(err) => {
                // What fitted on a full disk would be glued to the next line. The first error is the one worth telling.
                let _ = ops::truncate(&self.file, &self.path, self.len);
                Err(unwritable(&self.path, &err))
            }
        }
    }

    /// Bytes so far: where the next line begins.
    pub fn offset(&self) -> u64 {
        self.len
    }

    /// Puts every line so far on the disk. The name of a new log is on it once its folder is synced.
    pub fn sync(&self) -> Result<()> {
        ops::sync_file(&self.file, &self.path).map_err(|err| unwritable(&self.path, &err))
    }

    /// Drops what was written behind `offset`, which an earlier [`Self::offset`] gave. Errors: the log is shorter than that.
    pub fn truncate_to(&mut self, offset: u64) -> Result<()> {
        if offset > self.len {
            return Err(Error::file(&self.path, format!("{} bytes, but it had {offset}: lines are missing", self.len))
                .hint("restore the log, or start anew with `resume_from_checkpoint=false`")
                .hint_zh("请恢复该日志，或用 `resume_from_checkpoint=false` 重新开始"));
        }
        ops::truncate(&self.file, &self.path, offset).map_err(|err| unwritable(&self.path, &err))?;
        self.len = offset;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_log_starts_empty_or_goes_on_behind_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (before, append, want, why) in [
            ("", true, "new\n", "nothing there yet"),
            ("old\n", true, "old\nnew\n", "appended"),
            ("old\nto", true, "old\nnew\n", "a torn line is dropped"),
            ("torn", true, "new\n", "also when it is the only one"),
            ("old\n", false, "new\n", "created anew"),
        ] {
            fs::write(&path, before).unwrap();
            let mut log = if append { LogFile::append(&path) } else { LogFile::create(&path) }.unwrap();
            log.line("new").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), want, "{why}");
            assert_eq!(log.offset(), want.len() as u64, "{why}");
        }
    }

    #[test]
    fn a_log_goes_back_to_an_offset_and_on_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::create(&path).unwrap();
        log.line("one").unwrap();
        let offset = log.offset();
        log.line("二").unwrap();
        log.sync().unwrap();
        log.truncate_to(offset).unwrap();
        log.line("2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n2\n", "no hole between them");
        let err = log.truncate_to(100).unwrap_err();
        assert!(err.to_string().ends_with("log: 6 bytes, but it had 100: lines are missing"), "{err}");
        assert_eq!(log.offset(), 6, "nothing was cut");
    }
}
