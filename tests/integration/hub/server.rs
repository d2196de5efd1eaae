//! Hubs on this machine: one address that speaks the routes of Hugging Face and of ModelScope, a second one that only stores
//! large files, and bad manners on request.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const MODEL: &str = "org/tiny";

/// Names and contents of a repository's files.
pub type Files = Vec<(String, Vec<u8>)>;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    /// As the hubs do.
    Normal,
    /// With this status, and perhaps the hub's word for the reason.
    Status(u16, &'static str),
    /// Not at all: the connection is closed.
    HangUp,
    /// Not at all: the connection stays open.
    Silent,
    /// The whole is promised, and so many bytes are sent.
    CutAfter(usize),
    /// A few bytes at a time.
    Slowly,
    /// From the beginning, whatever was asked for.
    FromTheBeginning,
    /// The last byte is another.
    Wrong,
    /// The last byte is missing, and nobody promised it.
    Short,
    /// A web page, with status 200.
    Page,
    /// The same without saying what it is.
    PageInDisguise,
    /// The content is named as a server does that knows no digests.
    OwnEtag,
    /// The hub says nothing of a content, and the storage, where all lies, names it by what looks like a digest and is none.
    NamedByStorage,
}

/// What a hub was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The storage was asked, not the hub.
    pub of_storage: bool,
    /// How often this method and path were asked for, from 1.
    pub count: usize,
    /// The whole head, names in lower case.
    pub head: String,
}

impl Asked {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Whether the bytes of `file` are asked for.
    pub fn gets(&self, file: &str) -> bool {
        self.method == "GET" && self.of_storage && self.path.ends_with(&format!("/{file}"))
            || self.method == "GET" && self.path.contains("/resolve-cache/") && self.path.ends_with(&format!("/{file}"))
    }
}

/// Both addresses, until the end of the process or [`Server::stop`].
pub struct Server {
    /// The hub's address.
    pub endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: Mutex<Files>,
    manner: Box<dyn Fn(&Asked) -> Manner + Send + Sync>,
    asked: Mutex<Vec<Asked>>,
    storage: String,
    stopped: AtomicBool,
}

impl Server {
    /// Serves `files` as the model `org/tiny`; `manner` says how each request is answered.
    pub fn start(files: Files, manner: impl Fn(&Asked) -> Manner + Send + Sync + 'static) -> Self {
        let [hub, storage] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, at] = [&hub, &storage].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        let shared = Arc::new(Shared {
            files: Mutex::new(files),
            manner: Box::new(manner),
            asked: Mutex::default(),
            storage: at,
            stopped: AtomicBool::new(false),
        });
        for (listener, of_storage) in [(hub, false), (storage, true)] {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let shared = shared.clone();
                    std::thread::spawn(move || shared.serve(&stream, of_storage));
                }
            });
        }
        Self { endpoint, shared }
    }

    /// As [`Self::start`], with the best of manners.
    pub fn polite(files: Files) -> Self {
        Self::start(files, |_| Manner::Normal)
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Other files from now on.
    pub fn change(&self, files: Files) {
        *self.shared.files.lock().unwrap() = files;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream, of_storage: bool) {
        let Some(head) = read_head(stream) else { return };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap_or("/").to_owned());
        let mut asked = Asked { method, path, of_storage, count: 1, head };
        {
            let mut all = self.asked.lock().unwrap();
            let same = all.iter().filter(|other| other.method == asked.method && other.path == asked.path);
            asked.count += same.count();
            all.push(asked.clone());
        }
        let manner = (self.manner)(&asked);
        let mut reply = Reply { stream, asked: &asked, manner, stopped: &self.stopped };
        let _ = match manner {
            Manner::HangUp => Ok(()),
            Manner::Silent => reply.be_silent(),
            Manner::Status(status, code) => reply.status(status, code),
            Manner::Page => reply.send(200, &[("content-type", "text/html; charset=utf-8")], b"<html>Log in</html>"),
            Manner::PageInDisguise => reply.send(200, &[("etag", "\"page\"")], b"<html>Log in</html>"),
            _ => self.answer(&mut reply),
        };
    }

    fn answer(&self, reply: &mut Reply<'_>) -> io::Result<()> {
        let files = self.files.lock().unwrap().clone();
        let path = reply.asked.path.clone();
        if let Some(name) = path.strip_prefix("/storage/") {
            let own = format!("\"{}\"", etag(name.as_bytes(), false));
            let named = [("etag", own.as_str())];
            return reply
                .file(content(&files, name), if reply.manner == Manner::NamedByStorage { &named } else { &[] });
        }
        if let Some(rest) = path.strip_prefix(&format!("/api/v1/models/{MODEL}/repo")) {
            return self.modelscope(reply, &files, rest);
        }
        if path == format!("/api/v1/models/{MODEL}/revisions") {
            let list = r#"{"Code":200,"Data":{"RevisionMap":{"Branches":[{"Revision":"master"}],"Tags":[{"Revision":"v1"}]}}}"#;
            return reply.json(list);
        }
        if path == format!("/api/models/{MODEL}/refs") {
            return reply.json(r#"{"branches":[{"name":"main"}],"tags":[{"name":"v1.0"}]}"#);
        }
        if path.starts_with("/api/models?") {
            return reply.json(r#"[{"id":"org/other"},{"id":"org/tiny"},{"id":"org/tiny-chat"}]"#);
        }
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{MODEL}/revision/")) {
            if !["main", "v1.0", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
                return reply.status(404, "RevisionNotFound");
            }
            let names = files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}}"#)).collect::<Vec<_>>();
            return reply.json(&format!(r#"{{"id":"{MODEL}","sha":"{COMMIT}","siblings":[{}]}}"#, names.join(",")));
        }
        if let Some(name) = path.strip_prefix(&format!("/api/resolve-cache/models/{MODEL}/{COMMIT}/")) {
            let etag = match reply.manner {
                Manner::OwnEtag => format!("W/\"of-{name}\""),
                _ => format!("\"{}\"", etag(content(&files, name).unwrap_or_default(), false)),
            };
            return reply.file(content(&files, name), &[("etag", &etag), ("x-repo-commit", COMMIT)]);
        }
        // This program asks for a commit, others for a branch.
        let of = |revision: &str| path.strip_prefix(&format!("/{MODEL}/resolve/{revision}/"));
        match of(COMMIT).or_else(|| of("main")) {
            Some(name) => self.huggingface(reply, content(&files, name), name),
            None => reply.status(404, "RepoNotFound"),
        }
    }

    /// Small files lie at the hub behind a redirect, large ones in the storage, and are named before.
    fn huggingface(&self, reply: &mut Reply<'_>, content: Option<&[u8]>, name: &str) -> io::Result<()> {
        let Some(content) = content else { return reply.status(404, "EntryNotFound") };
        if reply.manner == Manner::NamedByStorage {
            return reply.send(302, &[("location", &format!("{}/storage/{name}", self.storage))], b"");
        }
        if !name.ends_with(".safetensors") {
            let target = format!("/api/resolve-cache/models/{MODEL}/{COMMIT}/{name}");
            return reply.send(307, &[("location", &*target), ("x-repo-commit", COMMIT)], b"");
        }
        let etag = match reply.manner {
            Manner::OwnEtag => format!("W/\"of-{name}\""),
            _ => format!("\"{}\"", etag(content, true)),
        };
        let target = format!("{}/storage/{name}", self.storage);
        let size = content.len().to_string();
        let headers =
            [("location", &*target), ("x-repo-commit", COMMIT), ("x-linked-etag", &*etag), ("x-linked-size", &*size)];
        reply.send(302, &headers, b"")
    }

    fn modelscope(&self, reply: &mut Reply<'_>, files: &Files, rest: &str) -> io::Result<()> {
        let query: HashMap<&str, &str> =
            rest.split_once('?').unwrap_or_default().1.split('&').filter_map(|p| p.split_once('=')).collect();
        if query.get("Revision") != Some(&"master") {
            return reply.send(404, &[], br#"{"Code":10010205001,"Success":false}"#);
        }
        if rest.starts_with("/files") {
            let entry = |(name, bytes): &(String, Vec<u8>)| {
                format!(
                    r#"{{"Path":"{name}","Name":"{name}","Type":"blob","Size":{},"Sha256":"{}"}}"#,
                    bytes.len(),
                    etag(bytes, true)
                )
            };
            let entries = files.iter().map(entry).collect::<Vec<_>>().join(",");
            return reply.json(&format!(r#"{{"Code":200,"Success":true,"Data":{{"Files":[{entries}]}}}}"#));
        }
        let name = query.get("FilePath").copied().unwrap_or_default();
        match content(files, name) {
            Some(_) if name.ends_with(".safetensors") => {
                reply.send(302, &[("location", &format!("{}/storage/{name}", self.storage))], b"")
            }
            content => reply.file(content, &[]),
        }
    }
}

struct Reply<'a> {
    stream: &'a TcpStream,
    asked: &'a Asked,
    manner: Manner,
    stopped: &'a AtomicBool,
}

impl Reply<'_> {
    fn json(&mut self, body: &str) -> io::Result<()> {
        self.send(200, &[("content-type", "application/json")], body.as_bytes())
    }

    fn status(&mut self, status: u16, code: &str) -> io::Result<()> {
        self.send(status, &[("x-error-code", code)], b"")
    }

    fn be_silent(&self) -> io::Result<()> {
        while !self.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A file or the asked part of it, with the manners that concern its bytes.
    fn file(&mut self, content: Option<&[u8]>, headers: &[(&str, &str)]) -> io::Result<()> {
        let Some(content) = content else { return self.status(404, "EntryNotFound") };
        let mut content = content.to_vec();
        match self.manner {
            Manner::Wrong => *content.last_mut().unwrap() ^= 1,
            Manner::Short => drop(content.pop()),
            _ => {}
        }
        let range =
            self.asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start: usize = range.filter(|_| self.manner != Manner::FromTheBeginning).unwrap_or(0);
        if start > 0 && start >= content.len() {
            return self.status(416, "");
        }
        let place = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
        let headers: Vec<_> =
            headers.iter().copied().chain((start > 0).then_some(("content-range", &*place))).collect();
        self.send(if start > 0 { 206 } else { 200 }, &headers, &content[start..])
    }

    fn send(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} Said\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let mut out = self.stream;
        out.write_all((head + "\r\n").as_bytes())?;
        if self.asked.method == "HEAD" {
            return Ok(());
        }
        match self.manner {
            Manner::CutAfter(n) => out.write_all(&body[..n.min(body.len())]),
            Manner::Slowly => body.chunks(body.len().div_ceil(10).max(1)).try_for_each(|piece| {
                std::thread::sleep(Duration::from_millis(10));
                out.write_all(piece)
            }),
            _ => out.write_all(body),
        }
    }
}

/// The digest that the hub names a content by.
pub fn etag(content: &[u8], is_large: bool) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    match is_large {
        true => hex(digest(&SHA256, content).as_ref()),
        false => {
            let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
            hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
        }
    }
}

fn content<'a>(files: &'a Files, name: &str) -> Option<&'a [u8]> {
    files.iter().find(|(file, _)| file == name).map(|(_, content)| content.as_slice())
}

/// The head of a request, names in lower case.
fn read_head(stream: &TcpStream) -> Option<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    for line in head.iter_mut().skip(1) {
        if let Some((name, value)) = line.split_once(':') {
            *line = format!("{}:{value}", name.to_lowercase());
        }
    }
    (!head.is_empty()).then(|| head.join("\n"))
}
