//! The checkpoint's own `tokenizer.json`: text → ids and back.
//!
//! No id is written down anywhere: control tokens are looked up by their text and must be one token each, so a tokenizer
//! that does not know Qwen3's chat format is refused before it trains on torn control tokens.

use super::{parts, segments};
use crate::{
    config::TemplateName,
    error::{Error, Result, io_reason},
};
use std::{fs, io, path::Path};
use tokenizers::Model;

const FILE: &str = "tokenizer.json";
pub(super) const TURN_BEGINS: &str = "<|im_start|>";
pub(super) const TURN_ENDS: &str = "<|im_end|>";
const PAD: &str = "<|endoftext|>";
const THOUGHT_TAGS: [&str; 2] = ["<think>", "</think>"];

/// Added tokens that belong into answers: thoughts and calls of tools.
const TAGS: [&str; 6] = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

/// A tokenizer that knows Qwen3's chat format.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The texts of control tokens, and what they begin with.
    control: Vec<String>,
    control_begins: Vec<char>,
    end_id: u32,
    pad_id: u32,
    digest: blake3::Hash,
    /// It takes the [`segments`] of a text one by one without a difference.
    takes_segments: bool,
    /// The signs that byte-level BPE writes for the bytes.
    signs: [char; 256],
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json`. Errors: as [`Self::from_bytes`], naming the file.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(|err| unreadable(&path, &err))?;
        Self::from_bytes(&bytes).map_err(|err| err.at(path.display()))
    }

    /// Parses the contents of a `tokenizer.json`. Fails when it is none, or lacks a control token.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        parts::check(bytes)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|err| {
            Error::input(format!("not a tokenizer: {err}"))
                .hint("download tokenizer.json of the model again; it is Hugging Face's format with model type BPE")
                .hint_zh("请重新下载该模型的 tokenizer.json（Hugging Face 格式，BPE 类型）")
        })?;
        // A file may carry settings of whoever saved it; rows are cut and padded here and nowhere else.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|err| Error::input(format!("not a usable tokenizer: {err}")))?;

        let added = inner.get_added_vocabulary().get_added_tokens_decoder().values().map(|token| token.content.clone());
        let control: Vec<String> = added.filter(|text| !text.is_empty() && !TAGS.contains(&text.as_str())).collect();
        let mut control_begins: Vec<char> = control.iter().filter_map(|text| text.chars().next()).collect();
        control_begins.sort_unstable();
        control_begins.dedup();
        let takes_segments = segments::are_safe(&inner);
        let (digest, signs) = (blake3::hash(bytes), signs());
        let mut tokenizer =
            Self { inner, control, control_begins, end_id: 0, pad_id: 0, digest, takes_segments, signs };
        tokenizer.single(TURN_BEGINS)?;
        tokenizer.end_id = tokenizer.single(TURN_ENDS)?;
        // As LlamaFactory: the pad token, or the end of a turn where a tokenizer has none.
        tokenizer.pad_id = tokenizer.inner.token_to_id(PAD).unwrap_or(tokenizer.end_id);
        Ok(tokenizer)
    }

    /// Refuses a tokenizer that tears the control tokens of `template` apart.
    pub fn check_template(&self, template: TemplateName) -> Result<()> {
        match template {
            TemplateName::Qwen3 => THOUGHT_TAGS.iter().try_for_each(|tag| {
                self.single(tag).map(|_| ()).map_err(|err| {
                    err.hint("set template = \"qwen3_nothink\": this model knows no thinking block")
                        .hint_zh("该模型没有思考标记，请改用 template = \"qwen3_nothink\"")
                })
            }),
            TemplateName::Qwen3Nothink => Ok(()),
        }
    }

    /// The ids of `text`. Adds nothing around it; the text of a special token becomes that token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|err| Error::input(format!("cannot tokenise {text:?}: {err}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether the ids of a text are those of its [`segments`], one behind the other.
    pub(super) fn takes_segments(&self) -> bool {
        self.takes_segments
    }

    /// Appends the ids of a text that is a single word ([`segments::words`]): what [`Self::encode`] gives, without its detours.
    pub(super) fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let signs: String = word.bytes().map(|byte| self.signs[usize::from(byte)]).collect();
        let tokens = self.inner.get_model().tokenize(&signs);
        let tokens = tokens.map_err(|err| Error::input(format!("cannot tokenise {word:?}: {err}")))?;
        ids.extend(tokens.into_iter().map(|token| token.id));
        Ok(())
    }

    /// Whether some part of `text` becomes a control token (`<|im_end|>`). Tags of thoughts and tools are none.
    pub fn has_control_text(&self, text: &str) -> bool {
        text.contains(self.control_begins.as_slice()) && self.control.iter().any(|token| text.contains(token.as_str()))
    }

    /// The text of `ids`; `skip_special` leaves out what the tokenizer marks as special (`<|im_end|>`, not `<think>`).
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|err| Error::run(format!("cannot decode token ids: {err}")))
    }

    /// The bytes a token stands for: whole characters, or a part of one. `None` for added tokens (`<|im_end|>`, `<think>`)
    /// and ids that are none.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return None;
        }
        self.inner.id_to_token(id)?.chars().map(byte_of).collect()
    }

    /// The id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// `<|im_end|>`: the end of every turn.
    pub fn end_id(&self) -> u32 {
        self.end_id
    }

    /// Fills the batches.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Number of ids, added tokens included; a model's embedding has at least so many rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// blake3 of the file, in hex.
    pub fn digest(&self) -> String {
        self.digest.to_hex().to_string()
    }

    fn single(&self, token: &str) -> Result<u32> {
        match self.encode(token)?.as_slice() {
            &[id] => Ok(id),
            ids => Err(Error::input(format!("{token} is {} tokens, not one", ids.len()))
                .hint("use the tokenizer.json of a Qwen3 checkpoint, unchanged")
                .hint_zh("请使用 Qwen3 模型自带的、未改动的 tokenizer.json")),
        }
    }
}

/// The byte that byte-level BPE writes as `c`: printable ones as themselves, the others from U+0100 on in their order.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(c);
    match u8::try_from(code) {
        Ok(byte) => printable(&byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|byte| !printable(byte)).nth(usize::try_from(code - 0x100).ok()?),
    }
}

/// [`byte_of`] the other way round.
fn signs() -> [char; 256] {
    let mut signs = ['\0'; 256];
    for sign in '\0'..'\u{200}' {
        if let Some(byte) = byte_of(sign) {
            signs[usize::from(byte)] = sign;
        }
    }
    signs
}

fn unreadable(path: &Path, err: &io::Error) -> Error {
    Error::file(path, format!("cannot read: {}", io_reason(err)))
        .hint(
            "the model folder must hold the checkpoint's tokenizer.json (vocab.json and merges.txt do not replace it)",
        )
        .hint_zh("模型目录中须有该模型的 tokenizer.json（vocab.json 与 merges.txt 不能代替）")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_their_signs() {
        for (sign, want) in
            [('A', Some(b'A')), ('Ġ', Some(b' ')), ('Ċ', Some(b'\n')), ('é', Some(0xe9)), ('Ń', Some(0xad))]
        {
            assert_eq!(byte_of(sign), want, "{sign}");
        }
        assert_eq!(byte_of('山'), None);
        let all: std::collections::BTreeSet<u8> = ('\0'..'\u{200}').filter_map(byte_of).collect();
        assert_eq!(all.len(), 256, "every byte has a sign");
    }
}
