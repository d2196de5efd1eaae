//! Folders that are there whole or not at all, and the digests by which their files are known again.

use super::{fault, ops, parent, process_is_alive, temp_beside, unwritable};
use crate::error::{Error, Result, io_reason};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Name of the file by which a run tries whether a folder can be written, before it takes the lock.
pub const PROBE: &str = "couplet-train";

/// A file of a durable folder: how a manifest tells it from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its name in the folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the bytes, 64 hexadecimal digits.
    pub blake3: String,
}

impl FileDigest {
    /// The digest of bytes in memory, laid end to end.
    pub fn of(name: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        let size = parts.iter().map(|part| part.len() as u64).sum();
        Self { name: name.to_owned(), size, blake3: hasher.finalize().to_hex().to_string() }
    }

    /// Reads the file from `dir`. Errors say in what it is not the one that was written.
    pub fn read(&self, dir: &Path) -> Result<Vec<u8>> {
        let path = dir.join(&self.name);
        let found = fs::symlink_metadata(&path).map_err(|err| Error::file(&path, io_reason(&err)))?;
        if !found.is_file() {
            return Err(Error::file(&path, "not a regular file"));
        }
        if found.len() != self.size {
            return Err(Error::file(&path, format!("{} bytes, but {} were written", found.len(), self.size)));
        }
        let bytes = ops::read(&path).map_err(|err| Error::file(&path, io_reason(&err)))?;
        if *self != Self::of(&self.name, &[&bytes]) {
            return Err(Error::file(&path, "its content has changed since it was written (BLAKE3 differs)"));
        }
        Ok(bytes)
    }
}

/// Writes a file and puts its bytes on the disk; its name is durable once its folder is. For [`write_durable_dir`].
pub fn write_file_synced(path: &Path, bytes: &[u8]) -> Result<FileDigest> {
    write_parts_synced(path, &[bytes])
}

/// The same for bytes that do not lie in one piece: nothing is copied together.
pub fn write_parts_synced(path: &Path, parts: &[&[u8]]) -> Result<FileDigest> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    write_synced(path, parts).map_err(|err| unwritable(path, &err))?;
    Ok(FileDigest::of(&name, parts))
}

pub(super) fn write_synced(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let file = ops::create(path)?;
    parts.iter().try_for_each(|part| ops::write_all(&file, path, part))?;
    ops::sync_file(&file, path)
}

/// Makes the folder `parent/name` with what `fill` writes into it: after a crash it is there whole or not at all.
///
/// `fill` gets a hidden folder in `parent` and writes its files with [`write_file_synced`]. Then that folder is synced and
/// renamed, and `parent` synced. A folder of that name is replaced; [`remove_leftovers`] puts it back if a crash falls between
/// the two renames. Errors leave the old folder under its name, or, where only the last sync failed, the new one.
pub fn write_durable_dir(parent: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let target = parent.join(name);
    if fault::mutant("in_place") {
        ops::create_dir_all(&target).map_err(|err| unwritable(&target, &err))?;
        return fill(&target);
    }
    let temp = temp_beside(&target);
    let write = || -> Result<()> {
        if temp.exists() {
            ops::remove_dir_all(&temp).map_err(|err| unwritable(&temp, &err))?;
        }
        ops::create_dir(&temp).map_err(|err| unwritable(&temp, &err))?;
        fill(&temp)?;
        publish(&temp, &target).map_err(|err| unwritable(&target, &err))
    };
    write().inspect_err(|_| {
        let _ = ops::remove_dir_all(&temp); // the first error is the one worth telling
    })
}

/// `temp` becomes `target`, whatever stood there.
fn publish(temp: &Path, target: &Path) -> io::Result<()> {
    ops::sync_dir(temp)?;
    let old = old_beside(target);
    let replaces = target.symlink_metadata().is_ok();
    if replaces {
        if old.symlink_metadata().is_ok() {
            remove_any(&old)?;
        }
        ops::rename(target, &old)?;
    }
    if let Err(err) = ops::rename(temp, target) {
        if replaces {
            let _ = ops::rename(&old, target);
        }
        return Err(err);
    }
    ops::sync_dir(parent(target))?;
    if replaces {
        let _ = remove_any(&old); // the new folder stands; what stays of the old is a leftover
    }
    Ok(())
}

/// Removes the folder `parent/name` so that a crash leaves it whole or nothing of it under its name.
pub fn remove_durable_dir(parent: &Path, name: &str) -> Result<()> {
    let target = parent.join(name);
    let doomed = temp_beside(&target);
    let remove = || -> io::Result<()> {
        if doomed.exists() {
            remove_any(&doomed)?;
        }
        ops::rename(&target, &doomed)?;
        ops::sync_dir(parent)?;
        remove_any(&doomed)
    };
    remove().map_err(|err| {
        Error::run(format!("{}: cannot be removed: {}", target.display(), io_reason(&err)))
            .hint("check that you may write there")
            .hint_zh("请检查该位置的写权限")
    })
}

/// Cleans `parent` of what processes left there that died while they wrote. Call it once, before anything is written.
///
/// `alone`: nobody else can be writing there, because the lock of the folder is ours. Then it does not matter whether a process
/// of a leftover's number lives: it is another one that was given the same number. Only [`PROBE`]s are written without the lock.
pub fn remove_leftovers(parent: &Path, alone: bool) -> Result<()> {
    let entries = match fs::read_dir(parent) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|err| unwritable(parent, &err))?,
    };
    let mut leftovers: Vec<(PathBuf, Leftover)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), leftover(entry.file_name().to_str()?)?)))
        .filter(|(_, left)| {
            alone && left.name != PROBE || left.pid == std::process::id() || !process_is_alive(left.pid)
        })
        .collect();
    leftovers.sort();
    for (path, left) in leftovers {
        let home = parent.join(&left.name);
        let result = if left.replaced && home.symlink_metadata().is_err() {
            ops::rename(&path, &home).and_then(|()| ops::sync_dir(parent))
        } else {
            remove_any(&path)
        };
        result.map_err(|err| unwritable(&path, &err))?;
    }
    Ok(())
}

/// Cleans `parent` of what processes left there that died while they wrote `parent/name`; of nothing else, because such a
/// folder is not ours.
pub fn remove_leftovers_of(parent: &Path, name: &str) -> Result<()> {
    let entries = fs::read_dir(parent).map_err(|err| unwritable(parent, &err))?;
    let is_dead = |left: Leftover| left.name == name && !process_is_alive(left.pid);
    for entry in entries.flatten() {
        if entry.file_name().to_str().and_then(leftover).is_some_and(is_dead) {
            remove_any(&entry.path()).map_err(|err| unwritable(&entry.path(), &err))?;
        }
    }
    Ok(())
}

/// What a hidden name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Leftover {
    /// The name it was to have, or had.
    name: String,
    pid: u32,
    /// It stood under `name` until another took its place.
    replaced: bool,
}

/// Reads `.NAME.PID.tmp` and `.NAME.PID.old`.
fn leftover(name: &str) -> Option<Leftover> {
    let (rest, kind) = name.strip_prefix('.')?.rsplit_once('.')?;
    let (name, pid) = rest.rsplit_once('.')?;
    let replaced = match kind {
        "tmp" => false,
        "old" => true,
        _ => return None,
    };
    Some(Leftover { name: name.to_owned(), pid: pid.parse().ok()?, replaced })
}

/// `dir/name` → `dir/.name.PID.old`
fn old_beside(path: &Path) -> PathBuf {
    temp_beside(path).with_extension("old")
}

fn remove_any(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { ops::remove_dir_all(path) } else { ops::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::names;

    fn fill(text: &str) -> impl FnOnce(&Path) -> Result<()> {
        move |dir| {
            for name in ["a", "b"] {
                let digest = write_file_synced(&dir.join(name), text.as_bytes())?;
                assert_eq!(digest.read(dir)?, text.as_bytes());
            }
            Ok(())
        }
    }

    #[test]
    fn a_folder_appears_whole_and_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["first", "second"] {
            write_durable_dir(dir.path(), "checkpoint-5", fill(text)).unwrap();
            assert_eq!(names(dir.path()), ["checkpoint-5"]);
            assert_eq!(fs::read_to_string(dir.path().join("checkpoint-5/b")).unwrap(), text);
        }
        remove_durable_dir(dir.path(), "checkpoint-5").unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
        let err = remove_durable_dir(dir.path(), "checkpoint-5").unwrap_err();
        assert!(err.to_string().contains("checkpoint-5: cannot be removed"), "{err}");
    }

    #[test]
    fn a_failed_folder_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        write_durable_dir(dir.path(), "c", fill("good")).unwrap();
        let err = write_durable_dir(dir.path(), "c", |dir| {
            write_file_synced(&dir.join("a"), b"half")?;
            write_file_synced(&dir.join("no/b"), b"").map(drop)
        });
        assert!(err.unwrap_err().to_string().contains("no/b: cannot write"));
        assert_eq!((names(dir.path()), names(&dir.path().join("c"))), (vec!["c".into()], vec!["a".into(), "b".into()]));
        assert_eq!(fs::read_to_string(dir.path().join("c/a")).unwrap(), "good");
    }

    #[test]
    fn a_file_that_is_another_is_refused_with_the_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let digest = write_file_synced(&path, b"content").unwrap();
        assert_eq!((digest.name.as_str(), digest.size, digest.blake3.len()), ("f", 7, 64));
        for (now, want) in [
            (&b"contemt"[..], "its content has changed since it was written (BLAKE3 differs)"),
            (b"cont", "4 bytes, but 7 were written"),
            (b"", "0 bytes, but 7 were written"),
        ] {
            fs::write(&path, now).unwrap();
            assert!(digest.read(dir.path()).unwrap_err().to_string().ends_with(want), "{want}");
        }
        fs::remove_file(&path).unwrap();
        assert!(digest.read(dir.path()).unwrap_err().to_string().ends_with("f: no such file or directory"));
        #[cfg(unix)]
        {
            fs::write(dir.path().join("g"), "content").unwrap();
            std::os::unix::fs::symlink(dir.path().join("g"), &path).unwrap();
            assert!(digest.read(dir.path()).unwrap_err().to_string().ends_with("f: not a regular file"));
        }
    }

    #[test]
    fn leftovers_of_the_dead_go_and_what_they_replaced_comes_back() {
        // The first process of any machine lives; u32::MAX / 2 is beyond every system's pids.
        let (dead, alive, own) = (u32::MAX / 2, 1, std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("f"), name).unwrap();
        };
        make("checkpoint-5");
        make(&format!(".checkpoint-5.{dead}.old"));
        make(&format!(".checkpoint-10.{dead}.tmp"));
        make(&format!(".checkpoint-10.{dead}.old"));
        make(&format!(".checkpoint-15.{own}.tmp"));
        make(&format!(".checkpoint-20.{alive}.tmp"));
        make(&format!(".{PROBE}.{alive}.tmp"));
        fs::write(dir.path().join(format!(".run.json.{dead}.tmp")), "{").unwrap();
        fs::write(dir.path().join(".lock"), "").unwrap();
        remove_leftovers(dir.path(), false).unwrap();
        let (probe, living) = (".couplet-train.1.tmp", ".checkpoint-20.1.tmp");
        assert_eq!(names(dir.path()), [living, probe, ".lock", "checkpoint-10", "checkpoint-5"]);
        let back = fs::read_to_string(dir.path().join("checkpoint-10/f")).unwrap();
        assert_eq!(back, format!(".checkpoint-10.{dead}.old"), "the crash fell between the two renames");
        remove_leftovers(dir.path(), true).unwrap();
        assert_eq!(names(dir.path()), [probe, ".lock", "checkpoint-10", "checkpoint-5"], "the number was given again");
        remove_leftovers(&dir.path().join("missing"), true).unwrap();
    }

    #[test]
    fn hidden_names_are_read() {
        let left = |name: &str, pid, replaced| Some(Leftover { name: name.into(), pid, replaced });
        for (given, want) in [
            (".checkpoint-5.12.tmp", left("checkpoint-5", 12, false)),
            (".run.json.7.old", left("run.json", 7, true)),
            ("checkpoint-5.12.tmp", None),
            (".checkpoint-5.tmp", None),
            (".lock", None),
            (".a.b.12.txt", None),
        ] {
            assert_eq!(leftover(given), want, "{given}");
        }
        assert_eq!(old_beside(Path::new("o/c")), Path::new(&format!("o/.c.{}.old", std::process::id())));
    }
}
