//! Downloads a model into the Hugging Face cache through `hf-hub`.
//!
//! The list of files is asked for once and everything is fetched at its commit, so that a repository changing meanwhile gives no mixture.
//! A branch points to the commit only when every file is there and as long as it should be.

use super::{HubEnv, Progress, cache};
use crate::{
    error::{Error, Result},
    fs::{create_dir_all, write_atomic},
};
use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder, ApiError, ApiRepo},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Small files a model is used with; the first two it must have.
const FILES: [&str; 5] =
    [cache::REQUIRED[0], cache::REQUIRED[1], "generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// Bytes between two reports.
const REPORT_EVERY: u64 = 1 << 20;

/// Fetches what the cache `root` lacks of a model, and returns its folder.
pub fn fetch(
    name: &str,
    revision: &str,
    root: &Path,
    env: &HubEnv,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf> {
    // hf-hub links files relative to each other and wants absolute paths for it.
    let root = std::path::absolute(root)?;
    let base = cache::repo_folder(&root, name);
    let failed = |err| failed(name, "the list of files", env, err);
    let api = ApiBuilder::from_cache(Cache::new(root))
        .with_endpoint(env.endpoint.clone())
        .with_token(env.token())
        .with_progress(false)
        .build()
        .map_err(failed)?;
    let at = |revision: &str| api.repo(Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()));
    let info = at(revision).info().map_err(failed)?;
    let listed: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    check_listing(name, &listed, &info.sha)?;

    let folder = base.join("snapshots").join(&info.sha);
    let repo = at(&info.sha);
    let mut model = Download { name, env, api: &api, repo, blobs: base.join("blobs"), folder: &folder, progress };
    for file in FILES.iter().filter(|file| listed.contains(file)) {
        model.file(file)?;
    }
    if listed.contains(&cache::INDEX) {
        model.file(cache::INDEX)?;
        for shard in cache::shards(&folder.join(cache::INDEX)).unwrap_or_default() {
            model.file(&shard)?;
        }
    } else {
        model.file(cache::SINGLE)?;
    }

    let missing = cache::missing(&folder);
    if !missing.is_empty() {
        return Err(Error::input(format!("{name}: damaged after the download: {}", missing.join(", ")))
            .hint(format!("delete {} and start again", base.display()))
            .hint_zh(format!("请删除 {} 后重新运行", base.display())));
    }
    if revision != info.sha {
        let reference = base.join("refs").join(revision);
        create_dir_all(reference.parent().unwrap_or(&base))?;
        write_atomic(&reference, info.sha.as_bytes())?;
    }
    Ok(folder)
}

/// A repository without these files would be downloaded in vain; its commit becomes a folder name.
fn check_listing(name: &str, listed: &[&str], commit: &str) -> Result<()> {
    let weights = [cache::INDEX, cache::SINGLE];
    let lacks = match cache::REQUIRED.iter().find(|file| !listed.contains(file)) {
        Some(file) => Some(*file),
        None if weights.iter().any(|file| listed.contains(file)) => None,
        None => Some(cache::SINGLE),
    };
    if let Some(file) = lacks {
        return Err(Error::input(format!("{name}: the repository has no `{file}`"))
            .hint("a base model with safetensors weights is needed, not an adapter, a GGUF or a PyTorch .bin")
            .hint_zh("需要带 safetensors 权重的基座模型，而不是适配器、GGUF 或 PyTorch .bin 文件"));
    }
    if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Error::input(format!("{name}: the server named `{commit}`, which is no commit"))
            .hint("check HF_ENDPOINT: it must point to a Hugging Face hub or a mirror of it")
            .hint_zh("请检查 HF_ENDPOINT：它必须指向 Hugging Face 或其镜像"));
    }
    Ok(())
}

/// One model at one commit.
struct Download<'a> {
    name: &'a str,
    env: &'a HubEnv,
    api: &'a Api,
    repo: ApiRepo,
    /// Where the contents lie, each under its etag.
    blobs: PathBuf,
    /// Where the names lie, as links to the contents.
    folder: &'a Path,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Download<'_> {
    /// Fetches one file unless it is here; goes on where an earlier attempt stopped.
    fn file(&mut self, file: &str) -> Result<()> {
        let here = self.folder.join(file);
        let complete = if file.ends_with(".safetensors") { cache::is_whole(&here) } else { here.is_file() };
        if complete {
            return Ok(());
        }
        let what = format!("`{file}`");
        let failed = |err| failed(self.name, &what, self.env, err);
        let metadata = self.api.metadata(&self.repo.url(file)).map_err(failed)?;
        let (size, etag) = (metadata.size() as u64, metadata.etag());
        if etag.contains("..") {
            return Err(failed(ApiError::InvalidHeader("etag")));
        }
        let blob = self.blobs.join(etag);
        let part = blob.with_extension("part"); // hf-hub's name
        if length(&part) >= size {
            // Cut off between the last byte and the renaming: hf-hub would ask for what lies behind the end, and fail.
            let _ = fs::remove_file(&part);
        }
        let mut best = length(&part);
        while let Err(err) = self.repo.download_with_progress(file, Meter::new(file, self.progress)) {
            // An attempt that brought something is followed by another. Not hf-hub's own retries: they lose the place in the file.
            let now = length(&part);
            if now <= best || now >= size {
                return Err(failed(err));
            }
            best = now;
        }
        self.check_size(file, &blob, size)
    }

    /// hf-hub does not count what it received: a server that ignores ranges sends the beginning once more.
    fn check_size(&self, file: &str, blob: &Path, size: u64) -> Result<()> {
        let got = length(blob);
        if got == size {
            return Ok(());
        }
        let _ = fs::remove_file(self.folder.join(file));
        let _ = fs::remove_file(blob);
        Err(Error::input(format!("{}: `{file}` came with {got} bytes instead of {size}", self.name))
            .hint("start again: the damaged file was removed; if it happens again, try another HF_ENDPOINT")
            .hint_zh("损坏的文件已删除，请重新运行；若再次出现，请更换 HF_ENDPOINT"))
    }
}

/// Length of a file in bytes; 0 when there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Passes hf-hub's counting on, not for every buffer.
struct Meter<'a> {
    file: &'a str,
    done: u64,
    total: u64,
    told: u64,
    tell: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Meter<'a> {
    fn new(file: &'a str, tell: &'a mut dyn FnMut(Progress<'_>)) -> Self {
        Self { file, done: 0, total: 0, told: 0, tell }
    }

    fn report(&mut self) {
        self.told = self.done;
        (self.tell)(Progress { file: self.file, done: self.done, total: self.total });
    }
}

impl hf_hub::api::Progress for Meter<'_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total) = (0, size as u64); // called once more when the transfer begins
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if self.told == 0 || self.done >= self.told + REPORT_EVERY {
            self.report();
        }
    }

    fn finish(&mut self) {
        self.report();
    }
}

/// What went wrong and what to do, in the user's words.
fn failed(name: &str, what: &str, env: &HubEnv, err: ApiError) -> Error {
    if let ApiError::LockAcquisition(path) = &err {
        return Error::input(format!("{name}: another process is downloading {what}"))
            .hint(format!("wait for it and start again (it holds {})", path.display()))
            .hint_zh(format!("请等待其完成后重新运行（锁文件：{}）", path.display()));
    }
    let text = err.to_string();
    let reason = text.strip_prefix("request error: ").unwrap_or(&text);
    let error = Error::input(format!("{name}: cannot get {what} from {}: {reason}", env.endpoint));
    // ureq's words: its error type cannot be named through hf-hub.
    if ["401", "403", "404"].iter().any(|status| reason.contains(&format!("http status: {status}"))) {
        return error
            .hint("check the name and `model_revision`, capitals too; a gated or private model needs HF_TOKEN. A local folder is written `./folder`")
            .hint_zh("请检查模型名和 `model_revision`（区分大小写）；受限或私有模型需要设置 HF_TOKEN。本地文件夹请写成 `./folder`");
    }
    error
        .hint(format!(
            "check the network; or set HF_ENDPOINT to a mirror (such as https://hf-mirror.com); or run \
             `huggingface-cli download {name} --local-dir DIR` elsewhere and name that folder. What has arrived is kept"
        ))
        .hint_zh(format!(
            "请检查网络；或将 HF_ENDPOINT 设为镜像（如 https://hf-mirror.com）；或在其他机器上运行 \
             `huggingface-cli download {name} --local-dir DIR` 并填写该文件夹。已下载的部分会保留"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{resolve, testing::*};

    /// Asks `server` for the model with an empty or existing cache at `root`.
    fn ask(server: &Server, root: &Path) -> Result<PathBuf> {
        resolve("org/tiny", "main", Some(root), &hub_env(&[("HF_ENDPOINT", &server.endpoint)]), &mut |_| {})
    }

    fn offline(root: &Path) -> Result<PathBuf> {
        resolve("org/tiny", "main", Some(root), &hub_env(&[("HF_HUB_OFFLINE", "1")]), &mut |_| {})
    }

    fn assert_same(folder: &Path, files: &[(String, Vec<u8>)]) {
        for (name, content) in files {
            assert!(&fs::read(folder.join(name)).unwrap() == content, "{name} differs");
        }
    }

    #[test]
    fn a_model_is_fetched_once_and_then_found_offline() {
        let root = tempfile::tempdir().unwrap();
        let files = sharded_model();
        let server = Server::start(files.clone(), |_| Answer::Normal);
        let env = hub_env(&[("HF_ENDPOINT", &server.endpoint), ("HF_TOKEN", "secret")]);
        let mut told = Vec::new();
        let mut tell = |p: Progress<'_>| told.push((p.file.to_owned(), p.done, p.total));
        let folder = resolve("org/tiny", "main", Some(root.path()), &env, &mut tell).unwrap();
        assert_same(&folder, &files);
        assert!(!folder.join("README.md").exists(), "only what a model needs");
        for (name, content) in files.iter() {
            let size = content.len() as u64;
            assert!(told.contains(&(name.clone(), size, size)), "{name} is reported to its end");
        }
        assert_eq!(offline(root.path()).unwrap(), folder);
        let requests = server.requests();
        assert!(requests.iter().all(|request| request.contains("authorization: Bearer secret")), "{requests:?}");
        assert_eq!(ask(&server, root.path()).unwrap(), folder);
        assert_eq!(server.requests().len(), requests.len(), "a complete cache needs no network");
    }

    #[test]
    fn a_model_in_one_file() {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(single_model(), |_| Answer::Normal);
        assert_same(&ask(&server, root.path()).unwrap(), &single_model());
    }

    #[test]
    fn a_broken_connection_is_resumed() {
        let root = tempfile::tempdir().unwrap();
        let files = sharded_model();
        let server = Server::start(files.clone(), |path| match path.ends_with(SHARDS[1]) {
            true => Answer::CutAfter(100), // every time, so that it takes several
            false => Answer::Normal,
        });
        let folder = ask(&server, root.path()).unwrap();
        assert_same(&folder, &files);
        let ranges: Vec<_> = server.requests().into_iter().filter(|r| r.contains(SHARDS[1])).collect();
        assert!(ranges.iter().any(|request| request.contains("range: bytes=100-")), "{ranges:?}");
    }

    #[test]
    fn an_interrupted_download_is_no_model_and_is_finished_later() {
        let root = tempfile::tempdir().unwrap();
        let files = sharded_model();
        let server = Server::start(files.clone(), |path| match path.ends_with(SHARDS[1]) {
            true => Answer::HangUp,
            false => Answer::Normal,
        });
        let err = ask(&server, root.path()).unwrap_err();
        assert!(err.to_string().contains(&format!("org/tiny: cannot get `{}` from http://", SHARDS[1])), "{err}");
        assert!(err.hint_text(false).unwrap().contains("HF_ENDPOINT"));
        offline(root.path()).expect_err("no branch points to it");
        let commit = resolve("org/tiny", COMMIT, Some(root.path()), &hub_env(&[("HF_HUB_OFFLINE", "1")]), &mut |_| {});
        assert!(commit.unwrap_err().to_string().contains(&format!("missing: {})", SHARDS[1])));

        let server = Server::start(files.clone(), |_| Answer::Normal);
        assert_same(&ask(&server, root.path()).unwrap(), &files);
        let asked: Vec<_> = server.requests().into_iter().filter(|request| request.contains("resolve")).collect();
        assert!(asked.iter().all(|request| request.contains(SHARDS[1])), "the missing shard alone: {asked:?}");
    }

    #[test]
    fn leftovers_of_an_earlier_attempt_do_no_harm() {
        let files = single_model();
        let whole = &files.iter().find(|(name, _)| name == cache::SINGLE).unwrap().1;
        for (part, ignores_ranges, ok, why) in [
            (&whole[..40], false, true, "half a file is continued"),
            (&whole[..], false, true, "a whole one that was never renamed"),
            (&[0; 5000][..], false, true, "one too long"),
            (&whole[..40], true, false, "a server that always starts at the beginning"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let blobs = cache::repo_folder(root.path(), "org/tiny").join("blobs");
            fs::create_dir_all(&blobs).unwrap();
            fs::write(blobs.join(format!("{}.part", etag(cache::SINGLE))), part).unwrap();
            let mode = if ignores_ranges { |_: &str| Answer::IgnoreRange } else { |_: &str| Answer::Normal };
            let server = Server::start(files.clone(), mode);
            match ask(&server, root.path()) {
                Ok(folder) => assert_same(&folder, &files),
                Err(err) => assert!(!ok && err.to_string().contains("instead of"), "{why}: {err}"),
            }
            assert_eq!(offline(root.path()).is_ok(), ok, "{why}");
            assert_same(&ask(&server, root.path()).expect("the next start is clean"), &files);
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let refuse = |status| {
            let root = tempfile::tempdir().unwrap();
            let server = Server::start(single_model(), move |_| Answer::Status(status));
            ask(&server, root.path()).unwrap_err()
        };
        for (status, hint) in [(401, "HF_TOKEN"), (404, "check the name"), (500, "check the network")] {
            let err = refuse(status);
            assert!(err.to_string().contains(&format!("http status: {status}")), "{err}");
            assert!(err.hint_text(false).unwrap().contains(hint), "{status}: {err:?}");
            assert!(err.hint_text(true).is_some());
        }
        for lacks in ["config.json", "tokenizer.json", "model.safetensors"] {
            let root = tempfile::tempdir().unwrap();
            let files = single_model().into_iter().filter(|(name, _)| name != lacks).collect();
            let err = ask(&Server::start(files, |_| Answer::Normal), root.path()).unwrap_err();
            assert!(err.to_string().contains(&format!("the repository has no `{lacks}`")), "{err}");
        }
        let root = tempfile::tempdir().unwrap();
        let env = hub_env(&[("HF_ENDPOINT", "http://127.0.0.1:9")]);
        let err = resolve("org/tiny", "main", Some(root.path()), &env, &mut |_| {}).unwrap_err();
        assert!(err.to_string().contains("org/tiny: cannot get the list of files from http://127.0.0.1:9"), "{err}");
    }
}
