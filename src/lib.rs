//! Native LoRA fine-tuning for Qwen3: LlamaFactory's configs, data and numbers, in one binary.
//!
//! The library computes; the binary `couplet-train` reads arguments, wires the rooms below together and prints.
//! `src/bin/couplet-train/commands/train.rs` shows a whole run in one function. A recipe is plain data:
//!
//! ```
//! use couplet_train::config::{self, Format, Projection};
//!
//! let yaml = "
//! model_name_or_path: Qwen/Qwen3-14B
//! stage: sft
//! dataset: couplets_train
//! template: qwen3
//! enable_thinking: false
//! output_dir: saves/qwen3-14b
//! preprocessing_num_workers: 16
//! ";
//! let overrides = ["learning_rate=2e-4".to_owned()];
//! let loaded = config::from_str(yaml, Format::Yaml, "train.yaml".as_ref(), &overrides)?;
//! assert_eq!(loaded.recipe.train.learning_rate, 2e-4);
//! assert_eq!(loaded.recipe.lora.lora_target, Projection::ALL);
//! assert_eq!(loaded.notices[0].en, "ignored: preprocessing_num_workers");
//! # Ok::<(), couplet_train::error::Error>(())
//! ```
//!
//! # The flow
//!
//! ```text
//! config ─→ dataset ────────────────┐
//!    └────→ hub ─→ model ─→ adapter ├─→ trainer ─→ events ─→ report
//!              kernels ──┘   optim ─┘
//! ```
//!
//! 1. [`config`] turns a file and `key=value` overrides into a [`config::Recipe`]; [`run`] looks whether it may start in
//!    its output directory.
//! 2. [`hub`] finds the base model's folder, [`dataset`] turns rows into token ids and labels, [`device`] picks CPU or card.
//! 3. [`model`] holds the frozen base and its adapters and runs forward and backward over rows laid end to end: no padding,
//!    no batch dimension, no gradient for a frozen weight. Its operations are the pairs of functions in [`kernels`].
//! 4. [`trainer`] cuts each optimizer step into micro-batches, sums their gradients, and updates with [`optim`].
//! 5. [`report`] hears the trainer's events and writes logs, results, plots and the terminal; [`adapter`] writes what was
//!    trained in PEFT's format.
//! 6. [`eval`] judges what a model writes, by the rules of [`prosody`], which also clean the data and guide generation.
//!
//! # The law of imports
//!
//! Each room may import those listed and no other; `tests/integration/architecture.rs` holds the same table and reads the
//! sources. `config` holds the user's words, [`model::config`] the checkpoint's.
//!
//! | room | may import | what it is for |
//! | --- | --- | --- |
//! | [`error`] | – | place, fact and way out; decides the exit code |
//! | [`json`] | error | JSON as Python writes it, to the letter |
//! | [`rng`] | – | random numbers keyed by seed, purpose and place: none depends on the order of drawing |
//! | [`fs`] | error | files and folders that are whole under their final name, also after a crash; the lock of a run |
//! | [`signal`] | error | SIGINT, SIGTERM and SIGHUP as a question the trainer asks |
//! | [`config`] | error | the recipe: our TOML, LlamaFactory's YAML and JSON |
//! | [`hub`] | config, error, fs | a model name → a folder: local, cached, or downloaded from Hugging Face or ModelScope; the only room with a network |
//! | [`dataset`] | config, error, fs, json, prosody, rng | everything about text, also raw couplets → training data; knows no tensor |
//! | [`kernels`] | error | forward and backward of each operation; the only home of `unsafe` |
//! | [`device`] | config, error, kernels | the CPU or a card: which, and why not |
//! | [`model`] | config, error, fs, kernels, rng | Qwen3 with LoRA: mathematics and its weights |
//! | [`optim`] | config, error, kernels | AdamW, clipping, learning rate |
//! | [`adapter`] | config, error, fs, kernels, model | PEFT adapter directories: read, written, proven, merged |
//! | [`generate`] | config, dataset, error, kernels, model, prosody, rng | prompts as training made them, sampling, rules, scoring, ranking |
//! | [`plan`] | config, error, kernels, model | memory by part, rows at once, what blocks keep: said before the run and held to; arithmetic of a step |
//! | [`trainer`] | adapter, config, dataset, error, fs, model, optim, plan, rng | the loop; prints nothing, emits [`trainer::event`]s |
//! | [`report`] | config, error, fs, json, `trainer::event` | whoever watches; knows no tensor |
//! | [`prosody`] | error | tones, clauses, rhythm nodes, repeats: what a line of a couplet sounds and looks like |
//! | [`eval`] | config, dataset, error, generate, model, prosody, rng | couplets judged, with reasons and intervals; BLEU and ROUGE; a model over held-out rows |
//! | [`run`] | adapter, config, error, fs, trainer | the output directory and its receipt, `run.json` |
//! | `testing` | config, error, kernels, model | helpers of tests; any room's tests may use it |
//!
//! Nothing but the binary imports clap, and nothing but the binary and [`report::console`] prints.

// Tests look at values and use candle's autograd as their oracle; the build without them is checked in full.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

// The ground.
pub mod error;
pub mod fs;
pub mod json;
pub mod rng;
pub mod signal;

// What a run is.
pub mod config;

// What it reads.
pub mod dataset;
pub mod hub;

// What computes.
pub mod device;
pub mod kernels;
pub mod model;

pub mod adapter;
pub mod generate;
pub mod optim;

// The loop, what watches it, and where its results lie.
pub mod plan;
pub mod trainer;

pub mod report;
pub mod run;

// What it is worth.
pub mod eval;
pub mod prosody;

#[doc(hidden)]
pub mod testing;
