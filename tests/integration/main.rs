//! One binary for all integration tests: candle links slowly, and cargo links once per test file.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests look at values, use candle's autograd as their oracle, and fail by panicking"
)]

/// The import table of the house.
mod architecture;
/// Whatever can be wrong with the input, and what the user is told.
mod bad_input;
/// The program on a card, or on the stand-in driver.
#[cfg(feature = "cuda")]
mod card;
/// Which card is taken, what is refused, and what becomes of a run whose card has no more memory.
#[cfg(feature = "cuda")]
mod card_limits;
/// What the binary does on the command line.
mod cli;
/// Ids, labels and row order against LlamaFactory's own.
mod dataset;
/// DoRA from the first step to the files, and what is done with them.
mod dora;
/// What must not change a result.
mod engine;
/// Loss, answers and metrics of held-out rows.
mod evaluate;
/// Merged models against LlamaFactory, and adapters that are dead or foreign.
mod export;
/// The couplets written for this project.
mod festive;
/// Every format a data set comes in, and what becomes of rows that are not as they should be.
mod formats;
/// Parsers against files that nobody would write.
mod fuzz;
/// Generation: the cache, batches, forks, scores, and the two commands.
mod generate;
/// The cut and the shared prefix over models and samples of random shapes.
mod geometries;
/// Where a run begins that does not simply go on, and what it chooses in the end.
mod going_back;
/// A model name → a folder, against hubs on this machine.
mod hub;
/// Where a token shows: at the hub, and nowhere else.
mod hub_secrets;
/// What the judge says of the shipped couplets, of copies and of re-paired lines.
mod judge;
/// Every key that is read changes what a run does.
mod keys;
/// A whole LlamaFactory run, repeated by the binary.
mod lf_run;
/// Our logits against candle-transformers' Qwen3, an independent implementation.
mod logits;
/// What `data show` and `data stats` say of rows.
mod look;
/// Adapters merged before training.
mod merged;
/// NEFTune: a recorded pass.
mod neftune;
/// Loss, gradients and trained adapters against recorded PyTorch runs.
mod parity;
/// PiSSA: recorded runs, folders, and bases that lack something.
mod pissa;
mod plan;
/// Every recipe in `configs/` loads.
mod recipes;
/// Checkpoints, resuming, clean stops.
mod resume;
/// Rules while generating, and what they find ranked.
mod rules;
/// Who opens a socket.
mod sockets;
/// What the tests share.
mod support;
/// What the model writes while it is trained, and the verdict at the end.
mod writing;
