//! Files that survive a crash: written whole or not at all; logs that lose no finished line; one run a folder.
//!
//! Whatever changes the disk goes through [`ops`], so that every call can be made to fail or to kill the process ([`fault`]).

mod durable;
pub mod fault;
mod lock;
mod log;
pub mod ops;

pub use durable::{
    FileDigest, PROBE, remove_durable_dir, remove_leftovers, remove_leftovers_of, write_durable_dir, write_file_synced,
    write_parts_synced,
};
pub use lock::{Lock, is_at};
pub use log::LogFile;

use crate::error::{Error, Result, io_reason};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Replaces `path` with `bytes`: after a crash the old content or the new one is there, never a part.
///
/// A temporary file in the same folder is written, synced and renamed, then the folder is synced.
/// Errors name `path`; the temporary file is gone then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_parts_atomic(path, &[bytes])
}

/// The same for bytes that do not lie in one piece: nothing is copied together.
pub fn write_parts_atomic(path: &Path, parts: &[&[u8]]) -> Result<()> {
    if fault::mutant("in_place") {
        return durable::write_synced(path, parts).map_err(|err| unwritable(path, &err));
    }
    let temp = temp_beside(path);
    let write = || {
        durable::write_synced(&temp, parts)?;
        ops::rename(&temp, path)?;
        ops::sync_dir(parent(path))
    };
    write().map_err(|err| {
        let _ = ops::remove_file(&temp); // the first error is the one worth telling
        unwritable(path, &err)
    })
}

/// Creates a folder and its parents; an existing folder is fine.
pub fn create_dir_all(path: &Path) -> Result<()> {
    ops::create_dir_all(path).map_err(|err| {
        Error::input(format!("{}: cannot create this folder: {}", path.display(), io_reason(&err)))
            .hint("choose a folder below one you may write to; a file of the same name is in the way just as well")
            .hint_zh("请换一个有写权限的位置；若同名文件已存在，也无法创建文件夹")
    })
}

/// Bytes that this user may still write on the disk of `path`, which need not exist yet. `None` where the system does not tell.
pub fn free_space(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let existing = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
        rustix::fs::statvfs(existing).ok().and_then(|disk| disk.f_bavail.checked_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// `dir/name` → `dir/.name.PID.tmp`: hidden, and two processes never share one.
fn temp_beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// The folder that holds `path`.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a process of this number runs on this machine; in doubt it does.
fn process_is_alive(pid: u32) -> bool {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        return rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    }
    let _ = pid;
    true
}

/// The error of a file that cannot be written.
pub fn unwritable(path: &Path, err: &io::Error) -> Error {
    Error::run(format!("{}: cannot write: {}", path.display(), io_reason(err)))
        .hint("check that the folder exists, that you may write there, and that the disk is not full (`df -h`)")
        .hint_zh("请检查文件夹是否存在、是否有写权限、磁盘是否已满（`df -h`）")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    pub(super) fn names(dir: &Path) -> Vec<String> {
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
    #[cfg(unix)]
    fn free_space_is_that_of_the_nearest_folder_there_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_space(dir.path()).unwrap() > 0);
        assert!(free_space(&dir.path().join("not/yet/there")).is_some());
        assert!(free_space(Path::new("relative")).is_some());
    }

    #[test]
    fn the_living_are_told_from_the_dead() {
        assert!(process_is_alive(std::process::id()));
        assert!(cfg!(not(unix)) || !process_is_alive(u32::MAX / 2));
    }
}
