//! A model of a disk that forgets: what was not synced when the power went may be there, be gone, or be there in part.
//!
//! A file's bytes are durable once the file is synced, the names in a folder once the folder is. Whatever came after may
//! have reached the disk in any combination: every entry of a folder by itself (a rename whole or not at all), the bytes of
//! a file not at all, all of them, up to the border of a page, or with zeros for the pages that had not been written.

use crate::pool::Dice;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Bytes that reach the disk together.
const PAGE: usize = 4096;

/// A line of the trace.
#[derive(Debug, Clone)]
pub enum Op {
    Create(String),
    Open(String),
    Write(String, Vec<u8>),
    Truncate(String, usize),
    SyncFile(String),
    SyncDir(String),
    Rename(String, String),
    Remove(String),
    CreateDir(String),
    /// The user was told: `saved` or `complete`, and the step.
    Announce(String, usize),
}

/// Reads `FILE` and `FILE.bytes` of a `trace:FILE`: the calls that succeeded, and what was announced.
pub fn read_trace(file: &Path) -> Vec<Op> {
    let text = std::fs::read_to_string(file).expect("a trace");
    let bytes = std::fs::read(file.with_extension("bytes")).expect("its bytes");
    let mut rest = bytes.as_slice();
    let calls = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of the trace"));
    calls.filter(|call| call["ok"] == true).filter_map(|call| op(&call, &mut rest)).collect()
}

fn op(call: &Value, rest: &mut &[u8]) -> Option<Op> {
    let path = call["path"].as_str().expect("a path").to_owned();
    let number = call["more"].as_u64().unwrap_or(0) as usize;
    Some(match call["op"].as_str().expect("a call") {
        "create" => Op::Create(path),
        "open" => Op::Open(path),
        "write" => {
            let (now, later) = rest.split_at(number);
            *rest = later;
            Op::Write(path, now.to_vec())
        }
        "truncate" => Op::Truncate(path, number),
        "sync_file" => Op::SyncFile(path),
        "sync_dir" => Op::SyncDir(path),
        "rename" => Op::Rename(path, call["more"].as_str().expect("a path").to_owned()),
        "remove_file" | "remove_dir" => Op::Remove(path),
        "create_dir" => Op::CreateDir(path),
        "announce" => Op::Announce(path, number),
        "read" => return None,
        other => panic!("{other} is no call"),
    })
}

/// Paths and contents of all files: what the next start finds. Folders without a file are not told.
pub type Tree = BTreeMap<String, Arc<Vec<u8>>>;

/// An entry of a folder that is not yet durable.
#[derive(Debug, Clone)]
enum Change {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

#[derive(Debug, Clone)]
enum Node {
    File { now: Arc<Vec<u8>>, durable: Arc<Vec<u8>> },
    Dir { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize>, pending: Vec<Change> },
}

impl Node {
    fn folder() -> Self {
        Self::Dir { now: BTreeMap::new(), durable: BTreeMap::new(), pending: vec![] }
    }
}

/// What became of what was not synced.
pub enum Fate<'a> {
    /// Names: the first so many changes of every folder. Bytes: one rule for all files.
    Same { names: usize, bytes: Bytes },
    /// Everything by itself.
    Random(&'a mut Dice),
}

/// What became of the bytes of a file that was not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bytes {
    Lost,
    Kept,
    /// So many pages came through, and the file is as long as that.
    Torn(usize),
    /// The same, but the file has its new length and zeros behind them.
    Zeros(usize),
}

/// The disk, node 0 its root.
#[derive(Debug, Clone)]
pub struct Disk {
    nodes: Vec<Node>,
}

impl Disk {
    /// `dir` as the folder `name`, everything durable; empty if there is none.
    pub fn holding(dir: &Path, name: &str) -> Self {
        let mut disk = Self { nodes: vec![Node::folder()] };
        if dir.is_dir() {
            let node = disk.load(dir);
            disk.link(0, name, node);
        }
        disk
    }

    fn load(&mut self, dir: &Path) -> usize {
        let folder = self.add(Node::folder());
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let node = if path.is_dir() {
                self.load(&path)
            } else {
                let bytes = Arc::new(std::fs::read(&path).expect("a file"));
                self.add(Node::File { now: Arc::clone(&bytes), durable: bytes })
            };
            self.link(folder, &path.file_name().expect("a name").to_string_lossy(), node);
        }
        folder
    }

    fn link(&mut self, folder: usize, name: &str, node: usize) {
        let Node::Dir { now, durable, .. } = &mut self.nodes[folder] else { panic!("no folder") };
        now.insert(name.to_owned(), node);
        durable.insert(name.to_owned(), node);
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The bytes that are now read at a path.
    pub fn read(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        match &self.nodes[self.find(path)?] {
            Node::File { now, .. } => Some(Arc::clone(now)),
            Node::Dir { .. } => None,
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        let words = path.split('/').filter(|word| !word.is_empty() && *word != ".");
        words.into_iter().try_fold(0, |node, word| match &self.nodes[node] {
            Node::Dir { now, .. } => now.get(word).copied(),
            Node::File { .. } => None,
        })
    }

    /// Folder and name of a path.
    fn place(&self, path: &str) -> (usize, String) {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        (self.find(folder).unwrap_or_else(|| panic!("{folder} is not there")), name.to_owned())
    }

    fn change(&mut self, folder: usize, change: Change) {
        let Node::Dir { now, pending, .. } = &mut self.nodes[folder] else { panic!("no folder") };
        apply(now, &change);
        pending.push(change);
    }

    fn bytes(&mut self, path: &str) -> &mut Arc<Vec<u8>> {
        let node = self.find(path).unwrap_or_else(|| panic!("{path} is not there"));
        match &mut self.nodes[node] {
            Node::File { now, .. } => now,
            Node::Dir { .. } => panic!("{path} is a folder"),
        }
    }

    /// The next call.
    pub fn perform(&mut self, op: &Op) {
        match op {
            Op::Create(path) | Op::Open(path) if self.find(path).is_none() => {
                let node = self.add(Node::File { now: Arc::default(), durable: Arc::default() });
                let (folder, name) = self.place(path);
                self.change(folder, Change::Add(name, node));
            }
            Op::Create(path) => *self.bytes(path) = Arc::default(),
            Op::Open(_) | Op::Announce(..) => {}
            Op::Write(path, bytes) => Arc::make_mut(self.bytes(path)).extend_from_slice(bytes),
            Op::Truncate(path, len) => Arc::make_mut(self.bytes(path)).truncate(*len),
            Op::SyncFile(path) => {
                let node = self.find(path).expect("a file to sync");
                if let Node::File { now, durable } = &mut self.nodes[node] {
                    *durable = Arc::clone(now);
                }
            }
            Op::SyncDir(path) => {
                let node = self.find(path).expect("a folder to sync");
                if let Node::Dir { now, durable, pending } = &mut self.nodes[node] {
                    *durable = now.clone();
                    pending.clear();
                }
            }
            Op::Rename(from, to) => {
                let node = self.find(from).expect("something to rename");
                let ((folder, old), (target, new)) = (self.place(from), self.place(to));
                assert_eq!(folder, target, "renamed within one folder, so that it is whole or not at all");
                self.change(folder, Change::Rename(old, new, node));
            }
            Op::Remove(path) => {
                let (folder, name) = self.place(path);
                self.change(folder, Change::Remove(name));
            }
            Op::CreateDir(path) => {
                let node = self.add(Node::folder());
                let (folder, name) = self.place(path);
                self.change(folder, Change::Add(name, node));
            }
        }
    }

    /// The longest list of changes that one folder has not synced.
    pub fn pending(&self) -> usize {
        let pending = |node: &Node| if let Node::Dir { pending, .. } = node { pending.len() } else { 0 };
        self.nodes.iter().map(pending).max().unwrap_or(0)
    }

    /// What is found after the power has gone now.
    pub fn after_power_loss(&self, fate: &mut Fate) -> Tree {
        let mut tree = Tree::new();
        self.survive(0, "", fate, &mut tree);
        tree
    }

    fn survive(&self, node: usize, path: &str, fate: &mut Fate, tree: &mut Tree) {
        match &self.nodes[node] {
            Node::File { now, durable } => {
                let bytes = if now == durable { Bytes::Kept } else { fate.of_bytes(now.len()) };
                tree.insert(path.to_owned(), content(now, durable, bytes));
            }
            Node::Dir { durable, pending, .. } => {
                let mut entries = durable.clone();
                for (i, change) in pending.iter().enumerate() {
                    if fate.keeps(i) {
                        apply(&mut entries, change);
                    }
                }
                for (name, node) in entries {
                    let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                    self.survive(node, &path, fate, tree);
                }
            }
        }
    }
}

impl Fate<'_> {
    fn keeps(&mut self, change: usize) -> bool {
        match self {
            Self::Same { names, .. } => change < *names,
            Self::Random(dice) => dice.below(2) == 0,
        }
    }

    fn of_bytes(&mut self, len: usize) -> Bytes {
        match self {
            Self::Same { bytes, .. } => *bytes,
            Self::Random(dice) => {
                let pages = dice.below(len.div_ceil(PAGE) + 1);
                [Bytes::Lost, Bytes::Kept, Bytes::Torn(pages), Bytes::Zeros(pages)][dice.below(4)]
            }
        }
    }
}

fn apply(entries: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Add(name, node) => drop(entries.insert(name.clone(), *node)),
        Change::Remove(name) => drop(entries.remove(name)),
        Change::Rename(old, new, node) => {
            entries.remove(old);
            entries.insert(new.clone(), *node);
        }
    }
}

fn content(now: &Arc<Vec<u8>>, durable: &Arc<Vec<u8>>, bytes: Bytes) -> Arc<Vec<u8>> {
    let whole = |pages: usize| (pages * PAGE).min(now.len());
    match bytes {
        Bytes::Kept => Arc::clone(now),
        Bytes::Lost => Arc::clone(durable),
        Bytes::Torn(pages) => {
            let behind = durable.iter().skip(whole(pages));
            Arc::new(now[..whole(pages)].iter().chain(behind).copied().collect())
        }
        Bytes::Zeros(pages) => {
            let behind = durable.iter().copied().chain(std::iter::repeat(0)).skip(whole(pages));
            Arc::new(now[..whole(pages)].iter().copied().chain(behind).take(now.len()).collect())
        }
    }
}
