//! Judging what a model wrote: text in, numbers and reasons out.
//!
//! - [`couplet`]: one 上联 and 下联 → a verdict with reasons; cleaning what was asked and what was answered.
//! - [`metrics`]: a set of verdicts → every metric with its interval, and what a metric is worth.
//! - [`text_metrics`]: BLEU and ROUGE, as LlamaFactory's predict has them.
//! - [`suite`]: a model over held-out rows → columns to compare. The only part that knows a model.

pub mod couplet;
pub mod metrics;
pub mod suite;
pub mod text_metrics;
pub mod words;
