//! Downloads a model from the Hugging Face hub, or a mirror of it, into the cache of `huggingface_hub`.
//!
//! The list of files is asked for once and everything is fetched at its commit, so that a repository changing meanwhile gives no
//! mixture. Contents lie in `blobs` under their etag, names in `snapshots/COMMIT` as links to them. A branch points to the commit
//! only when every file is there.

use super::{
    News, cache, check_listing,
    env::HubEnv,
    failure::Failure,
    http::Http,
    lock,
    transfer::{self, Remote, asked},
    words::{Asked, Words},
};
use crate::{
    error::{Error, Result},
    fs::{create_dir_all, ops, write_atomic},
};
use serde_json::Value;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Fetches what the cache `root` (absolute) lacks of a model, and returns its folder.
pub fn fetch(name: &str, revision: &str, root: &Path, env: &HubEnv, tell: &mut dyn FnMut(News<'_>)) -> Result<PathBuf> {
    let words = Words::new(name, revision, env);
    let http = Http::new(env).map_err(|failure| words.failed(&Asked::Listing, &failure))?;
    let words = words.over(&http);
    let url = format!("{}/api/models/{name}/revision/{}", env.endpoint, revision.replace('/', "%2F"));
    let listing = asked(name, env.pause, tell, || http.json(&url)).and_then(|json| listing(&json));
    let (commit, listed) = listing.map_err(|failure| words.failed(&Asked::Listing, &failure))?;
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    check_listing(name, &listed)?;

    let base = cache::repo_folder(root, name);
    let locks = root.join(".locks").join(base.file_name().unwrap_or_default());
    let folder = base.join("snapshots").join(&commit);
    let mut model =
        Download { name, env, http: &http, words: &words, base: &base, locks, folder: &folder, commit, tell };
    for file in cache::FILES.into_iter().filter(|file| listed.contains(file)) {
        let remote = model.look(file)?;
        model.file(remote)?;
    }
    let weights: Vec<String> = match listed.contains(&cache::INDEX) {
        true => {
            let remote = model.look(cache::INDEX)?;
            model.file(remote)?;
            cache::shards(&folder.join(cache::INDEX)).unwrap_or_default().into_iter().collect()
        }
        false => vec![cache::SINGLE.to_owned()],
    };
    // All of them are looked at before the first is fetched: it may be that there is no room.
    let weights: Vec<_> = weights.iter().map(|file| model.look(file)).collect::<Result<_>>()?;
    let lacks = |(remote, etag): &(Remote, String)| {
        let blob = model.blob(etag);
        transfer::lacks(remote, &blob, &incomplete(&blob))
    };
    let need = weights.iter().flatten().map(lacks).sum();
    words.refuse_full_disk(root, need)?;
    weights.into_iter().try_for_each(|weights| model.file(weights))?;

    let commit = model.commit;
    match cache::missing(&folder) {
        missing if missing.is_empty() => {}
        missing => return Err(words.damaged(&missing, &base)),
    }
    if revision != commit {
        let reference = base.join("refs").join(revision);
        create_dir_all(reference.parent().unwrap_or(&base))?;
        write_atomic(&reference, commit.as_bytes())?;
    }
    Ok(folder)
}

/// The commit, which becomes a folder's name, and the names of the files.
fn listing(json: &Value) -> Result<(String, Vec<String>), Failure> {
    let commit = json["sha"].as_str().unwrap_or_default();
    let is_commit = !commit.is_empty() && commit.len() <= 64 && commit.chars().all(|c| c.is_ascii_hexdigit());
    let files = json["siblings"].as_array().filter(|_| is_commit);
    let files = files.ok_or_else(|| Failure::NotAHub("its answer is not that of a hub".into()))?;
    Ok((commit.to_owned(), files.iter().filter_map(|file| file["rfilename"].as_str().map(str::to_owned)).collect()))
}

/// One model at one commit.
struct Download<'a> {
    name: &'a str,
    env: &'a HubEnv,
    http: &'a Http,
    words: &'a Words<'a>,
    /// The model's folder in the cache.
    base: &'a Path,
    /// Where its locks lie.
    locks: PathBuf,
    /// Where the names lie, as links to the contents.
    folder: &'a Path,
    commit: String,
    tell: &'a mut dyn FnMut(News<'_>),
}

impl Download<'_> {
    /// What the hub says of a file, and the etag that names its content; `None` when it is here.
    fn look(&mut self, file: &str) -> Result<Option<(Remote, String)>> {
        let here = self.folder.join(file);
        if if file.ends_with(".safetensors") { cache::is_whole(&here) } else { transfer::length(&here) > 0 } {
            return Ok(None);
        }
        let url = format!("{}/{}/resolve/{}/{file}", self.env.endpoint, self.name, self.commit);
        let head = asked(file, self.env.pause, self.tell, || self.http.head(&url));
        let is_name = |etag: &str| {
            !etag.is_empty()
                && !etag.starts_with('.')
                && etag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let found = head.and_then(|head| match head.etag {
            Some(etag) if is_name(&etag) && etag.len() <= 200 && !head.is_page => {
                Ok((Remote { name: file.to_owned(), url, size: head.size, digest: head.digest }, etag))
            }
            _ if head.is_page => Err(Failure::NotAHub("it answers with a web page".into())),
            _ => Err(Failure::NotAHub("it does not say what the file is (no etag)".into())),
        });
        found.map(Some).map_err(|failure| self.words.failed(&Asked::File(file), &failure))
    }

    /// Fetches a file that is not here, and gives it its name.
    fn file(&mut self, found: Option<(Remote, String)>) -> Result<()> {
        let Some((remote, etag)) = found else { return Ok(()) };
        let blob = self.blob(&etag);
        create_dir_all(&self.base.join("blobs"))?;
        create_dir_all(self.folder)?;
        let waiting = || (self.tell)(News::Waiting { file: &remote.name });
        let _held = lock::hold(&self.locks.join(format!("{etag}.lock")), waiting)?;
        // Another process, or another commit, may have brought it.
        if !blob.is_file() || remote.size.is_some_and(|size| size != transfer::length(&blob)) {
            let part = incomplete(&blob);
            let fetched = transfer::fetch(self.http, &remote, &part, self.env.pause, self.tell);
            fetched.map_err(|failure| self.words.failed(&Asked::File(&remote.name), &failure))?;
            ops::rename(&part, &blob).map_err(|err| transfer::unwritable(&blob, &err))?;
        }
        link(&blob, &self.folder.join(&remote.name))
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.base.join("blobs").join(etag)
    }
}

/// Where a content lies until it is whole.
fn incomplete(blob: &Path) -> PathBuf {
    let mut name = blob.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    blob.with_file_name(name)
}

/// `snapshots/COMMIT/NAME` → `../../blobs/ETAG`; where the disk knows no links, the content once more.
///
/// A process that has waited for another one comes here when that one is reading the file already, so the name is never missing.
fn link(blob: &Path, name: &Path) -> Result<()> {
    let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
    if fs::read_link(name).is_ok_and(|there| there == target) {
        return Ok(());
    }
    let new = name.with_file_name(format!(".{}.new", name.file_name().unwrap_or_default().display()));
    let _ = fs::remove_file(&new); // of a process that was killed
    let linked =
        symlink(&target, &new).or_else(|_| fs::hard_link(blob, &new)).or_else(|_| fs::copy(blob, &new).map(drop));
    let named = linked.and_then(|()| ops::rename(&new, name));
    let _ = fs::remove_file(&new); // two names of one content are not renamed into each other
    named.map_err(|err: std::io::Error| -> Error { transfer::unwritable(name, &err) })
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_listing_has_a_commit_and_files() {
        let good = json!({"sha": "0123abcd", "siblings": [{"rfilename": "a"}, {"other": 1}, {"rfilename": "b"}]});
        assert_eq!(listing(&good).unwrap(), ("0123abcd".into(), vec!["a".into(), "b".into()]));
        for bad in [
            json!({"sha": "../../x", "siblings": []}),
            json!({"sha": "", "siblings": []}),
            json!({"sha": "a".repeat(65), "siblings": []}),
            json!({"sha": "0123abcd"}),
            json!([]),
            json!(null),
        ] {
            assert!(matches!(listing(&bad), Err(Failure::NotAHub(_))), "{bad}");
        }
    }

    /// A cache with one blob under one name: its folder, the blob, the name.
    fn cache() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, folder) = (dir.path().join("blobs"), dir.path().join("snapshots/0123"));
        [&blobs, &folder].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let (blob, name) = (blobs.join("abc"), folder.join("config.json"));
        fs::write(&blob, "x").unwrap();
        link(&blob, &name).unwrap();
        (dir, blob, name)
    }

    #[test]
    fn a_name_is_a_link_that_can_be_moved_with_the_cache() {
        let (_dir, blob, name) = cache();
        assert_eq!(fs::read(&name).unwrap(), b"x");
        #[cfg(unix)]
        assert_eq!(fs::read_link(&name).unwrap(), Path::new("../../blobs/abc"));
        let other = blob.with_file_name("def");
        fs::write(&other, "y").unwrap();
        link(&other, &name).unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"y", "the content of another commit");
        assert_eq!(fs::read_dir(name.parent().unwrap()).unwrap().count(), 1, "and nothing else is left");
    }

    #[test]
    #[cfg(unix)]
    fn a_name_that_is_right_stays_what_it_is() {
        use std::os::unix::fs::MetadataExt;
        let (_dir, blob, name) = cache();
        let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
        fs::hard_link(&name, name.with_file_name("keeps the inode")).unwrap();
        link(&blob, &name).unwrap();
        assert_eq!(inode(&name), inode(&name.with_file_name("keeps the inode")), "whoever reads it meanwhile finds it");
    }
}
