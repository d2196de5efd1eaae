//! The file system, one small function a call. Everything that saves, resumes or prunes goes through here, so that the fault
//! suite can break each call. They return the system's errors; the callers know what to say about them.

use super::fault::{self, Call};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Opens an empty file, whatever was there.
pub fn create(path: &Path) -> io::Result<File> {
    perform(Call::Create(path), || File::create(path))
}

/// Opens a file to write behind its end; creates it if need be.
pub fn open_append(path: &Path) -> io::Result<File> {
    perform(Call::Open(path), || OpenOptions::new().create(true).append(true).open(path))
}

/// Writes all of `bytes`. `file` is open at `path`.
pub fn write_all(mut file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fault::parts(bytes).try_for_each(|part| perform(Call::Write(path, part), || file.write_all(part)))
}

/// Cuts a file to its first `len` bytes.
pub fn truncate(file: &File, path: &Path, len: u64) -> io::Result<()> {
    perform(Call::Truncate(path, len), || file.set_len(len))
}

/// Puts a file's bytes on the disk.
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    if fault::mutant("no_sync") {
        return Ok(());
    }
    perform(Call::SyncFile(path), || file.sync_all())
}

/// Puts a folder's names on the disk. File systems that cannot sync a folder keep them by themselves or not at all.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    // Only Unix opens folders as files.
    if !cfg!(unix) || fault::mutant("no_sync") {
        return Ok(());
    }
    perform(Call::SyncDir(path), || match File::open(path)?.sync_all() {
        Err(err) if matches!(err.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    })
}

/// Gives a file or folder another name on the same file system; a file of that name is replaced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    perform(Call::Rename(from, to), || fs::rename(from, to))
}

/// Removes a file or a link.
pub fn remove_file(path: &Path) -> io::Result<()> {
    perform(Call::RemoveFile(path), || fs::remove_file(path))
}

/// Removes a folder and all in it, file by file in the order of their names. Links are removed, not followed.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() { remove_dir_all(&entry.path())? } else { remove_file(&entry.path())? }
    }
    perform(Call::RemoveDir(path), || fs::remove_dir(path))
}

/// Makes a folder; its parent must be there and it must not.
pub fn create_dir(path: &Path) -> io::Result<()> {
    perform(Call::CreateDir(path), || fs::create_dir(path))
}

/// Makes a folder and its parents, and puts the names of those that were missing on the disk. An existing folder is fine.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    let parent = super::parent(path);
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if parent != Path::new(".") {
        create_dir_all(parent)?;
    }
    match create_dir(path) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(err) => Err(err),
        Ok(()) => sync_dir(parent),
    }
}

/// A file's bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    perform(Call::Read(path), || fs::read(path))
}

/// A call that a signal interrupted is made again.
fn perform<T>(call: Call<'_>, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        let result = fault::before(&call).and_then(|number| {
            let result = act();
            fault::after(number, &call, result.is_ok());
            result
        });
        match result {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_their_parents_and_removed_with_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "x").unwrap();
        fs::write(dir.path().join("kept"), "x").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path().join("kept"), deep.join("link")).unwrap();
        remove_dir_all(&dir.path().join("a")).unwrap();
        assert!(!dir.path().join("a").exists() && dir.path().join("kept").exists(), "a link is not followed");
        assert!(create_dir_all(&dir.path().join("kept/below")).is_err(), "a file is in the way");
    }
}
