//! How likely given continuations are.

use super::session::Session;
use crate::{
    error::{Error, Result},
    kernels::cross_entropy,
    model::{AdapterWeights, Qwen3, head_rows},
};
use candle_core::Tensor;

/// Tokens that go through the model at once.
const BATCH_TOKENS: usize = 2048;

/// log p, in nats, of every token of every target given its prompt and the tokens before it.
///
/// `pairs`: (prompt, target) token ids; no prompt is empty. The sum over a target is log p(target | prompt).
pub fn score(model: &Qwen3, adapter: Option<&AdapterWeights>, pairs: &[(&[u32], &[u32])]) -> Result<Vec<Vec<f32>>> {
    let mut scores = Vec::with_capacity(pairs.len());
    let mut start = 0;
    while start < pairs.len() {
        let mut tokens = 0;
        let batch = pairs[start..].iter().take_while(|(prompt, target)| {
            tokens += prompt.len() + target.len();
            tokens <= BATCH_TOKENS
        });
        let end = start + batch.count().max(1);
        scores.extend(score_batch(model, adapter, &pairs[start..end])?);
        start = end;
    }
    Ok(scores)
}

fn score_batch(model: &Qwen3, adapter: Option<&AdapterWeights>, pairs: &[(&[u32], &[u32])]) -> Result<Vec<Vec<f32>>> {
    // The last token is only a target; the last token of a prompt is never shared, because it predicts the first.
    let prompts: Vec<&[u32]> = pairs.iter().map(|(prompt, _)| *prompt).collect();
    let (mut session, shared) = Session::begin(model, adapter, &prompts)?;
    let (mut rows, mut wanted, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = 0;
    for (prompt, target) in pairs {
        let row = [&prompt[shared..], &target[..target.len().saturating_sub(1)]].concat();
        let first = end + prompt.len() - shared - 1; // predicts the first token of the target
        wanted.extend((first..first + target.len()).map(|row| row as u32));
        targets.extend_from_slice(target);
        end += row.len();
        rows.push(row);
    }
    if targets.is_empty() {
        return Ok(vec![Vec::new(); pairs.len()]);
    }
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut nll = nll(model, &session.extend(&rows, &wanted)?, &targets)?.into_iter();
    let scores = pairs.iter().map(|(_, target)| nll.by_ref().take(target.len()).map(|x| -x).collect());
    Ok(scores.collect())
}

/// Negative log-likelihood of `targets`, in chunks of [`head_rows`].
#[expect(clippy::disallowed_methods, reason = "the result")]
fn nll(model: &Qwen3, hidden: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let vocab = model.config().vocab_size;
    if let Some(id) = targets.iter().find(|id| **id as usize >= vocab) {
        return Err(Error::run(format!("token {id} is scored, but the model has only {vocab}")));
    }
    let mut losses = Vec::with_capacity(targets.len());
    let chunk = head_rows(vocab);
    for (i, targets) in targets.chunks(chunk).enumerate() {
        let logits = model.head(&hidden.narrow(0, i * chunk, targets.len())?)?;
        losses.extend(cross_entropy::nll(&logits, targets)?.to_vec1::<f32>()?);
    }
    Ok(losses)
}
