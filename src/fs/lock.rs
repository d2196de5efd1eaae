//! One run a folder: a lock that the kernel holds for the life of the process, and frees however it ends.

use super::process_is_alive;
use crate::error::{Error, Result, io_reason};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// The lock's file in the folder.
const NAME: &str = ".lock";

/// A folder that is ours until this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    held: bool,
    /// Folders made for it, the deepest first; they go with it unless [`Self::keep`] was called.
    made: Vec<PathBuf>,
}

impl Lock {
    /// Takes the folder; makes it where it is not there.
    ///
    /// Errors: another process has it, named by its pid; the folder cannot be made or written.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let made = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let made = made.map(Path::to_owned).collect();
        let path = dir.join(NAME);
        let mut file = open(dir)?;
        // The holder may have died since, or not have written its pid yet: a few looks tell.
        for _ in 0..20 {
            match file.try_lock() {
                Ok(()) if !is_at(&file, &path) => file = open(dir)?, // its holder took the file away when it left
                Ok(()) => {
                    return Ok(Self {
                        held: true,
                        file: write_pid(file).map_err(|err| Error::file(&path, io_reason(&err)))?,
                        made,
                    });
                }
                Err(TryLockError::Error(err)) if knows_no_locks(&err) => {
                    return Ok(Self { held: false, file, made: vec![] });
                }
                Err(TryLockError::Error(err)) => return Err(Error::file(&path, io_reason(&err))),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(pid) = read_pid(&mut file).filter(|&pid| process_is_alive(pid)) {
                return Err(taken(dir, &format!("process {pid}"), &format!("进程 {pid}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        match read_pid(&mut file) {
            Some(pid) => {
                Err(taken(dir, &format!("process {pid} of another machine"), &format!("另一台机器上的进程 {pid}")))
            }
            None => Err(taken(dir, "another process", "另一个进程")),
        }
    }

    /// The run begins: its folder stays.
    pub fn keep(&mut self) {
        self.made.clear();
    }

    /// Whether the kernel holds it. Some network file systems know no locks; there nothing keeps a second run out.
    pub fn is_held(&self) -> bool {
        self.held
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file frees the lock; the pid only informs.
        let _ = self.file.set_len(0);
        if let Some(dir) = self.made.first() {
            let _ = std::fs::remove_file(dir.join(NAME));
        }
        for dir in &self.made {
            let _ = std::fs::remove_dir(dir); // only an empty one goes
        }
    }
}

fn open(dir: &Path) -> Result<File> {
    super::create_dir_all(dir)?;
    OpenOptions::new().create(true).read(true).write(true).truncate(false).open(dir.join(NAME)).map_err(|err| {
        Error::file(dir, format!("cannot write there: {}", io_reason(&err)))
            .hint("choose an `output_dir` below a folder you may write to")
            .hint_zh("请选择有写权限的 `output_dir`")
    })
}

/// Whether `path` still names this file.
pub fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |found: io::Result<std::fs::Metadata>| found.map(|m| (m.dev(), m.ino())).ok();
        id(file.metadata()) == id(std::fs::metadata(path))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Whether it is the file system that has no locks. NFS without a lock daemon says ENOLCK.
fn knows_no_locks(err: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let none = [Errno::NOLCK, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP];
        if Errno::from_io_error(err).is_some_and(|errno| none.contains(&errno)) {
            return true;
        }
    }
    err.kind() == io::ErrorKind::Unsupported
}

fn write_pid(mut file: File) -> io::Result<File> {
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(file)
}

/// `None` while the holder is about to write it.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

fn taken(dir: &Path, by: &str, by_zh: &str) -> Error {
    Error::file(dir, format!("in use by {by}"))
        .hint("wait until that run has ended, or choose another `output_dir`")
        .hint_zh(format!("{by_zh} 正在使用；请等它结束，或换一个 `output_dir`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_second_run_is_told_who_has_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::acquire(dir.path()).unwrap();
        assert!(first.is_held());
        let err = Lock::acquire(dir.path()).unwrap_err();
        assert_eq!(err.to_string(), format!("{}: in use by process {}", dir.path().display(), std::process::id()));
        assert!(err.hint_text(true).is_some_and(|zh| zh.contains(&std::process::id().to_string())));
        drop(first);
        assert_eq!(std::fs::read(dir.path().join(NAME)).unwrap(), b"", "the file stays, without a pid");
        Lock::acquire(dir.path()).unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn a_file_system_without_locks_is_told_from_a_failure() {
        use rustix::io::Errno;
        for (errno, want) in [
            (Errno::NOLCK, true),
            (Errno::OPNOTSUPP, true),
            (Errno::NOSYS, true),
            (Errno::IO, false),
            (Errno::ACCESS, false),
        ] {
            assert_eq!(knows_no_locks(&errno.into()), want, "{errno:?}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a").join(NAME)).unwrap();
        let err = Lock::acquire(&dir.path().join("a")).unwrap_err();
        assert!(err.to_string().ends_with("a: cannot write there: is a directory"), "{err}");
    }

    #[test]
    fn a_folder_made_for_it_goes_with_it_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        drop(Lock::acquire(&out).unwrap());
        assert!(!dir.path().join("a").exists(), "nothing was begun");

        let lock = Lock::acquire(&out).unwrap();
        std::fs::write(out.join("mine"), "").unwrap();
        drop(lock);
        assert!(out.join("mine").exists() && !out.join(NAME).exists(), "a folder that is used is left");

        let mut lock = Lock::acquire(&dir.path().join("c")).unwrap();
        lock.keep();
        drop(lock);
        assert!(dir.path().join("c").exists());
        drop(Lock::acquire(dir.path()).unwrap());
        assert!(dir.path().exists(), "it was there before");
    }

    #[test]
    fn a_lock_whose_file_was_taken_away_is_not_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(dir.path()).unwrap();
        let path = dir.path().join(NAME);
        assert!(is_at(&file, &path));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        let other = open(dir.path()).unwrap();
        assert!(is_at(&other, &path) && !is_at(&file, &path), "another file of that name");
    }

    /// The child of the next test: takes the lock, says so, and waits for its death.
    #[test]
    #[ignore = "a child process"]
    fn child_that_holds_a_lock() {
        let dir = std::env::var_os("LOCK_DIR").expect("the parent names the folder");
        let _lock = Lock::acquire(Path::new(&dir)).unwrap();
        std::fs::write(Path::new(&dir).join("held"), "").unwrap();
        let _ = io::stdin().read(&mut [0]);
    }

    #[test]
    fn a_killed_holder_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "fs::lock::tests::child_that_holds_a_lock"])
            .env("LOCK_DIR", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !dir.path().join("held").exists() {
            assert_eq!(child.try_wait().unwrap(), None, "the child lives until it is killed");
            std::thread::sleep(Duration::from_millis(5));
        }
        let err = Lock::acquire(dir.path()).unwrap_err();
        assert!(err.to_string().ends_with(&format!("in use by process {}", child.id())), "{err}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_ne!(std::fs::read(dir.path().join(NAME)).unwrap(), b"", "the dead process's pid is still there");
        Lock::acquire(dir.path()).unwrap();
    }
}
