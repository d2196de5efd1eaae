//! What the model writes while it is trained: answers to `sample_prompts`, and couplets that are judged.

use super::samples::{answer, greedy};
use couplet_train::{
    config::Recipe,
    dataset::{self, Splits, Tokenizer},
    error::{Error, Result},
    eval::suite::{self, Case, Known, Writer},
    generate::{How, Speaker, generate},
    model::{AdapterWeights, Params, Qwen3},
    trainer::event::{Sample, Written},
};

/// Asks the model at every evaluation.
pub struct Writing<'a> {
    model: &'a Qwen3,
    tokenizer: &'a Tokenizer,
    recipe: &'a Recipe,
    /// Ids of every sample prompt.
    prompts: Vec<Vec<u32>>,
    /// Held-out couplets.
    cases: Vec<Case>,
    /// What the training rows answer, to tell what was learned by heart.
    known: Known,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Writing<'a> {
    /// `None`: the recipe asks for nothing. Errors: `eval_couplets` where the held-out rows are no couplets.
    pub fn new(
        recipe: &'a Recipe,
        (model, tokenizer): (&'a Qwen3, &'a Tokenizer),
        data: &Splits,
        speaker: &Speaker,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Option<Self>> {
        let (texts, couplets) = (&recipe.train.sample_prompts, recipe.train.eval_couplets);
        if texts.is_empty() && couplets == 0 {
            return Ok(None);
        }
        let prompts = texts.iter().map(|text| speaker.prompt(tokenizer, &[], text)).collect::<Result<_>>()?;
        let (mut cases, mut known) = (vec![], Known::default());
        if couplets > 0 {
            cases = suite::cases(&data.held_out[..data.held_out.len().min(couplets)], &recipe.data, tokenizer)?;
            if !suite::are_couplets(&cases) {
                return Err(Error::input("`eval_couplets` judges couplets, but the held-out rows are none")
                    .hint("remove `eval_couplets`; the held-out loss needs no couplets")
                    .hint_zh("请删除 `eval_couplets`；留出集损失不要求数据为对联"));
            }
            let (rows, _) = dataset::training_rows(&recipe.data, recipe.train.seed)?;
            known = Known::new(rows.iter().map(|row| row.response.as_str()));
        }
        Ok(Some(Self { model, tokenizer, recipe, prompts, cases, known, stop }))
    }

    /// What the model writes with these parameters. `None`: stopped.
    pub fn write(&self, params: &Params) -> Result<Option<Written>> {
        let adapter = AdapterWeights::new(self.model.config().num_hidden_layers, &self.recipe.lora, params)?;
        let longest = self.cases.iter().map(|case| case.reference.chars().count()).max();
        let how = How { interrupted: self.stop, ..greedy(self.tokenizer, longest) };
        let batch = self.recipe.train.per_device_eval_batch_size;
        let mut written = Written::default();
        let texts = self.recipe.train.sample_prompts.chunks(batch);
        for (prompts, texts) in self.prompts.chunks(batch).zip(texts) {
            let answers = generate(self.model, Some(&adapter), prompts, (1, 0), &how, &mut |_| Ok(()))?;
            for (text, answers) in texts.iter().zip(&answers) {
                written.samples.push(Sample { prompt: text.clone(), answer: answer(&answers[0], self.tokenizer)? });
            }
        }
        if !self.cases.is_empty() {
            let writer = Writer { model: self.model, adapter: Some(&adapter), tokenizer: self.tokenizer };
            written.couplet_pass = suite::pass_rate(writer, &self.cases, Some(&self.known), &how, batch)?;
            if written.couplet_pass.is_none() {
                return Ok(None);
            }
        }
        Ok(if (self.stop)() { None } else { Some(written) })
    }
}
