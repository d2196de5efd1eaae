//! The house: which room may import which, and what every file owes its reader. The map is in `src/lib.rs`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// room → rooms it may import. `testing` is for tests and may be imported by any.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("rng", &[]),
    ("fs", &["error"]),
    ("json", &["error"]),
    ("signal", &["error"]),
    ("prosody", &["error"]),
    ("config", &["error"]),
    ("device", &["config", "error", "kernels"]),
    ("kernels", &["error"]),
    ("dataset", &["config", "error", "fs", "json", "prosody", "rng"]),
    ("hub", &["config", "error", "fs"]),
    ("model", &["config", "error", "kernels", "rng", "fs"]),
    ("optim", &["config", "error", "kernels"]),
    ("adapter", &["config", "error", "kernels", "model", "fs"]),
    ("generate", &["config", "dataset", "error", "kernels", "model", "prosody", "rng"]),
    ("plan", &["config", "error", "kernels", "model"]),
    ("trainer", &["config", "error", "dataset", "model", "adapter", "optim", "plan", "fs", "rng"]),
    ("eval", &["config", "dataset", "error", "generate", "model", "prosody", "rng"]),
    ("run", &["adapter", "config", "error", "fs", "trainer"]),
    ("report", &["config", "error", "fs", "json", "trainer"]),
    ("testing", &["config", "error", "kernels", "model"]),
];

/// What can open a connection.
const NETWORK: [&str; 9] = [
    "std::net",
    "ureq",
    "hf_hub::",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "rustix::net",
];

fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let out = files(&src);
    assert!(out.len() > 30, "found {} files", out.len());
    out.into_iter().map(|(path, text)| (path.strip_prefix(&src).expect("below src").to_owned(), text)).collect()
}

/// All Rust files below a folder, with their text.
fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<_> =
            std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                out.push((path, text));
            }
        }
    }
    let mut out = vec![];
    walk(dir, &mut out);
    out
}

fn room(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    match first.trim_end_matches(".rs") {
        "lib" | "bin" => None,
        room => Some(room.to_owned()),
    }
}

/// Production code only: what follows `#[cfg(test)]` at the start of a line may import what it likes.
fn production(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests").map_or(text, |at| &text[..at])
}

/// `crate::room` wherever it stands, and the first names of `use crate::{…}`.
fn imports(text: &str) -> BTreeSet<String> {
    let name = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(found.insert(name(rest))),
            Some(group) => {
                let (mut depth, mut start) = (0, true);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && c.is_alphabetic() => {
                            found.insert(name(&group[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_what_the_map_allows() {
    for (path, text) in sources() {
        let Some(room) = room(&path) else { continue };
        let (_, allowed) =
            MAY_IMPORT.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} is not on the map"));
        for import in imports(production(&text)) {
            let fine = import == room || allowed.contains(&import.as_str()) || import == "testing";
            assert!(fine, "{}: {room} must not import {import}", path.display());
        }
        if room == "report" {
            let other = text.lines().find(|l| l.contains("trainer::") && !l.contains("trainer::event"));
            assert!(other.is_none(), "{}: report sees the trainer's events and nothing else of it", path.display());
        }
    }
}

#[test]
fn what_stays_out_of_a_room_stays_out() {
    for (path, text) in sources() {
        let text = production(&text);
        let inside = |room: &str| path.starts_with(room);
        let binary = inside("bin");
        let rules = [
            (!binary && text.contains("clap::"), "clap belongs to the binary"),
            (
                ["dataset", "eval/couplet", "eval/metrics", "prosody", "report"].into_iter().any(inside)
                    && text.contains("candle"),
                "no tensor here",
            ),
            (!inside("kernels") && text.contains("unsafe "), "unsafe lives in kernels"),
            (!inside("hub") && NETWORK.iter().any(|name| text.contains(name)), "only the hub opens connections"),
            (
                !binary && path != Path::new("report/console.rs") && text.contains("println!"),
                "only the binary and the console print",
            ),
        ];
        for (broken, rule) in rules {
            assert!(!broken, "{}: {rule}", path.display());
        }
    }
}

#[test]
fn every_file_opens_with_its_subject() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no //! line", path.display());
    }
}

#[test]
fn no_page_waits_for_a_figure() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = std::fs::read_dir(docs).expect("a folder").map(|entry| entry.expect("an entry").path());
    let pages: Vec<PathBuf> = pages.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    assert!(pages.len() > 5, "found {} pages", pages.len());
    for path in pages {
        let text = std::fs::read_to_string(&path).expect("a page");
        let is_word = |line: &&str| line.len() > 1 && line.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let found = text.lines().map(str::trim).find(is_word);
        assert_eq!(found, None, "{}: a placeholder stands where a figure belongs", path.display());
    }
}

/// Tests are named there as what shows a promise: one that was renamed or removed shows nothing.
#[test]
fn what_the_page_on_reliability_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String = ["src", "tests"].iter().flat_map(|dir| files(&root.join(dir))).map(|(_, text)| text).collect();
    let page = std::fs::read_to_string(root.join("docs/reliability.md")).expect("the page");
    let is_name = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let names: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(names.len() > 60, "{} names", names.len());
    for name in names {
        let stands =
            |(at, _): (usize, &str)| !code[at + name.len()..].starts_with(|c: char| c == '_' || c.is_alphanumeric());
        assert!(code.match_indices(name).any(stands), "{name} is nowhere in the code");
    }
}

#[test]
fn the_import_scanner_sees_every_form() {
    let text = "use crate::{a::{x, y}, b, c::z};\nuse crate::d::w;\nfn f() { crate::e::g() }";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
}
