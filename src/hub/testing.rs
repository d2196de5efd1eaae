//! A hub on this machine for the tests: tiny models, a cache as other tools leave it, and a server with bad manners on request.

use super::{HubEnv, cache};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

type Files = Vec<(String, Vec<u8>)>;

pub fn hub_env(vars: &[(&str, &str)]) -> HubEnv {
    HubEnv::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
}

pub fn single_model() -> Files {
    let mut files = small_files();
    files.push((cache::SINGLE.into(), safetensors("w", 300)));
    files
}

pub fn sharded_model() -> Files {
    let index = format!(r#"{{"weight_map": {{"a": "{}", "b": "{}", "c": "{}"}}}}"#, SHARDS[0], SHARDS[1], SHARDS[1]);
    let mut files = small_files();
    files.push((cache::INDEX.into(), index.into()));
    files.push((SHARDS[0].into(), safetensors("a", 200)));
    files.push((SHARDS[1].into(), safetensors("b", 300)));
    files
}

fn small_files() -> Files {
    ["config.json", "tokenizer.json", "tokenizer_config.json"].map(|name| (name.into(), b"{}".to_vec())).into()
}

/// One tensor of `len` bytes.
fn safetensors(name: &str, len: usize) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend((0..len).map(|i| i as u8));
    bytes
}

/// Puts a model into the cache `root` and returns its folder.
pub fn cached(root: &Path, name: &str, files: &Files) -> PathBuf {
    let base = cache::repo_folder(root, name);
    let folder = base.join("snapshots").join(COMMIT);
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(base.join("refs")).unwrap();
    fs::write(base.join("refs/main"), COMMIT).unwrap();
    files.iter().for_each(|(name, content)| fs::write(folder.join(name), content).unwrap());
    folder
}

/// How a request is answered.
#[derive(Clone, Copy)]
pub enum Answer {
    Normal,
    Status(u16),
    /// Not at all; but the size is told.
    HangUp,
    /// So many bytes of the body and no more.
    CutAfter(usize),
    /// The whole file whatever range was asked for; but the size is told.
    IgnoreRange,
}

/// Answers as far as `hf-hub` asks: the list of files, and files by range. Ends with the test process.
pub struct Server {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `manner`: how to answer, by path.
    pub fn start(files: Files, manner: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(request) = stream.as_ref().ok().and_then(read_request) else { continue };
                seen.lock().unwrap().push(request.clone());
                let path = request.split(' ').nth(1).unwrap();
                let _ = respond(&mut stream.unwrap(), &files, path, &request, manner(path));
            }
        });
        Self { endpoint, requests }
    }

    /// Head of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub fn etag(file: &str) -> String {
    file.bytes().map(|b| format!("{b:02x}")).collect()
}

fn read_request(stream: &TcpStream) -> Option<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    (!head.is_empty()).then(|| head.join("\n"))
}

fn respond(out: &mut TcpStream, files: &Files, path: &str, request: &str, answer: Answer) -> std::io::Result<()> {
    if let Answer::Status(status) = answer {
        return write!(out, "HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    if path == "/api/models/org/tiny/revision/main" {
        let mut names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        names.push("README.md");
        let siblings: Vec<_> = names.iter().map(|name| format!(r#"{{"rfilename": "{name}"}}"#)).collect();
        let body = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, siblings.join(", "));
        return write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    }
    let found = files.iter().find(|(name, _)| path == format!("/org/tiny/resolve/{COMMIT}/{name}"));
    let Some((name, content)) = found else {
        return write!(out, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let range = request.split("bytes=").nth(1).and_then(|text| text.lines().next()).unwrap_or("0-");
    let (start, end) = range.split_once('-').unwrap();
    let only_the_size = end == "0";
    let start: usize = start.parse().unwrap();
    if start >= content.len() {
        return write!(out, "HTTP/1.1 416 Range\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let (body, sent) = match answer {
        _ if only_the_size => (&content[..1], 1),
        Answer::HangUp => return Ok(()),
        Answer::CutAfter(n) => (&content[start..], n.min(content.len() - start)),
        Answer::IgnoreRange => (&content[..], content.len()),
        _ => (&content[start..], content.len() - start),
    };
    write!(
        out,
        "HTTP/1.1 206 Partial\r\netag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-length: {}\r\n\
         content-range: bytes {start}-{}/{}\r\nconnection: close\r\n\r\n",
        etag(name),
        body.len(),
        content.len() - 1,
        content.len(),
    )?;
    out.write_all(&body[..sent])
}
