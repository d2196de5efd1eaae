//! Small files that survive a crash: written whole or not at all, and logs that lose no finished line.

use crate::error::{Error, Result, io_reason};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Replaces `path` with `bytes`: after a crash the old content or the new one is there, never a part.
///
/// A temporary file in the same folder is written, synced and renamed, then the folder is synced.
/// Errors name `path`; the temporary file is gone then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = temp_beside(path);
    let written = write_synced(&temp, bytes).and_then(|()| fs::rename(&temp, path)).and_then(|()| sync_parent(path));
    written.map_err(|err| {
        let _ = fs::remove_file(&temp); // the first error is the one worth telling
        unwritable(path, err)
    })
}

/// Creates a folder and its parents; an existing folder is fine.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|err| {
        Error::input(format!("{}: cannot create this folder: {}", path.display(), io_reason(&err)))
            .hint("choose a folder below one you may write to; a file of the same name is in the way just as well")
            .hint_zh("请换一个有写权限的位置；若同名文件已存在，也无法创建文件夹")
    })
}

/// A file that grows line by line; every finished line is handed to the system at once.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Starts an empty log, whatever was there.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|err| unwritable(path, err))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Goes on with a log. A last line without its newline was cut off by a crash and is dropped.
    pub fn append(path: &Path) -> Result<Self> {
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let old = fs::read(path)?;
            let whole = old.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            file.set_len(whole as u64)?;
            Ok(file)
        };
        let file = open().map_err(|err| unwritable(path, err))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes `line` and a newline in one call, so that a reader never sees half a line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|err| unwritable(&self.path, err))
    }
}

/// `dir/name` → `dir/.name.PID.tmp`: hidden, and two processes never share one.
fn temp_beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename durable. Only Unix opens folders as files; elsewhere the rename itself has to do.
fn sync_parent(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn unwritable(path: &Path, err: io::Error) -> Error {
    Error::run(format!("{}: cannot write: {}", path.display(), io_reason(&err)))
        .hint("check that the folder exists, that you may write there, and that the disk is not full (`df -h`)")
        .hint_zh("请检查文件夹是否存在、是否有写权限、磁盘是否已满（`df -h`）")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for content in ["first, and longer", "second"] {
            write_atomic(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failed_write_names_the_path_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        for (path, why) in [
            (taken.clone(), "the rename meets a folder"),
            (dir.path().join("missing/a.json"), "the temporary file has no folder"),
        ] {
            let err = write_atomic(&path, b"x").expect_err(why);
            assert!(err.to_string().contains(path.to_str().unwrap()), "{why}: {err}");
            assert!(!err.to_string().contains("os error"), "{why}: {err}");
            assert_eq!(names(dir.path()), ["taken"], "{why}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        create_dir_all(&dir.path().join("a/b")).unwrap();
        create_dir_all(&dir.path().join("a/b")).unwrap();
        let err = create_dir_all(&file.join("below")).unwrap_err();
        assert!(err.to_string().contains("file/below"), "{err}");
        assert!(err.hint_text(true).is_some());
    }

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
