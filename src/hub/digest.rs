//! What the content of a file is known by: SHA-256 for large files, git's SHA-1 for those that lie in the repository itself.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// The digest that a file should have, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    /// Of the bytes.
    Sha256(String),
    /// Of `blob LENGTH\0` and the bytes: git's name for them.
    Git(String),
}

impl Digest {
    /// What an etag says of a content; `None` for the etag of a server that has its own idea of them.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let is_hex = etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match etag.len() {
            64 if is_hex => Some(Self::Sha256(etag.to_owned())),
            40 if is_hex => Some(Self::Git(etag.to_owned())),
            _ => None,
        }
    }

    /// Its hex.
    pub fn hex(&self) -> &str {
        let (Self::Sha256(hex) | Self::Git(hex)) = self;
        hex
    }

    /// Begins the digest of a content of `size` bytes.
    pub fn begin(&self, size: u64) -> Hasher {
        Hasher(match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        })
    }
}

/// A digest that is being computed.
pub struct Hasher(Context);

impl Hasher {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them, in lower-case hex.
    pub fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// SHA-256 of a text, in lower-case hex.
pub fn sha256(text: &str) -> String {
    hex(ring::digest::digest(&SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_what_sha256sum_and_git_say() {
        let digest = |of: Digest| {
            let mut hasher = of.begin(6);
            ["hel", "lo\n"].iter().for_each(|part| hasher.update(part.as_bytes()));
            hasher.finish()
        };
        // printf 'hello\n' | sha256sum; printf 'hello\n' | git hash-object --stdin
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(digest(Digest::of_etag(sha256).unwrap()), sha256);
        assert_eq!(digest(Digest::of_etag(git).unwrap()), git);
        for etag in ["", "abc", "5891b5b522d5df086d0ff0b110fbd9d21bb4fc71-2", &sha256.to_uppercase()] {
            assert_eq!(Digest::of_etag(etag), None, "{etag}");
        }
    }
}
