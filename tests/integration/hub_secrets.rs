//! A canary in every place where a token can be given: the hub hears it sing, and nobody else ever does.

use crate::{
    hub::{Files, Manner, Server},
    support::{Ended, Workspace},
};
use std::path::Path;

const CANARY: &str = "hf_canary0123456789";

/// A run of one step on the fixture, whose base is a name.
const SHORT: [&str; 8] = [
    "--config",
    "train.yaml",
    "model_name_or_path=org/tiny",
    "adapter_name_or_path=null",
    "max_steps=1",
    "warmup_ratio=0",
    "save_strategy=steps",
    "save_steps=1",
];

/// How a canary is given: variables, files (written relative to the workspace), words on the command line.
#[derive(Default)]
struct Given<'a> {
    why: &'a str,
    env: Vec<(&'a str, String)>,
    files: Vec<(&'a str, String)>,
    words: Vec<String>,
}

/// The fixture, and its model as a repository.
fn workspace() -> (Workspace, Files) {
    let work = Workspace::of_fixture("lf_run");
    let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let files = names.map(|name| (name.to_owned(), std::fs::read(work.path("model").join(name)).unwrap())).into();
    std::fs::remove_dir_all(work.path("model")).unwrap();
    (work, files)
}

fn run(work: &Workspace, server: &Server, args: &[&str], env: &[(&str, String)]) -> Ended {
    let endpoints = [("HF_ENDPOINT", &*server.endpoint), ("MODELSCOPE_ENDPOINT", &*server.endpoint)];
    let home = work.path("home");
    let fixed = [("HF_HUB_OFFLINE", "0"), ("HOME", home.to_str().unwrap()), ("RUST_BACKTRACE", "1"), ("NO_PROXY", "*")];
    let given: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    work.run_with(args, &[&endpoints[..], &fixed, &given].concat())
}

/// The files below `dir` that hold the canary, in any encoding that a program might write it in.
fn singing(dir: &Path, allowed: &[&str]) -> Vec<String> {
    let base64 = "aGZfY2FuYXJ5MDEyMzQ1Njc4O"; // of the canary, for a header like `Basic`
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(singing(&path, allowed));
        } else if let Ok(bytes) = std::fs::read(&path) {
            let holds = |word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
            let name = path.to_str().unwrap().to_owned();
            let named = name.contains(CANARY);
            if named || (!allowed.iter().any(|end| name.ends_with(end)) && (holds(CANARY) || holds(base64))) {
                found.push(name);
            }
        }
    }
    found
}

#[track_caller]
fn assert_silent(work: &Workspace, ended: &Ended, given: &Given<'_>) {
    for (stream, text) in [("stdout", &ended.stdout), ("stderr", &ended.stderr)] {
        assert!(!text.contains("canary"), "{}: {stream}: {text}", given.why);
    }
    let allowed: Vec<&str> = given.files.iter().map(|(name, _)| *name).collect();
    assert_eq!(singing(work.dir(), &allowed), Vec::<String>::new(), "{}", given.why);
}

fn canary() -> String {
    CANARY.to_owned()
}

/// Every way that brings the token to the hub.
fn ways() -> Vec<Given<'static>> {
    let modelscope = ("USE_MODELSCOPE_HUB", "1".to_owned());
    let yaml =
        |line: &str| std::fs::read_to_string(crate::support::fixtures().join("lf_run/train.yaml")).unwrap() + line;
    vec![
        Given { why: "HF_TOKEN", env: vec![("HF_TOKEN", canary())], ..Given::default() },
        Given { why: "its older name", env: vec![("HUGGING_FACE_HUB_TOKEN", canary())], ..Given::default() },
        Given {
            why: "a file that a variable names",
            env: vec![("HF_TOKEN_PATH", "my-token".into())],
            files: vec![("my-token", canary() + "\n")],
            ..Given::default()
        },
        Given { why: "the file that login leaves", files: vec![("hf/token", canary())], ..Given::default() },
        Given {
            why: "a key of a YAML",
            files: vec![("train.yaml", yaml(&format!("\nhf_hub_token: {CANARY}\n")))],
            ..Given::default()
        },
        Given { why: "a word", words: vec![format!("hf_hub_token={CANARY}")], ..Given::default() },
        Given {
            why: "ModelScope's variable",
            env: vec![("MODELSCOPE_API_TOKEN", canary()), modelscope.clone()],
            ..Given::default()
        },
        Given {
            why: "ModelScope's key",
            env: vec![modelscope],
            files: vec![("train.yaml", yaml(&format!("\nms_hub_token: {CANARY}\n")))],
            ..Given::default()
        },
    ]
}

#[test]
fn a_run_tells_nobody_its_token() {
    for given in ways() {
        let (work, files) = workspace();
        let server = Server::polite(files);
        given.files.iter().for_each(|(name, content)| work.write(name, content));
        let words: Vec<&str> = given.words.iter().map(String::as_str).collect();
        let ended = run(&work, &server, &[&["-v"], &SHORT[..], &words].concat(), &given.env);
        assert_eq!(ended.code, 0, "{}: {}", given.why, ended.stderr);
        assert_silent(&work, &ended, &given);
        assert!(work.path("lf_out/checkpoint-1/state.json").is_file() && work.path("lf_out/run.json").is_file());
        let heard = server.asked();
        let of_hub = |asked: &&crate::hub::Asked| !asked.of_storage;
        let header = format!("Bearer {CANARY}");
        assert!(
            heard.iter().filter(of_hub).all(|asked| asked.header("authorization") == Some(&header)),
            "{}",
            given.why
        );
        assert!(heard.iter().filter(|asked| asked.of_storage).all(|asked| !asked.head.contains("canary")));
        assert!(heard.iter().all(|asked| !asked.path.contains("canary")));
    }
}

#[test]
fn neither_does_anything_that_is_done_with_its_result() {
    let (work, files) = workspace();
    let server = Server::polite(files);
    let given = Given {
        why: "all of them",
        env: vec![
            ("HF_TOKEN", canary()),
            ("MODELSCOPE_API_TOKEN", canary()),
            ("HTTPS_PROXY", format!("http://me:{CANARY}@127.0.0.1:9")),
        ],
        files: vec![(
            "train.toml",
            format!(
                "[model]\nhf_hub_token = \"{CANARY}\"\nmodel_name_or_path = \"org/tiny\"\n[data]\ndataset = [\"couplets\"]\n[output]\noutput_dir = \"toml_out\"\n[train]\nwarmup_ratio = 0\n"
            ),
        )],
        ..Given::default()
    };
    given.files.iter().for_each(|(name, content)| work.write(name, content));
    let token = format!("hf_hub_token={CANARY}");
    for (args, code) in [
        (&["--config", "train.toml", "max_steps=1"][..], 0),
        (&["--config", "train.toml", "max_steps=1", &token], 0), // already complete
        (&["--config", "train.toml", "max_steps=1", "lora_rank=4"], 2), // another config: its differences are shown
        (&["config", "convert", "train.toml"], 0),
        (&["generate", "云落长花", "--adapter", "toml_out", "max_new_tokens=2", &token], 0),
        (
            &[
                "evaluate",
                "--adapter",
                "toml_out",
                "dataset=couplets",
                "max_samples=2",
                "max_new_tokens=2",
                "output_dir=scores",
                &token,
            ],
            0,
        ),
        (&["export", "--adapter", "toml_out", "export_dir=merged", &token], 0),
        (&["doctor"], 0),
    ] {
        let ended = run(&work, &server, args, &given.env);
        assert_eq!(ended.code, code, "{args:?}: {}{}", ended.stdout, ended.stderr);
        assert_silent(&work, &ended, &Given { why: args[0], files: given.files.clone(), ..Given::default() });
    }
}

#[test]
fn nor_does_an_error_that_quotes_a_line_below_the_tokens_key() {
    let oauth = format!("hf_oauth_eyJhbGci.eyJ{CANARY}_x.canary");
    for (name, text, place) in [
        ("a.yaml", "seed: 1\nhf_hub_token:\ncanary-8d44".to_owned(), "a.yaml:3:"),
        ("a.yaml", "hf_hub_token:\n  canary-8d44: x: y\n".into(), "a.yaml:2:"),
        ("a.yaml", "hf_hub_token: abc\ncanary\nseed: 1\n".into(), "a.yaml:2:"),
        ("a.yaml", "hf_hub_token: |\n  abc\n\tcanary\n".into(), "a.yaml:3:"),
        ("a.yaml", "stage: sft\ndo_train: true\nms_hub_tokn: canary\n".into(), "a.yaml:3:"),
        ("a.yaml", format!("stage: sft\ndo_train: true\nseed: {oauth}\n"), "a.yaml:3:"),
        ("a.toml", "[model]\nms_hub_token = \"\"\"\ncanary-8d44\"\"\" x\n".into(), "a.toml:3:"),
        ("a.toml", "[model]\nms_hub_token =\n\"canary\" x\n".into(), "a.toml:3:"),
        ("a.toml", format!("[model]\nrevision = {oauth}\n"), "a.toml:2:"),
        ("a.json", "{\"ms_hub_token\":\n\"canary-8d44\"x}".into(), "a.json:2:"),
        ("a.json", "{\"ms_hub_token\"\n: canary}".into(), "a.json:2:"),
        ("a.json", format!("\"{oauth}\""), "a.json:1:"),
    ] {
        let work = Workspace::new();
        work.write(name, &text);
        for args in [&["--config", name][..], &["config", "convert", name]] {
            let ended = work.run_with(args, &[("HF_HUB_OFFLINE", "1")]);
            assert_eq!(ended.code, 2, "{text}: {}", ended.stderr);
            assert!(ended.stderr.contains(place), "{text}: {}", ended.stderr);
            assert!(!(ended.stdout + &ended.stderr).contains("canary"), "{text}: {}", ended.stderr);
        }
    }
}

#[test]
fn nor_does_any_failure() {
    let yaml =
        |line: &str| std::fs::read_to_string(crate::support::fixtures().join("lf_run/train.yaml")).unwrap() + line;
    for (why, line, words) in [
        ("in quotes without an end", format!("\nhf_hub_token: \"{CANARY}\n"), vec![]),
        ("in a list", format!("\nhf_hub_token: [{CANARY}]\n"), vec![]),
        ("twice", format!("\nhf_hub_token: {CANARY}\nhf_hub_token: {CANARY}\n"), vec![]),
        ("under a misspelt key", format!("\nhf_hub_tokn: {CANARY}\n"), vec![]),
        ("under a refused key", format!("\nhub_token: {CANARY}\n"), vec![]),
        ("in a refused word", String::new(), vec![format!("push_to_hub_token={CANARY}")]),
        ("without a key", String::new(), vec![canary()]),
        ("under another key", String::new(), vec![format!("lora_rank=hf_oauth_eyJ_{CANARY}.canary")]),
        ("beside a wrong value", String::new(), vec![format!("hf_hub_token={CANARY}"), "lora_rank=0".into()]),
    ] {
        let (work, files) = workspace();
        let server = Server::polite(files);
        let given = Given { why, files: vec![("train.yaml", yaml(&line))], ..Given::default() };
        work.write("train.yaml", &given.files[0].1);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = run(&work, &server, &[&SHORT[..], &words].concat(), &[]);
        assert_eq!(ended.code, 2, "{why}: {}", ended.stderr);
        assert_silent(&work, &ended, &given);
    }
    for (why, manner) in [
        ("not accepted", Manner::Status(401, "")),
        ("without access", Manner::Status(403, "GatedRepo")),
        ("no such model", Manner::Status(404, "RepoNotFound")),
        ("a page", Manner::Page),
    ] {
        let (work, files) = workspace();
        let server = Server::start(files, move |_| manner);
        let given = Given { why, env: vec![("HF_TOKEN", canary())], ..Given::default() };
        let ended = run(&work, &server, &[&["-v"], &SHORT[..]].concat(), &given.env);
        assert_eq!(ended.code, 2, "{why}: {}", ended.stderr);
        assert_silent(&work, &ended, &given);
    }
    // A password in an address is a secret too.
    let (work, files) = workspace();
    let server = Server::start(files, |_| Manner::Status(404, "RepoNotFound"));
    let address = server.endpoint.replace("http://", &format!("http://me:{CANARY}@"));
    let given = Given { why: "an address", env: vec![("HF_ENDPOINT", address)], ..Given::default() };
    let ended = run(&work, &server, &SHORT, &given.env);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert_silent(&work, &ended, &given);
}
