//! The plain loop: choose a token for every row, feed it, until each row ends its turn or its room is used up.

use super::{
    sample::Sampling,
    session::{Logits, Session},
};
use crate::{
    error::Result,
    model::{AdapterWeights, Qwen3},
};

/// When an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of an answer at most; the model's context may end it earlier.
    pub max_new_tokens: usize,
    /// Tokens that end an answer and are not part of it.
    pub stop: Vec<u32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// `max_new_tokens`, or the end of the context.
    Length,
    /// It was asked to.
    Interrupted,
}

impl Finish {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Token ids, without the one that ended it.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A token that was just chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Index of the prompt.
    pub prompt: usize,
    /// Which of its answers.
    pub answer: usize,
    /// The token.
    pub id: u32,
}

/// How answers are made, and who may end them early.
pub struct How<'a> {
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// When an answer ends.
    pub limits: Limits,
    /// Asked before every step.
    pub interrupted: &'a dyn Fn() -> bool,
}

/// Hears every token of an answer as it is chosen.
pub type Told<'a> = &'a mut dyn FnMut(Token) -> Result<()>;

/// `n` answers to every prompt, all rows at once. `first` is the number of `prompts[0]` among all prompts of the seed.
///
/// An answer depends on nothing but its prompt, its numbers and the seed: not on the other rows.
/// Errors: a prompt is empty or longer than the context; a logit is not a number.
pub fn generate(
    model: &Qwen3,
    adapter: Option<&AdapterWeights>,
    prompts: &[Vec<u32>],
    (n, first): (usize, usize),
    how: &How,
    told: Told,
) -> Result<Vec<Vec<Answer>>> {
    let asked: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let (session, logits) = Session::open(model, adapter, &asked)?;
    let rows = (0..prompts.len()).flat_map(|prompt| (0..n).map(move |answer| (prompt, answer)));
    let live = rows.map(|(prompt, answer)| Live {
        prompt,
        answer,
        number: ((first + prompt) * n + answer) as u64,
        source: prompt,
        ids: prompts[prompt].clone(),
        asked: prompts[prompt].len(),
    });
    let mut answers = vec![vec![None; n]; prompts.len()];
    let mut session = session;
    decode(model, &mut session, logits, live.collect(), how, told, &mut |row, finish| {
        let answer = &mut answers[row.prompt][row.answer];
        *answer = Some(row.end(finish));
    })?;
    let all = answers.into_iter().map(|answers| answers.into_iter().flatten().collect());
    Ok(all.collect())
}

/// A dialogue: what a prompt has in common with the one before it is not computed again.
pub struct Conversation<'m> {
    model: &'m Qwen3,
    session: Session<'m>,
    /// What the session's row holds.
    ids: Vec<u32>,
}

impl<'m> Conversation<'m> {
    /// Nothing said yet.
    pub fn new(model: &'m Qwen3, adapter: Option<&'m AdapterWeights>) -> Self {
        Self { model, session: Session::empty(model, adapter, 1), ids: Vec::new() }
    }

    /// The answer to `prompt`, the whole dialogue in token ids. `number` tells turns of one seed apart.
    pub fn answer(&mut self, prompt: &[u32], number: u64, how: &How, told: Told) -> Result<Answer> {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = common.min(prompt.len().saturating_sub(1));
        self.session.rewind(0, common);
        self.ids.truncate(common);
        let logits = self.session.feed(&[&prompt[common..]])?;
        let row = Live { prompt: 0, answer: 0, number, source: 0, ids: prompt.to_vec(), asked: prompt.len() };
        let mut answer = None;
        decode(self.model, &mut self.session, logits, vec![row], how, told, &mut |row, finish| {
            self.ids.clone_from(&row.ids);
            answer = Some(row.end(finish));
        })?;
        self.ids.truncate(self.session.len(0)); // the last token of an answer that was cut off is not in the cache
        Ok(answer.expect("every row ends"))
    }
}

/// A row that is not finished.
struct Live {
    prompt: usize,
    answer: usize,
    /// Which text of the seed it is.
    number: u64,
    /// The row of the newest logits that it continues.
    source: usize,
    /// The prompt, and the answer so far.
    ids: Vec<u32>,
    /// Tokens of the prompt.
    asked: usize,
}

impl Live {
    fn end(self, finish: Finish) -> Answer {
        Answer { ids: self.ids[self.asked..].to_vec(), finish }
    }
}

/// Goes on with every row until it ends; `ended` is given each as it does.
fn decode(
    model: &Qwen3,
    session: &mut Session,
    mut logits: Logits,
    mut live: Vec<Live>,
    how: &How,
    told: Told,
    ended: &mut dyn FnMut(Live, Finish),
) -> Result<()> {
    let context = model.config().max_position_embeddings;
    let most = how.limits.max_new_tokens;
    while !live.is_empty() {
        if (how.interrupted)() {
            live.into_iter().for_each(|row| ended(row, Finish::Interrupted));
            return Ok(());
        }
        let mut going = Vec::with_capacity(live.len());
        for mut row in live {
            let id = how.sampling.choose(logits.row(row.source), &row.ids, row.number)?;
            if how.limits.stop.contains(&id) {
                ended(row, Finish::Stop);
                continue;
            }
            row.ids.push(id);
            told(Token { prompt: row.prompt, answer: row.answer, id })?;
            match row.ids.len() - row.asked >= most || row.ids.len() > context {
                true => ended(row, Finish::Length),
                false => going.push(row),
            }
        }
        live = going;
        if live.is_empty() {
            return Ok(());
        }
        session.select(&live.iter().map(|row| row.source).collect::<Vec<_>>());
        let newest: Vec<u32> = live.iter().filter_map(|row| row.ids.last().copied()).collect();
        logits = session.step(&newest)?;
        live.iter_mut().enumerate().for_each(|(i, row)| row.source = i);
    }
    Ok(())
}
