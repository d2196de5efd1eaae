//! One process downloads a file, the others wait for it. The locks are those of `huggingface_hub` and `modelscope`: `flock` on a
//! file. It stays here; newer versions of theirs remove it when they are done.

use crate::{
    error::{Error, Result, io_reason},
    fs::{create_dir_all, is_at},
};
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    time::Duration,
};

/// Between two looks at a lock that somebody holds.
const BETWEEN: Duration = Duration::from_millis(100);

/// Holds `path` until what is returned is dropped or the process ends. `waiting` is called once when somebody else has it.
///
/// `None` where the file system knows no locks: then two processes may fetch the same file, each checks what it got, and the last
/// one wins. Errors: the file cannot be made.
pub fn hold(path: &Path, waiting: impl FnOnce()) -> Result<Option<File>> {
    if let Some(folder) = path.parent() {
        create_dir_all(folder)?;
    }
    let mut file = open(path)?;
    let mut waiting = Some(waiting);
    loop {
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            Ok(()) => {
                file = open(path)?; // who had it has removed it: the next one to come would lock another file
                continue;
            }
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        std::thread::sleep(BETWEEN);
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|err| {
        Error::file(path, format!("cannot write there: {}", io_reason(&err)))
            .hint("choose another `cache_dir`, or another HF_HOME, below a folder you may write to")
            .hint_zh("请选择有写权限的 `cache_dir` 或 HF_HOME")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_lock_that_was_removed_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = hold(&path, || panic!("nobody has it")).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || hold(&path, move || tell.send(()).unwrap()).unwrap()
        });
        told.recv().unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(first);
        let _held = second.join().unwrap();
        let third = open(&path).unwrap();
        assert!(matches!(third.try_lock(), Err(TryLockError::WouldBlock)), "the third meets the second");
    }

    #[test]
    fn the_second_waits_until_the_first_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".locks/a.lock");
        let first = hold(&path, || panic!("nobody has it")).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || hold(&path, move || tell.send(()).unwrap()).unwrap().is_some()
        });
        told.recv().unwrap();
        assert!(!second.is_finished());
        drop(first);
        assert!(second.join().unwrap());
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a.lock")).unwrap();
        let err = hold(&dir.path().join("a.lock"), || {}).unwrap_err();
        assert!(err.to_string().contains("a.lock: cannot write there"), "{err}");
    }
}
