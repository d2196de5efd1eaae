//! One file, from the first byte to the last: gone on with where it was cut off, tried again after a while, counted and digested.

use super::{
    News,
    digest::{Digest, Hasher},
    failure::Failure,
    http::Http,
};
use crate::{
    error::{Error, io_reason},
    fs::ops,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    time::Duration,
};

/// Attempts one after the other that bring nothing, before a download is given up.
const ATTEMPTS: u32 = 5;
/// The same for a question, which is asked again soon or not at all.
const QUESTIONS: u32 = 3;
/// Attempts at a file whose bytes come out wrong: a second one from its beginning.
const DAMAGED: u32 = 2;
/// The same at one that the hub's storage refuses, in a row: a second one with a fresh address.
const REFUSED: u32 = 2;
/// Bytes that make an attempt worth another one without a pause. A server that closes after less is not asked without end.
const WORTH_IT: u64 = 1 << 20;
/// The longest wait between two attempts, also where a server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Bytes between two reports.
const REPORT_EVERY: u64 = 1 << 20;
/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// A file of a repository.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its name in the repository.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// How long it is.
    pub size: Option<u64>,
    /// What its bytes are.
    pub digest: Option<Digest>,
}

/// Asks until there is an answer, another attempt would not help, or patience ends.
pub fn asked<T>(
    what: &str,
    pause: Duration,
    tell: &mut dyn FnMut(News<'_>),
    mut ask: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut tried = 0;
    loop {
        tried += 1;
        match ask() {
            Err(failure) if failure.is_passing() && tried < QUESTIONS => {
                wait(what, &failure, tried, pause, tell);
            }
            answer => return answer,
        }
    }
}

/// Fetches `remote` into `part`, where an earlier attempt may have left its beginning. In the end the file is whole and synced.
///
/// What a failed download has brought stays in `part`, unless the bytes are wrong.
pub fn fetch(
    http: &Http,
    remote: &Remote,
    part: &Path,
    pause: Duration,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<(), Failure> {
    let (mut tried, mut damaged, mut refused) = (0, 0, 0);
    let mut hashed = None;
    loop {
        let before = length(part);
        let failure = match attempt(http, remote, part, &mut hashed, tell) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Damaged(_) | Failure::NotTheFile(_)) {
            damaged += 1;
        }
        // An attempt that brought something is no failed one.
        let brought = length(part).saturating_sub(before);
        tried = if brought > 0 { 0 } else { tried + 1 };
        refused = if failure.is_of_storage() { refused + 1 } else { 0 };
        if !failure.is_passing() || tried >= ATTEMPTS || damaged >= DAMAGED || refused >= REFUSED {
            return Err(failure);
        }
        match brought {
            WORTH_IT.. => tell(News::Again { file: &remote.name, reason: &failure.reason(), pause: Duration::ZERO }),
            _ => wait(&remote.name, &failure, tried, pause, tell),
        }
    }
}

fn wait(what: &str, failure: &Failure, tried: u32, pause: Duration, tell: &mut dyn FnMut(News<'_>)) {
    let asked = match failure {
        Failure::Status { retry_after: Some(seconds), .. } => Duration::from_secs(*seconds),
        _ => Duration::ZERO,
    };
    let pause = pause.saturating_mul(1 << tried.saturating_sub(1).min(6)).max(asked).min(LONGEST_PAUSE);
    tell(News::Again { file: what, reason: &failure.reason(), pause });
    std::thread::sleep(pause);
}

/// One request, and everything that comes of it.
fn attempt(
    http: &Http,
    remote: &Remote,
    part: &Path,
    hashed: &mut Option<Hashed>,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<(), Failure> {
    let mut have = length(part);
    if remote.size.is_some_and(|size| have > size) {
        remove(part)?;
        have = 0;
    }
    if have > 0 && remote.size == Some(have) {
        return Writer::open(part, remote, have, have, hashed.take())?.finish(); // cut off between the last byte and the renaming
    }
    let content = http.content(&remote.url, have).inspect_err(|failure| {
        if matches!(failure, Failure::Status { status: 416, .. }) {
            let _ = fs::remove_file(part); // there is nothing behind these bytes, so they are not those of the file
        }
    });
    let content = match content {
        Err(Failure::Status { status: 416, .. }) => {
            return Err(Failure::Damaged("what was here was no beginning of it".into()));
        }
        content => content?,
    };
    let size = match (remote.size, content.total) {
        (Some(size), Some(total)) if size != total => {
            return Err(Failure::NotTheFile(format!("{total} bytes are sent instead of {size}")));
        }
        (said, total) => said.or(total),
    };
    let size = size.ok_or_else(|| Failure::NotAHub("it does not say how long the file is".into()))?;
    let mut writer = Writer::open(part, remote, content.start, size, hashed.take())?;
    match writer.take(content.body, tell) {
        Ok(()) => writer.finish(),
        Err(failure) => {
            *hashed = writer.hashed;
            Err(failure)
        }
    }
}

/// The digest of the first `done` bytes of a file of `size` bytes: what an attempt has digested the next one need not read again.
struct Hashed {
    hasher: Hasher,
    done: u64,
    size: u64,
}

impl Hashed {
    /// Of the first `done` bytes of `part`, which are read unless `earlier` is their digest.
    fn of(part: &Path, digest: &Digest, done: u64, size: u64, earlier: Option<Self>) -> Result<Self, Failure> {
        if let Some(earlier) = earlier.filter(|earlier| (earlier.done, earlier.size) == (done, size)) {
            return Ok(earlier);
        }
        let local = |err: io::Error| Failure::Local(unwritable(part, &err));
        let mut hashed = Self { hasher: digest.begin(size), done: 0, size };
        let mut kept = File::open(part).map_err(local)?.take(done);
        let read = pieces(&mut kept, |piece| {
            hashed.update(piece);
            Ok(())
        });
        match read {
            Ok(()) => Ok(hashed),
            Err(Stopped::Reading(err)) => Err(local(err)),
            Err(Stopped::Taking(failure)) => Err(failure),
        }
    }

    fn update(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.done += piece.len() as u64;
    }
}

/// The part of a file that is here, and its digest so far.
struct Writer<'a> {
    file: File,
    part: &'a Path,
    remote: &'a Remote,
    hashed: Option<Hashed>,
    done: u64,
    size: u64,
}

impl<'a> Writer<'a> {
    /// Keeps the first `start` bytes of `part`. `earlier`: what an earlier attempt has digested.
    fn open(
        part: &'a Path,
        remote: &'a Remote,
        start: u64,
        size: u64,
        earlier: Option<Hashed>,
    ) -> Result<Self, Failure> {
        let local = |err: io::Error| Failure::Local(unwritable(part, &err));
        let file = ops::open_append(part).map_err(local)?;
        let earlier = earlier.filter(|_| length(part) == start);
        if length(part) != start {
            ops::truncate(&file, part, start).map_err(local)?;
        }
        let hashed = remote.digest.as_ref().map(|digest| Hashed::of(part, digest, start, size, earlier)).transpose()?;
        Ok(Self { file, part, remote, hashed, done: start, size })
    }

    /// Writes all that comes.
    fn take(&mut self, mut body: Box<dyn Read>, tell: &mut dyn FnMut(News<'_>)) -> Result<(), Failure> {
        let mut told = self.report(tell);
        let taken = pieces(&mut body, |piece| {
            if self.done + piece.len() as u64 > self.size {
                return Err(Failure::Damaged(format!("more than its {} bytes are sent", self.size)));
            }
            let written = ops::write_all(&self.file, self.part, piece);
            written.map_err(|err| Failure::Local(unwritable(self.part, &err)))?;
            if let Some(hashed) = &mut self.hashed {
                hashed.update(piece);
            }
            self.done += piece.len() as u64;
            if self.done >= told + REPORT_EVERY {
                told = self.report(tell);
            }
            Ok(())
        });
        match taken {
            Ok(()) if self.done < self.size => {
                Err(Failure::Broken(format!("the connection was closed after {} of {} bytes", self.done, self.size)))
            }
            Ok(()) => {
                self.report(tell);
                Ok(())
            }
            Err(Stopped::Reading(err)) => Err(Failure::of_body(&err)),
            Err(Stopped::Taking(failure)) => {
                if matches!(failure, Failure::Damaged(_)) {
                    remove(self.part)?;
                }
                Err(failure)
            }
        }
    }

    fn report(&self, tell: &mut dyn FnMut(News<'_>)) -> u64 {
        tell(News::Arrived { file: &self.remote.name, done: self.done, total: self.size });
        self.done
    }

    /// The digest must be right; then the bytes go to the disk.
    fn finish(self) -> Result<(), Failure> {
        if let (Some(want), Some(hashed)) = (&self.remote.digest, self.hashed) {
            let got = hashed.hasher.finish();
            if got != want.hex() {
                remove(self.part)?;
                return Err(Failure::Damaged(format!("its digest is {got} instead of {}", want.hex())));
            }
        }
        ops::sync_file(&self.file, self.part).map_err(|err| Failure::Local(unwritable(self.part, &err)))
    }
}

/// Who ended the reading of a body.
enum Stopped {
    Reading(io::Error),
    Taking(Failure),
}

fn pieces(from: &mut impl Read, mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Stopped> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => take(&buffer[..n]).map_err(Stopped::Taking)?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(Stopped::Reading(err)),
        }
    }
}

/// Whether the bytes of `path` are those of `remote`.
pub fn is_same(path: &Path, remote: &Remote) -> bool {
    let size = length(path);
    if !path.is_file() || remote.size.is_some_and(|want| want != size) {
        return false;
    }
    let Some(digest) = &remote.digest else { return remote.size.is_some() };
    let mut hasher = digest.begin(size);
    let read = File::open(path).is_ok_and(|mut file| {
        let all = pieces(&mut file, |piece| {
            hasher.update(piece);
            Ok(())
        });
        all.is_ok()
    });
    read && hasher.finish() == digest.hex()
}

/// Bytes of `remote` that are still to come: it lies in `whole` when it is whole, its beginning in `part` until then.
pub fn lacks(remote: &Remote, whole: &Path, part: &Path) -> u64 {
    let size = remote.size.unwrap_or(0);
    if length(whole) == size { 0 } else { size.saturating_sub(length(part)) }
}

/// Length of a file in bytes; 0 when there is none.
pub fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn remove(path: &Path) -> Result<(), Failure> {
    match ops::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Failure::Local(unwritable(path, &err))),
        _ => Ok(()),
    }
}

/// The error of a download that cannot be written.
pub fn unwritable(path: &Path, err: &io::Error) -> Error {
    let error = Error::input(format!("{}: cannot write: {}", path.display(), io_reason(err)));
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => error
            .hint("make room and start again, what has arrived is kept; or choose `cache_dir` (or HF_HOME) on another disk")
            .hint_zh("请腾出空间后重新运行，已下载的部分会保留；或将 `cache_dir`（或 HF_HOME）设到其他磁盘"),
        _ => error
            .hint("choose `cache_dir` (or HF_HOME) below a folder you may write to")
            .hint_zh("请将 `cache_dir`（或 HF_HOME）设到有写权限的位置"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attempt_has_digested_the_next_one_does_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("w.incomplete");
        let digest = Digest::Sha256(super::super::digest::sha256("hello"));
        for (in_file, done, size, want, why) in [
            ("HEL", 3, 5, true, "what lies there is not looked at"),
            ("HEL", 3, 6, false, "the file has another length"),
            ("HE", 2, 5, false, "less is there"),
        ] {
            fs::write(&part, in_file).unwrap();
            let mut earlier = Hashed { hasher: digest.begin(5), done: 0, size: 5 };
            earlier.update(b"hel");
            let mut hashed = Hashed::of(&part, &digest, done, size, Some(earlier)).unwrap();
            assert_eq!(hashed.done, done, "{why}");
            hashed.update(b"lo");
            assert_eq!(hashed.hasher.finish() == digest.hex(), want, "{why}");
        }
    }

    #[test]
    fn what_has_arrived_needs_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let [whole, part] = ["w", "w.incomplete"].map(|name| dir.path().join(name));
        for (size, whole_len, part_len, want, why) in [
            (Some(100), None, None, 100, "nothing is here"),
            (Some(100), None, Some(30), 70, "a beginning is"),
            (Some(100), Some(100), None, 0, "all is"),
            (Some(100), Some(100), Some(30), 0, "all is, and a beginning that nobody needs"),
            (Some(100), Some(90), Some(30), 70, "another file is, and is replaced"),
            (Some(100), None, Some(120), 0, "more is than fits it: that makes room when it is removed"),
            (None, None, Some(30), 0, "nobody says how long it is"),
        ] {
            for (path, len) in [(&whole, whole_len), (&part, part_len)] {
                let _ = fs::remove_file(path);
                len.into_iter().for_each(|len| fs::write(path, vec![0; len]).unwrap());
            }
            let remote = Remote { name: "w".into(), url: String::new(), size, digest: None };
            assert_eq!(lacks(&remote, &whole, &part), want, "{why}");
        }
    }
}
