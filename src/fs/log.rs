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
    /// Goes on behind the end of a log, or starts one.
    pub fn append(path: &Path) -> Result<Self> {
        let open = || {
            let file = ops::open_append(path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
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

    /// Puts all lines on the disk.
    pub fn sync(&self) -> Result<()> {
        ops::sync_file(&self.file, &self.path).map_err(|err| unwritable(&self.path, &err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_log_grows_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (before, want, why) in [(None, "new\n", "nothing there yet"), (Some("old\n"), "old\nnew\n", "appended")] {
            before.into_iter().for_each(|before| fs::write(&path, before).unwrap());
            let mut log = LogFile::append(&path).unwrap();
            log.line("new").unwrap();
            log.sync().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), want, "{why}");
        }
    }
}
