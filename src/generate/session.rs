//! Sequences that grow: tokens in, the logits of the next position out.

use crate::{
    error::{Error, Result},
    model::{AdapterWeights, KvCache, Qwen3},
};
use candle_core::Tensor;

/// Errors: so many tokens are more than the model's context.
pub fn refuse_too_long(model: &Qwen3, tokens: usize) -> Result<()> {
    let most = model.config().max_position_embeddings;
    if tokens <= most {
        return Ok(());
    }
    Err(Error::input(format!(
        "{tokens} tokens are more than the {most} of the model's context (max_position_embeddings)"
    ))
    .hint("shorten the prompt; in a conversation, `clear` begins a new one")
    .hint_zh("请缩短输入；对话中可用 `clear` 重新开始"))
}

/// The rows of a batch and what the model remembers of each. Rows may have any lengths.
pub struct Session<'m> {
    model: &'m Qwen3,
    adapter: Option<&'m AdapterWeights>,
    cache: KvCache,
}

/// The logits of the next position, one row of `V` for every row of the session.
#[derive(Debug, Clone)]
pub struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl<'m> Session<'m> {
    /// A row for every prompt (none of them empty) and the logits after each. `adapter`: `None` asks the base model.
    ///
    /// What all prompts begin with is computed once. Errors: a prompt is longer than the model's context.
    pub fn open(model: &'m Qwen3, adapter: Option<&'m AdapterWeights>, prompts: &[&[u32]]) -> Result<(Self, Logits)> {
        let (mut session, shared) = Self::begin(model, adapter, prompts)?;
        let rest: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[shared..]).collect();
        let logits = session.feed(&rest)?;
        Ok((session, logits))
    }

    /// So many rows without a token.
    pub fn empty(model: &'m Qwen3, adapter: Option<&'m AdapterWeights>, rows: usize) -> Self {
        let mut cache = model.cache();
        (0..rows).for_each(|_| cache.open());
        Self { model, adapter, cache }
    }

    /// Rows that hold what all `prompts` begin with, never a whole prompt; returns its length.
    pub(super) fn begin(
        model: &'m Qwen3,
        adapter: Option<&'m AdapterWeights>,
        prompts: &[&[u32]],
    ) -> Result<(Self, usize)> {
        if prompts.iter().any(|prompt| prompt.is_empty()) {
            return Err(Error::input("an empty prompt").hint("give a text to answer").hint_zh("请给出要回答的文本"));
        }
        let mut session = Self::empty(model, adapter, 1);
        let shared = if prompts.len() > 1 { common_prefix(prompts) } else { 0 };
        if shared > 0 {
            session.extend(&[&prompts[0][..shared]], &[shared as u32 - 1])?;
        }
        session.select(&vec![0; prompts.len()]);
        Ok((session, shared))
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.cache.sequences()
    }

    /// Tokens of a row, prompt included.
    pub fn len(&self, row: usize) -> usize {
        self.cache.len(row)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Puts one token behind every row; the logits after it.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Logits> {
        let tokens: Vec<&[u32]> = tokens.chunks(1).collect();
        self.feed(&tokens)
    }

    /// Puts at least one token behind every row; the logits after the last of each.
    pub fn feed(&mut self, tokens: &[&[u32]]) -> Result<Logits> {
        let mut end = 0;
        let last: Vec<u32> = tokens
            .iter()
            .map(|tokens| {
                end += tokens.len() as u32;
                end - 1
            })
            .collect();
        let hidden = self.extend(tokens, &last)?;
        Logits::read(&self.model.head(&hidden)?)
    }

    /// The hidden states `[L, D]` of the `wanted` ones among the new rows laid end to end.
    pub(super) fn extend(&mut self, tokens: &[&[u32]], wanted: &[u32]) -> Result<Tensor> {
        let longest = tokens.iter().enumerate().map(|(row, tokens)| self.cache.len(row) + tokens.len()).max();
        refuse_too_long(self.model, longest.unwrap_or(0))?;
        self.model.extend(&mut self.cache, tokens, wanted, self.adapter)
    }

    /// Row `i` becomes what row `from[i]` was: forks (an index twice), reorders and drops rows. Copies no keys or values.
    pub fn select(&mut self, from: &[usize]) {
        self.cache.select(from);
    }

    /// Forgets all tokens of a row but the first `len`.
    pub fn rewind(&mut self, row: usize, len: usize) {
        self.cache.truncate(row, len);
    }
}

/// Tokens that all prompts begin with, short of the last token of each.
fn common_prefix(prompts: &[&[u32]]) -> usize {
    let Some((first, rest)) = prompts.split_first() else { return 0 };
    let shortest = prompts.iter().map(|prompt| prompt.len() - 1).min().unwrap_or(0);
    let common = |other: &&[u32]| first.iter().zip(*other).take_while(|(a, b)| a == b).count();
    rest.iter().map(common).min().unwrap_or(0).min(shortest)
}

impl Logits {
    #[expect(clippy::disallowed_methods, reason = "one copy to the host a step: the next token is chosen there")]
    fn read(logits: &Tensor) -> Result<Self> {
        Ok(Self { vocab: logits.dim(1)?, values: logits.flatten_all()?.to_vec1()? })
    }

    /// The logits of one row, `[V]`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab..][..self.vocab]
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab
    }
}
