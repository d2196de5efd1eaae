//! A model name → a folder, against hubs on this machine: what is fetched, gone on with, refused, and what is said about it.

mod server;

use couplet_train::{
    error::{Error, Result},
    hub::{HubEnv, News, resolve},
};
pub use server::{Asked, COMMIT, Files, MODEL, Manner, Server, etag};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &str = "model.safetensors.index.json";
const MODELSCOPE: (&str, &str) = ("USE_MODELSCOPE_HUB", "1");

/// One tensor of `len` bytes.
fn safetensors(name: &str, len: usize) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
    let data = (0..len).map(|i| i as u8).collect::<Vec<_>>();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// What a model consists of, and what else lies in its repository.
fn small_files() -> Files {
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "pytorch_model.bin",
        "training_args.pt",
    ];
    names.map(|name| (name.into(), format!("{{\"of\": \"{name}\"}}").into_bytes())).into()
}

fn single_model() -> Files {
    [small_files(), vec![("model.safetensors".into(), safetensors("w", 300))]].concat()
}

fn sharded_model() -> Files {
    let index = format!(r#"{{"weight_map": {{"a": "{}", "b": "{}", "c": "{}"}}}}"#, SHARDS[0], SHARDS[1], SHARDS[1]);
    let weights = vec![
        (INDEX.into(), index.into()),
        (SHARDS[0].into(), safetensors("a", 200)),
        (SHARDS[1].into(), safetensors("b", 300)),
        ("consolidated.safetensors".into(), safetensors("all", 500)),
    ];
    [small_files(), weights].concat()
}

/// The files that must be fetched of [`sharded_model`].
const NEEDED: [&str; 6] = ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX, SHARDS[0], SHARDS[1]];

/// An environment of these variables and nothing else; it waits for nothing between two attempts.
fn env(vars: &[(&str, &str)]) -> HubEnv {
    HubEnv::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
        .with_pause(Duration::ZERO)
}

/// Asks the hub of `server` for the model, with the cache `root`.
fn ask(server: &Server, root: &Path) -> Result<PathBuf> {
    ask_as(server, root, &[])
}

fn ask_as(server: &Server, root: &Path, vars: &[(&str, &str)]) -> Result<PathBuf> {
    let endpoint = [("HF_ENDPOINT", &*server.endpoint), ("MODELSCOPE_ENDPOINT", &*server.endpoint)];
    resolve(MODEL, "main", Some(root), &env(&[&endpoint, vars].concat()), &mut |_| {})
}

fn offline(root: &Path, vars: &[(&str, &str)]) -> Result<PathBuf> {
    resolve(MODEL, "main", Some(root), &env(&[&[("HF_HUB_OFFLINE", "1")], vars].concat()), &mut |_| {})
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn assert_holds(folder: &Path, files: &Files, names: &[&str]) {
    let mut there: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    let mut wanted = names.to_vec();
    wanted.sort_unstable();
    assert_eq!(there, wanted, "what a model needs, and nothing else");
    for name in names {
        let (_, content) = files.iter().find(|(file, _)| file == name).unwrap();
        assert!(&fs::read(folder.join(name)).unwrap() == content, "{name} differs");
    }
}

/// Message and both hints of an error, for snapshots: addresses and folders replaced.
fn said(err: &Error, server: &Server, root: &Path) -> String {
    let text = format!("{err}\n  {}\n  {}\n", err.hint_text(false).unwrap(), err.hint_text(true).unwrap());
    assert!(!err.to_string().contains('\n'), "one sentence: {err}");
    text.replace(&server.endpoint, "HUB").replace(root.to_str().unwrap(), "CACHE")
}

#[test]
fn a_model_is_fetched_once_and_then_found_offline() {
    let (root, files) = (temp(), sharded_model());
    let server = Server::polite(files.clone());
    let vars = [("HF_ENDPOINT", &*server.endpoint), ("HF_TOKEN", "secret")];
    let mut told = Vec::new();
    let mut tell = |news: News<'_>| match news {
        News::Arrived { file, done, total } => told.push((file.to_owned(), done, total)),
        news => panic!("{news:?}"),
    };
    let folder = resolve(MODEL, "main", Some(root.path()), &env(&vars), &mut tell).unwrap();
    assert_holds(&folder, &files, &NEEDED);
    for name in NEEDED {
        let size = fs::metadata(folder.join(name)).unwrap().len();
        assert!(told.contains(&(name.to_owned(), size, size)), "{name} is reported to its end");
    }
    let asked = server.asked();
    for unwanted in ["README.md", "pytorch_model.bin", "training_args.pt", "consolidated.safetensors"] {
        assert!(!asked.iter().any(|asked| asked.path.contains(unwanted)), "{unwanted} is not asked for");
    }
    assert_eq!(offline(root.path(), &[]).unwrap(), folder);
    assert_eq!(ask(&server, root.path()).unwrap(), folder);
    assert_eq!(server.asked().len(), asked.len(), "a complete cache needs no network");
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_where_it_stores_its_files() {
    for (vars, as_cookie) in
        [(&[("HF_TOKEN", "secret")][..], false), (&[("MODELSCOPE_API_TOKEN", "secret"), MODELSCOPE], true)]
    {
        let (root, server) = (temp(), Server::polite(sharded_model()));
        ask_as(&server, root.path(), vars).unwrap();
        let (storage, hub): (Vec<_>, Vec<_>) = server.asked().into_iter().partition(|asked| asked.of_storage);
        assert!(hub.len() >= 6 && storage.len() == 2, "{} and {}", hub.len(), storage.len());
        for asked in hub {
            assert_eq!(asked.header("authorization"), Some("Bearer secret"), "{}", asked.head);
            assert_eq!(asked.header("cookie"), as_cookie.then_some("m_session_id=secret"), "{}", asked.head);
        }
        assert!(storage.iter().all(|asked| !asked.head.contains("secret")), "{storage:?}");
    }
    let (root, server) = (temp(), Server::polite(single_model()));
    ask(&server, root.path()).unwrap();
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_none()), "no token, no header");
}

#[test]
#[cfg(unix)]
fn the_cache_is_huggingface_hubs() {
    let (root, files) = (temp(), single_model());
    let server = Server::polite(files.clone());
    let folder = ask(&server, root.path()).unwrap();
    let base = root.path().join("models--org--tiny");
    assert_eq!(folder, base.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(base.join("refs/main")).unwrap(), COMMIT);
    for name in ["config.json", "model.safetensors"] {
        let (_, content) = files.iter().find(|(file, _)| file == name).unwrap();
        let etag = etag(content, name.ends_with(".safetensors"));
        assert_eq!(fs::read_link(folder.join(name)).unwrap(), Path::new("../../blobs").join(&etag), "{name}");
        assert_eq!(&fs::read(base.join("blobs").join(&etag)).unwrap(), content, "{name}");
        assert!(root.path().join(".locks/models--org--tiny").join(format!("{etag}.lock")).is_file());
    }
    let left: Vec<_> = fs::read_dir(base.join("blobs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "no part of a file is left: {left:?}");
}

#[test]
#[cfg(unix)]
fn what_huggingface_hub_downloaded_is_found_and_completed() {
    let (root, files) = (temp(), single_model());
    let base = root.path().join("models--org--tiny");
    let folder = base.join("snapshots").join(COMMIT);
    [&base.join("blobs"), &base.join("refs"), &folder].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    fs::write(base.join("refs/main"), COMMIT).unwrap();
    let wanted = ["config.json", "tokenizer.json", "model.safetensors"];
    for (name, content) in files.iter().filter(|(name, _)| wanted.contains(&&**name)) {
        let etag = etag(content, name.ends_with(".safetensors"));
        fs::write(base.join("blobs").join(&etag), content).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&etag), folder.join(name)).unwrap();
    }
    assert_eq!(offline(root.path(), &[]).unwrap(), folder);

    // One name is missing, its content is here, as after another commit with the same file.
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let server = Server::polite(files);
    assert_eq!(ask(&server, root.path()).unwrap(), folder);
    assert!(!server.asked().iter().any(|asked| asked.gets("tokenizer.json")), "a content that is here is not fetched");
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    for (revision, reference) in
        [("main", Some("main")), ("v1.0", Some("v1.0")), ("refs/pr/1", Some("refs/pr/1")), (COMMIT, None)]
    {
        let (root, server) = (temp(), Server::polite(single_model()));
        let env = env(&[("HF_ENDPOINT", &server.endpoint)]);
        let folder = resolve(MODEL, revision, Some(root.path()), &env, &mut |_| {}).unwrap();
        assert!(folder.ends_with(COMMIT));
        let refs = root.path().join("models--org--tiny/refs");
        match reference {
            Some(reference) => assert_eq!(fs::read_to_string(refs.join(reference)).unwrap(), COMMIT),
            None => assert!(!refs.exists(), "a commit needs no reference"),
        }
        let before = server.asked().len();
        assert_eq!(resolve(MODEL, revision, Some(root.path()), &env, &mut |_| {}).unwrap(), folder);
        assert_eq!(server.asked().len(), before, "{revision} is found again without a question");
    }
}

#[test]
fn a_broken_connection_is_gone_on_with_where_it_broke() {
    let (root, files) = (temp(), sharded_model());
    let server = Server::start(files.clone(), |asked| match asked.gets(SHARDS[1]) {
        true => Manner::CutAfter(100), // every time, so that it takes several
        false => Manner::Normal,
    });
    assert_holds(&ask(&server, root.path()).unwrap(), &files, &NEEDED);
    let ranges: Vec<_> = server.asked().into_iter().filter(|asked| asked.gets(SHARDS[1])).collect();
    let ranges: Vec<_> = ranges.iter().map(|asked| asked.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100-"), Some("bytes=200-"), Some("bytes=300-")]);
}

#[test]
fn an_interrupted_download_is_no_model_and_is_finished_later() {
    for vars in [&[][..], &[MODELSCOPE]] {
        let (root, files) = (temp(), sharded_model());
        let server = Server::start(files.clone(), |asked| match (asked.gets(SHARDS[1]), asked.count) {
            (true, 1) => Manner::CutAfter(100),
            (true, _) => Manner::HangUp,
            _ => Manner::Normal,
        });
        let err = ask_as(&server, root.path(), vars).unwrap_err();
        assert!(err.to_string().contains(&format!("org/tiny: cannot get `{}` from http://", SHARDS[1])), "{err}");
        assert!(err.hint_text(false).unwrap().contains("what has arrived is kept"));
        let err = offline(root.path(), vars).unwrap_err();
        assert!(err.to_string().contains(&format!("missing: {}", SHARDS[1])) || err.to_string().contains("all files"));

        let server = Server::polite(files.clone());
        assert_holds(&ask_as(&server, root.path(), vars).unwrap(), &files, &NEEDED);
        let gets: Vec<_> =
            server.asked().into_iter().filter(|asked| asked.method == "GET" && asked.of_storage).collect();
        assert_eq!(gets.len(), 1, "what is here is not fetched again: {gets:?}");
        assert_eq!(gets[0].header("range"), Some("bytes=100-"));
    }
}

#[test]
fn a_server_that_cannot_begin_in_the_middle_is_read_from_the_beginning() {
    let (root, files) = (temp(), sharded_model());
    let server = Server::start(files.clone(), |asked| match (asked.gets(SHARDS[1]), asked.count) {
        (true, 1) => Manner::CutAfter(100),
        (true, _) => Manner::FromTheBeginning,
        _ => Manner::Normal,
    });
    assert_holds(&ask(&server, root.path()).unwrap(), &files, &NEEDED);
}

#[test]
fn a_part_that_is_no_beginning_of_the_file_is_not_gone_on_with() {
    let whole = safetensors("b", 300);
    let blob = format!("models--org--tiny/blobs/{}.incomplete", etag(&whole, true));
    for (part, why) in [
        (vec![b'x'; 100], "another file's bytes: the digest tells"),
        (vec![b'x'; whole.len()], "as long as the whole"),
        (vec![b'x'; whole.len() + 5], "longer than the whole"),
        (whole.clone(), "the whole, cut off before it got its name"),
    ] {
        let (root, files) = (temp(), sharded_model());
        fs::create_dir_all(root.path().join(&blob).parent().unwrap()).unwrap();
        fs::write(root.path().join(&blob), &part).unwrap();
        let server = Server::polite(files.clone());
        assert_holds(&ask(&server, root.path()).unwrap(), &files, &NEEDED);
        let gets = server.asked().iter().filter(|asked| asked.gets(SHARDS[1])).count();
        let needed = if part == whole {
            0
        } else if part.len() == 100 {
            2
        } else {
            1
        };
        assert_eq!(gets, needed, "{why}");
    }
}

#[test]
fn wrong_bytes_are_kept_nowhere_and_asked_for_once_more() {
    for vars in [&[][..], &[MODELSCOPE]] {
        for (manner, want) in [
            (Manner::Wrong, "its digest is "),
            (Manner::Short, " bytes are sent instead of "),
            (Manner::PageInDisguise, "bytes are sent instead of "),
        ] {
            let wrong = move |asked: &Asked| asked.gets(SHARDS[1]);
            let (root, files) = (temp(), sharded_model());
            let always = Server::start(files.clone(), move |asked| if wrong(asked) { manner } else { Manner::Normal });
            let err = ask_as(&always, root.path(), vars).unwrap_err();
            assert!(err.to_string().contains("came damaged from http") && err.to_string().contains(want), "{err}");
            assert!(offline(root.path(), vars).is_err());
            let once = Server::start(files.clone(), move |asked| match wrong(asked) && asked.count == 1 {
                true => manner,
                false => Manner::Normal,
            });
            assert_holds(&ask_as(&once, root.path(), vars).unwrap(), &files, &NEEDED);
            let gets = once.asked().into_iter().filter(wrong).collect::<Vec<_>>();
            assert!(gets.iter().all(|asked| asked.header("range").is_none()), "nothing was kept: {gets:?}");
        }
    }
}

#[test]
fn an_answer_of_another_length_costs_nothing_of_what_came_before() {
    for vars in [&[][..], &[MODELSCOPE]] {
        let (root, files) = (temp(), sharded_model());
        let server = Server::start(files.clone(), |asked| match (asked.gets(SHARDS[1]), asked.count) {
            (true, 1) => Manner::CutAfter(100),
            (true, _) => Manner::PageInDisguise,
            _ => Manner::Normal,
        });
        let err = ask_as(&server, root.path(), vars).unwrap_err();
        assert!(err.to_string().contains(" bytes are sent instead of "), "{err}");
        assert!(err.hint_text(false).unwrap().starts_with("nothing of that was taken, what came before is kept"));
        let server = Server::polite(files.clone());
        assert_holds(&ask_as(&server, root.path(), vars).unwrap(), &files, &NEEDED);
        let gets: Vec<_> = server.asked().into_iter().filter(|asked| asked.gets(SHARDS[1])).collect();
        assert_eq!(gets[0].header("range"), Some("bytes=100-"));
    }
    // What was kept of wrong bytes is said to be gone, and is.
    let (root, files) = (temp(), sharded_model());
    let server = Server::start(files, |asked| if asked.gets(SHARDS[1]) { Manner::Wrong } else { Manner::Normal });
    let err = ask(&server, root.path()).unwrap_err();
    assert!(err.hint_text(false).unwrap().starts_with("nothing of it was kept"), "{err:?}");
    let part = format!("models--org--tiny/blobs/{}.incomplete", etag(&safetensors("b", 300), true));
    assert!(!root.path().join(part).exists());
}

#[test]
fn small_files_are_digested_as_git_does() {
    let root = temp();
    let server = Server::start(single_model(), |asked| match asked.gets("config.json") {
        true => Manner::Wrong,
        false => Manner::Normal,
    });
    let err = ask(&server, root.path()).unwrap_err();
    assert!(err.to_string().contains("`config.json` came damaged"), "{err}");
}

#[test]
fn a_mirror_that_knows_no_digests_is_counted_on() {
    let (root, files) = (temp(), single_model());
    let server = Server::start(files.clone(), |asked| match asked.path.contains("/resolve") {
        true => Manner::OwnEtag,
        false => Manner::Normal,
    });
    let folder = ask(&server, root.path()).unwrap();
    assert_holds(&folder, &files, &["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]);
    let root = temp();
    let server = Server::start(files, |asked| match asked {
        asked if asked.path.contains("/resolve") => Manner::OwnEtag,
        asked if asked.of_storage => Manner::Short,
        _ => Manner::Normal,
    });
    let err = ask(&server, root.path()).unwrap_err();
    assert!(err.to_string().contains(" bytes are sent instead of "), "{err}");
}

#[test]
fn what_a_storage_calls_a_content_is_no_digest_of_it() {
    let (root, files) = (temp(), single_model());
    let server = Server::start(files.clone(), |_| Manner::NamedByStorage);
    let folder = ask(&server, root.path()).unwrap();
    assert_holds(&folder, &files, &["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]);
}

#[test]
fn a_page_instead_of_a_file_is_told_from_a_model() {
    for (page, what) in [
        ("/api/models/", "the list of files"),
        ("/resolve/", "`config.json`"),
        ("/resolve-cache/", "`config.json`"),
        ("/storage/", "`model.safetensors`"),
    ] {
        let (root, server) = (
            temp(),
            Server::start(single_model(), move |asked| match asked.path.contains(page) {
                true => Manner::Page,
                false => Manner::Normal,
            }),
        );
        let err = ask(&server, root.path()).unwrap_err();
        assert!(err.to_string().ends_with("it answers with a web page"), "{page}: {err}");
        assert!(err.to_string().contains(&format!("cannot get {what} from http")), "{page}: {err}");
        assert!(err.hint_text(false).unwrap().starts_with("HF_ENDPOINT must be"));
        assert!(offline(root.path(), &[]).is_err(), "{page}");
    }
}

#[test]
fn refusals_name_the_way_out() {
    let mut all = String::new();
    let token = ("HF_TOKEN", "secret");
    let ms_token = ("MODELSCOPE_API_TOKEN", "secret");
    for (why, manner, at, vars) in [
        ("gated, no token", Manner::Status(401, "GatedRepo"), "/resolve/", &[][..]),
        ("gated, token without access", Manner::Status(403, "GatedRepo"), "/resolve/", &[token]),
        ("not shown, no token", Manner::Status(401, "RepoNotFound"), "", &[]),
        ("not shown, token", Manner::Status(404, "RepoNotFound"), "", &[token]),
        ("token not accepted", Manner::Status(401, ""), "", &[token]),
        ("listed and not there", Manner::Status(404, "EntryNotFound"), "/resolve/", &[]),
        ("server down", Manner::Status(503, ""), "/revision/", &[]),
        ("ModelScope, no such model", Manner::Status(404, ""), "", &[MODELSCOPE]),
        ("ModelScope, no access", Manner::Status(403, ""), "", &[MODELSCOPE, ms_token]),
    ] {
        let (root, server) = (
            temp(),
            Server::start(single_model(), move |asked| match asked.path.contains(at) {
                // What there is instead is told all the same.
                true if !asked.path.contains("/api/models?") => manner,
                _ => Manner::Normal,
            }),
        );
        let err = ask_as(&server, root.path(), vars).unwrap_err();
        assert!(!format!("{err}{:?}", err.hint_text(false)).contains("secret"));
        all += &format!("{why}: {}", said(&err, &server, root.path()));
    }
    for (revision, vars) in [("v2", &[][..]), ("v2", &[MODELSCOPE])] {
        let (root, server) = (temp(), Server::polite(single_model()));
        let endpoint = [("HF_ENDPOINT", &*server.endpoint), ("MODELSCOPE_ENDPOINT", &*server.endpoint)];
        let env = env(&[&endpoint, vars].concat());
        let err = resolve(MODEL, revision, Some(root.path()), &env, &mut |_| {}).unwrap_err();
        all += &format!("no such revision: {}", said(&err, &server, root.path()));
    }
    for (name, why) in
        [("org/tinny", "a slip"), ("tiny-chad", "a slip, without an owner"), ("else/none", "nothing like it")]
    {
        let (root, server) = (temp(), Server::polite(single_model()));
        let env = env(&[("HF_ENDPOINT", &server.endpoint)]);
        let err = resolve(name, "main", Some(root.path()), &env, &mut |_| {}).unwrap_err();
        all += &format!("{why}: {}", said(&err, &server, root.path()));
    }
    let (root, nobody) = (temp(), ("HF_ENDPOINT", "http://127.0.0.1:9"));
    let server = Server::polite(vec![]);
    for (why, vars) in [
        ("no network", &[nobody][..]),
        ("no address", &[("HF_ENDPOINT", "http://a b")]),
        ("no address for a proxy", &[nobody, ("HTTP_PROXY", "ht tp")]),
        ("a token that is none", &[nobody, ("HF_TOKEN", "secret\u{1}secret")]),
        ("a token that is none, ModelScope", &[MODELSCOPE, ("MODELSCOPE_API_TOKEN", "secret secret")]),
        ("offline", &[("HF_HUB_OFFLINE", "1")]),
        ("offline, ModelScope", &[("HF_HUB_OFFLINE", "1"), MODELSCOPE]),
        ("openMind", &[("USE_OPENMIND_HUB", "true")]),
    ] {
        let err = resolve(MODEL, "main", Some(root.path()), &env(vars), &mut |_| {}).unwrap_err();
        assert!(!format!("{err}{:?}", err.hint_text(false)).contains("secret"));
        all += &format!("{why}: {}", said(&err, &server, root.path()));
    }
    let lacking = Server::polite(small_files());
    all += &format!("no safetensors: {}", said(&ask(&lacking, root.path()).unwrap_err(), &lacking, root.path()));
    insta::assert_snapshot!("hub_refusals", all);
}

#[test]
fn a_passing_failure_is_tried_again_and_told() {
    let (root, files) = (temp(), single_model());
    let server = Server::start(files.clone(), |asked| match (asked.count, asked.method.as_str()) {
        (1, "HEAD") => Manner::Status(502, ""),
        (1, _) => Manner::HangUp,
        (2, _) if asked.of_storage => Manner::Status(429, ""),
        _ => Manner::Normal,
    });
    let mut told = Vec::new();
    let mut tell = |news: News<'_>| {
        if let News::Again { file, reason, .. } = news {
            told.push(format!("{file}: {reason}"));
        }
    };
    let folder =
        resolve(MODEL, "main", Some(root.path()), &env(&[("HF_ENDPOINT", &server.endpoint)]), &mut tell).unwrap();
    assert_holds(&folder, &files, &["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]);
    for want in [
        "config.json: it answers with status 502",
        "model.safetensors: 127.0.0.1, where it keeps its files, answers with status 429",
    ] {
        assert!(told.iter().any(|told| told == want), "{want}: {told:?}");
    }
    assert!(told.iter().any(|told| told.starts_with("org/tiny: ")), "the list of files: {told:?}");
}

#[test]
fn a_storage_that_refuses_is_asked_once_more_with_a_fresh_address_and_named() {
    for vars in [&[][..], &[("HF_TOKEN", "secret")], &[MODELSCOPE], &[MODELSCOPE, ("MODELSCOPE_API_TOKEN", "secret")]] {
        for status in [403, 404, 401] {
            let (root, files) = (temp(), single_model());
            let refuse = move |asked: &Asked, most: usize| match asked.gets("model.safetensors") && asked.count <= most
            {
                true => Manner::Status(status, ""),
                false => Manner::Normal,
            };
            let always = Server::start(files.clone(), move |asked| refuse(asked, usize::MAX));
            let err = ask_as(&always, root.path(), vars).unwrap_err();
            let want = format!("127.0.0.1, where it keeps its files, answers with status {status}");
            assert!(err.to_string().ends_with(&want), "{err}");
            assert!(err.to_string().starts_with("org/tiny: cannot get `model.safetensors` from http"), "{err}");
            assert!(err.hint_text(false).unwrap().starts_with("start again"), "{err:?}");
            let asked = always.asked().iter().filter(|asked| asked.gets("model.safetensors")).count();
            assert_eq!(asked, 2, "{status}");
            // An address that is too old, say.
            let once = Server::start(files.clone(), move |asked| refuse(asked, 1));
            ask_as(&once, root.path(), vars).unwrap();
            let of_hub = |asked: &&Asked| asked.method == "GET" && !asked.of_storage;
            let hub = once.asked().into_iter().filter(|asked| of_hub(&asked)).map(|asked| asked.path);
            let fresh = hub.filter(|path| path.contains("model.safetensors")).count();
            assert_eq!(fresh, 2, "the hub is asked for another address");
        }
    }
}

#[test]
fn pauses_double_and_follow_the_server_within_reason() {
    let server = Server::start(single_model(), |_| Manner::Status(503, ""));
    let vars = [("HF_ENDPOINT", &*server.endpoint)];
    let mut pauses = Vec::new();
    let mut tell = |news: News<'_>| {
        if let News::Again { pause, .. } = news {
            pauses.push(pause.as_millis());
        }
    };
    let env = env(&vars).with_pause(Duration::from_millis(2));
    resolve(MODEL, "main", Some(temp().path()), &env, &mut tell).unwrap_err();
    assert_eq!(pauses, [2, 4]);
}

#[test]
fn what_brought_a_mib_is_gone_on_with_at_once_and_what_brought_less_after_a_pause() {
    let mib = 1 << 20;
    let files = [small_files(), vec![("model.safetensors".into(), safetensors("w", 3 * mib))]].concat();
    for (bring, attempts, pause, why) in
        [(mib, 4, 0, "a mebibyte each"), (mib - 1, 4, 2, "less: a server that trickles is not asked without a pause")]
    {
        for vars in [&[][..], &[MODELSCOPE]] {
            let root = temp();
            let server = Server::start(files.clone(), move |asked| match asked.gets("model.safetensors") {
                true => Manner::CutAfter(bring),
                false => Manner::Normal,
            });
            let mut pauses = Vec::new();
            let mut tell = |news: News<'_>| {
                if let News::Again { pause, .. } = news {
                    pauses.push(pause.as_millis());
                }
            };
            let endpoint = [("HF_ENDPOINT", &*server.endpoint), ("MODELSCOPE_ENDPOINT", &*server.endpoint)];
            let env = env(&[&endpoint, vars].concat()).with_pause(Duration::from_millis(2));
            resolve(MODEL, "main", Some(root.path()), &env, &mut tell).unwrap();
            assert_eq!(pauses, vec![pause; attempts - 1], "{why}");
        }
    }
}

#[test]
fn the_fifth_attempt_in_a_row_that_brings_nothing_is_the_last() {
    // Which attempts bring something, the last of them all there is; the pauses between attempts in milliseconds.
    for (bring, arrives, want, why) in [
        (&[1, 6][..], true, &[2, 2, 4, 8, 16][..], "four in a row bring nothing"),
        (&[1, 5, 6, 10], true, &[2, 2, 4, 8, 2, 2, 2, 4, 8], "the count begins again"),
        (&[1, 7], false, &[2, 2, 4, 8, 16], "five in a row bring nothing"),
        (&[6], false, &[2, 4, 8, 16], "the first five bring nothing"),
    ] {
        for vars in [&[][..], &[MODELSCOPE]] {
            let (root, files) = (temp(), sharded_model());
            let server = Server::start(files.clone(), move |asked| match asked.gets(SHARDS[1]) {
                true if bring.last() == Some(&asked.count) => Manner::Normal,
                true if bring.contains(&asked.count) => Manner::CutAfter(50),
                true => Manner::HangUp,
                false => Manner::Normal,
            });
            let mut pauses = Vec::new();
            let mut tell = |news: News<'_>| {
                if let News::Again { pause, .. } = news {
                    pauses.push(pause.as_millis());
                }
            };
            let endpoint = [("HF_ENDPOINT", &*server.endpoint), ("MODELSCOPE_ENDPOINT", &*server.endpoint)];
            let env = env(&[&endpoint, vars].concat()).with_pause(Duration::from_millis(2));
            let got = resolve(MODEL, "main", Some(root.path()), &env, &mut tell);
            assert_eq!((got.is_ok(), &pauses[..]), (arrives, want), "{why}: {got:?}");
            let attempts = server.asked().iter().filter(|asked| asked.gets(SHARDS[1])).count();
            assert_eq!(attempts, want.len() + 1, "{why}");
        }
    }
}

#[test]
fn a_slow_server_is_waited_for_and_a_silent_one_is_not() {
    let (root, files) = (temp(), single_model());
    let slow = Server::start(files.clone(), |_| Manner::Slowly);
    ask_as(&slow, root.path(), &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]).unwrap();

    let root = temp();
    let silent = Server::start(files, |asked| match (asked.of_storage, asked.count) {
        (true, 1) => Manner::Silent,
        _ => Manner::Normal,
    });
    let mut told = Vec::new();
    let vars = [("HF_ENDPOINT", &*silent.endpoint), ("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    let mut tell = |news: News<'_>| {
        if let News::Again { reason, .. } = news {
            told.push(reason.to_owned());
        }
    };
    resolve(MODEL, "main", Some(root.path()), &env(&vars), &mut tell).unwrap();
    // On a busy machine others may have been too slow as well.
    let want = "it said nothing for too long (127.0.0.1, where it keeps its files)";
    assert!(told.iter().any(|told| told == want), "{told:?}");
}

#[test]
fn two_at_once_fetch_each_file_once() {
    for vars in [&[][..], &[MODELSCOPE]] {
        let (root, files) = (temp(), sharded_model());
        let server = Server::start(files.clone(), |asked| match asked.of_storage {
            true => Manner::Slowly, // long enough for the other to come
            false => Manner::Normal,
        });
        let folders = std::thread::scope(|scope| {
            let ask = || ask_as(&server, root.path(), vars).unwrap();
            let both = [scope.spawn(ask), scope.spawn(ask)];
            both.map(|thread| thread.join().unwrap())
        });
        assert_eq!(folders[0], folders[1]);
        assert_holds(&folders[0], &files, &NEEDED);
        for shard in SHARDS {
            let gets = server.asked().iter().filter(|asked| asked.gets(shard)).count();
            assert_eq!(gets, 1, "{shard}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_and_what_has_arrived_is_kept() {
    let (root, server) = (temp(), Server::polite(single_model()));
    let part = root.path().join(format!("models--org--tiny/blobs/{}.incomplete", etag(&safetensors("w", 300), true)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &part).unwrap(); // every write to it says that there is no room
    let err = ask(&server, root.path()).unwrap_err();
    assert!(err.to_string().ends_with(".incomplete: cannot write: no space left on device"), "{err}");
    assert!(err.hint_text(false).unwrap().starts_with("make room and start again"));
    let asked = server.asked().iter().filter(|asked| asked.gets("model.safetensors")).count();
    assert_eq!(asked, 1, "no further attempt would help");
}

#[test]
fn modelscope_keeps_files_where_its_own_program_does() {
    let (root, files) = (temp(), sharded_model());
    let server = Server::polite(files.clone());
    let folder = ask_as(&server, root.path(), &[MODELSCOPE]).unwrap();
    assert_eq!(folder, root.path().join("models/org--tiny/snapshots/master"));
    assert_holds(&folder, &files, &NEEDED);
    assert_eq!(offline(root.path(), &[MODELSCOPE]).unwrap(), folder);
    assert!(offline(root.path(), &[]).is_err(), "the other hub's cache is another");

    // What a version before 1.38 left in part is gone on with where it lies; a file of another content is replaced.
    let root = temp();
    let old = root.path().join("models/org/tiny");
    fs::create_dir_all(&old).unwrap();
    for (name, content) in files.iter().filter(|(name, _)| NEEDED[..4].contains(&&**name)) {
        fs::write(old.join(name), if name == "config.json" { vec![b'?'; content.len()] } else { content.clone() })
            .unwrap();
    }
    let server = Server::polite(files.clone());
    assert_eq!(ask_as(&server, root.path(), &[MODELSCOPE]).unwrap(), old);
    assert_holds(&old, &files, &NEEDED);
    let fetched: Vec<String> =
        server.asked().into_iter().map(|asked| asked.path).filter(|path| path.contains("FilePath")).collect();
    assert_eq!(fetched.len(), 3, "config.json and two shards: {fetched:?}");
}

#[test]
fn a_repository_that_changes_meanwhile_gives_no_mixture() {
    let (root, files) = (temp(), single_model());
    let server = Server::polite(files);
    let other = [small_files(), vec![("model.safetensors".to_owned(), safetensors("w", 400))]].concat();
    // ModelScope has no commits in its addresses: the digests of the list tell.
    let mut changed = false;
    let mut tell = |news: News<'_>| {
        if matches!(news, News::Arrived { file: "config.json", .. }) && !changed {
            changed = true;
            server.change(other.clone());
        }
    };
    let vars = [("MODELSCOPE_ENDPOINT", &*server.endpoint), MODELSCOPE];
    let err = resolve(MODEL, "main", Some(root.path()), &env(&vars), &mut tell).unwrap_err();
    assert!(err.to_string().contains("came damaged"), "{err}");
}

/// For trying other programs against: `cargo test --release --test integration serve_a_model -- --ignored --nocapture`.
#[test]
#[ignore = "waits until it is killed"]
fn serve_a_model() {
    let server = Server::start(sharded_model(), |asked| {
        println!("{} {} {:?}", asked.method, asked.path, asked.header("range"));
        Manner::Normal
    });
    println!("HF_ENDPOINT={}", server.endpoint);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
