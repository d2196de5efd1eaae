//! Logs that grow line by line and lose no finished line.

use super::{ops, unwritable};
use crate::error::Result;
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
        let open = || {
            ops::create(path)?;
            ops::open_append(path)
        };
        let file = open().map_err(|err| unwritable(path, &err))?;
        Ok(Self { path: path.to_owned(), file, len: 0 })
    }

    /// Goes on with a log. A last line without its newline was cut off by a crash and is dropped.
    pub fn append(path: &Path) -> Result<Self> {
        let open = || {
            let file = ops::open_append(path)?;
            let old = ops::read(path)?;
            let len = old.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            if len < old.len() {
                ops::truncate(&file, path, len as u64)?;
            }
            Ok((file, len as u64))
        };
        let (file, len) = open().map_err(|err: io::Error| unwritable(path, &err))?;
        Ok(Self { path: path.to_owned(), file, len })
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
        }
    }
}
