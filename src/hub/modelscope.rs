//! Downloads a model from ModelScope into the cache of `modelscope`.
//!
//! Files lie under their names in `models/OWNER--NAME/snapshots/REVISION`; what versions before 1.38 left
//! (`models/OWNER/NAME`, with `___` for each `.`) is found and gone on with, as ModelScope's own program does.
//! The list of files names the SHA-256 of each, so that nothing of another version stays in a folder that is completed.

use super::{
    News, cache, check_listing,
    digest::{self, Digest},
    env::HubEnv,
    failure::Failure,
    http::Http,
    lock,
    transfer::{self, Remote, asked},
    words::{Asked, Words},
};
use crate::{
    error::Result,
    fs::{create_dir_all, ops},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The branch that ModelScope begins with.
const MASTER: &str = "master";

/// ModelScope's word for a revision: LlamaFactory's default means its default.
pub fn revision(said: &str) -> &str {
    if said == "main" { MASTER } else { said }
}

/// The folder of a model in the cache `root`, if anything of it was ever there.
pub fn cached(root: &Path, name: &str, revision: &str) -> Option<PathBuf> {
    let new = snapshot(root, name, revision);
    if new.is_dir() { Some(new) } else { legacy(root, name).filter(|_| revision == MASTER) }
}

fn snapshot(root: &Path, name: &str, revision: &str) -> PathBuf {
    root.join("models").join(name.replace('/', "--")).join("snapshots").join(revision)
}

/// What older versions left; such a folder has no revision.
fn legacy(root: &Path, name: &str) -> Option<PathBuf> {
    let (owner, name) = name.split_once('/')?;
    let safe = name.replace('.', "___");
    let places = [
        ["models", owner, &safe].iter().collect::<PathBuf>(),
        ["hub", "models", owner, &safe].iter().collect(),
        [owner, &safe].iter().collect(),
        ["hub", owner, &safe].iter().collect(),
        [owner, name].iter().collect(),
        ["hub", owner, name].iter().collect(),
    ];
    let holds_something = |dir: &PathBuf| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    places.into_iter().map(|place| root.join(place)).find(holds_something)
}

/// Fetches what the cache `root` (absolute) lacks of a model, and returns its folder.
pub fn fetch(name: &str, revision: &str, root: &Path, env: &HubEnv, tell: &mut dyn FnMut(News<'_>)) -> Result<PathBuf> {
    let words = Words::new(name, revision, env);
    let http = Http::new(env).map_err(|failure| words.failed(&Asked::Listing, &failure))?;
    let words = words.over(&http);
    let api = format!("{}/api/v1/models/{name}/repo", env.endpoint);
    let url = format!("{api}/files?Revision={}&Recursive=True", escaped(revision));
    let listing = asked(name, env.pause, tell, || http.json(&url)).and_then(|json| {
        listing(&json, |file| format!("{api}?Revision={}&FilePath={}", escaped(revision), escaped(file)))
    });
    let files = listing.map_err(|failure| words.failed(&Asked::Listing, &failure))?;
    let listed: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    check_listing(name, &listed)?;

    let folder = cached(root, name, revision).unwrap_or_else(|| snapshot(root, name, revision));
    create_dir_all(&folder)?;
    let mut file = |remote: &Remote| {
        let key = format!("modelscope-hub-download-lock-v2\0file\0model\0{name}\0{}", remote.name);
        let lock = root.join(".lock").join(format!("file_{}.lock", digest::sha256(&key)));
        let _held = lock::hold(&lock, || tell(News::Waiting { file: &remote.name }))?;
        let target = folder.join(&remote.name);
        if transfer::is_same(&target, remote) {
            return Ok(());
        }
        let part = incomplete(&folder, remote);
        let fetched = transfer::fetch(&http, remote, &part, env.pause, tell);
        fetched.map_err(|failure| words.failed(&Asked::File(&remote.name), &failure))?;
        ops::rename(&part, &target).map_err(|err| transfer::unwritable(&target, &err))
    };
    let of = |wanted: &str| files.iter().find(|file| file.name == wanted);
    cache::FILES.iter().filter_map(|name| of(name)).try_for_each(&mut file)?;
    let weights: Vec<String> = match of(cache::INDEX) {
        Some(index) => {
            file(index)?;
            cache::shards(&folder.join(cache::INDEX)).unwrap_or_default().into_iter().collect()
        }
        None => vec![cache::SINGLE.to_owned()],
    };
    let weights: Vec<&Remote> = weights.iter().filter_map(|name| of(name)).collect();
    let lacks = |remote: &&Remote| transfer::lacks(remote, &folder.join(&remote.name), &incomplete(&folder, remote));
    words.refuse_full_disk(root, weights.iter().map(lacks).sum())?;
    weights.into_iter().try_for_each(&mut file)?;
    match cache::missing(&folder) {
        missing if missing.is_empty() => Ok(folder),
        missing => Err(words.damaged(&missing, &folder)),
    }
}

/// Where a file lies until it is whole.
fn incomplete(folder: &Path, remote: &Remote) -> PathBuf {
    folder.join(format!("{}.incomplete", remote.name))
}

/// The files beside each other in the repository; none of those in folders is needed.
fn listing(json: &Value, url: impl Fn(&str) -> String) -> Result<Vec<Remote>, Failure> {
    // Some errors come with status 200.
    if json["Success"] == false || json["Code"].as_u64().is_some_and(|code| code != 200) {
        return Err(Failure::status(404, None, None));
    }
    let files = json["Data"]["Files"].as_array().or_else(|| json["Data"].as_array());
    let files = files.ok_or_else(|| Failure::NotAHub("its answer is not that of a hub".into()))?;
    let remote = |file: &Value| {
        let name = file["Path"].as_str().filter(|path| !path.contains(['/', '\\']) && *path != "..")?;
        let digest = file["Sha256"].as_str().and_then(Digest::of_etag);
        let digest = digest.filter(|digest| matches!(digest, Digest::Sha256(_)));
        Some(Remote { name: name.to_owned(), url: url(name), size: file["Size"].as_u64(), digest })
    };
    Ok(files.iter().filter(|file| file["Type"] != "tree").filter_map(remote).collect())
}

/// For the value of a query.
fn escaped(text: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if safe(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    #[test]
    fn folders_of_all_versions_are_found() {
        for (place, revision, want) in [
            ("models/Qwen--Qwen3-0.6B/snapshots/master", MASTER, true),
            ("models/Qwen--Qwen3-0.6B/snapshots/v1", "v1", true),
            ("models/Qwen--Qwen3-0.6B/snapshots/v1", MASTER, false),
            ("models/Qwen/Qwen3-0___6B", MASTER, true),
            ("hub/models/Qwen/Qwen3-0___6B", MASTER, true),
            ("Qwen/Qwen3-0.6B", MASTER, true),
            ("hub/Qwen/Qwen3-0___6B", MASTER, true),
            ("models/Qwen/Qwen3-0___6B", "v1", false),
            ("models/Qwen/Qwen3-0___6B-Base", MASTER, false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join(place);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("config.json"), "{}").unwrap();
            let got = cached(root.path(), "Qwen/Qwen3-0.6B", revision);
            assert_eq!(got, want.then_some(folder), "{place} {revision}");
        }
        assert_eq!((revision("main"), revision("v1")), (MASTER, "v1"));
    }

    #[test]
    fn a_listing_names_files_sizes_and_digests() {
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let json = json!({"Code": 200, "Data": {"Files": [
            {"Path": "a.json", "Type": "blob", "Size": 6, "Sha256": sha},
            {"Path": "folder", "Type": "tree", "Size": 0},
            {"Path": "folder/b.json", "Type": "blob", "Size": 6, "Sha256": sha},
            {"Path": "c d.json", "Type": "blob", "Sha256": ""},
        ]}});
        let got = listing(&json, escaped).unwrap();
        let got: Vec<_> = got.iter().map(|r| (&*r.name, &*r.url, r.size, r.digest.is_some())).collect();
        assert_eq!(got, [("a.json", "a.json", Some(6), true), ("c d.json", "c%20d.json", None, false)]);
        for (bad, is_absent) in [
            (json!({"Code": 10010205001u64, "Success": false}), true),
            (json!({"Code": 404, "Data": {}}), true),
            (json!({"Code": 200, "Data": {}}), false),
            (json!("x"), false),
        ] {
            let failure = listing(&bad, |file| file.to_owned()).unwrap_err();
            assert_eq!(matches!(failure, Failure::Status { status: 404, .. }), is_absent, "{bad}");
        }
    }
}
