//! Reading and tokenising a data set: `cargo bench --bench tokenise -- --data FILE.json` prints one JSON line.
//!
//! Without `--data` the shipped training couplets, with Qwen3's own tokenizer. `--val-size` holds rows out and looks for them
//! among the others: `s_leaks` is a part of `s_rows`, measured once more by itself. The digest is that of the ids and labels:
//! equal digests, equal ids. `benches/peer/tokenise.py` does the same rows with transformers.

#[path = "common.rs"]
mod common;

use common::{cpu_name, load_average, peak_rss_gib, qwen3_tokenizer, round};
use couplet_train::{config::DataConfig, dataset};
use std::{path::PathBuf, time::Instant};

#[expect(clippy::print_stdout, reason = "the result")]
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let shipped = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/couplets_train.json");
    let data = common::option(&args, "--data").map_or_else(shipped, PathBuf::from);
    let began = Instant::now();
    let tokenizer = qwen3_tokenizer();
    let s_tokenizer = began.elapsed().as_secs_f64();
    let config = DataConfig {
        dataset: vec![data.file_stem().and_then(|stem| stem.to_str()).expect("a file name").to_owned()],
        dataset_dir: data.parent().expect("a folder").to_owned(),
        cutoff_len: 4096,
        val_size: common::option(&args, "--val-size").map_or(0.0, |share| share.parse().expect("a share or a count")),
        ..couplet_train::testing::data_config()
    };
    let (before, began) = (peak_rss_gib(), Instant::now());
    let splits = dataset::load(&config, 42, &tokenizer).expect("the data");
    let seconds = began.elapsed().as_secs_f64();
    let (peak, read) = (peak_rss_gib(), dataset::read(&config, 42).expect("the data"));
    let began = Instant::now();
    let leaks = read.leaks();
    let s_leaks = began.elapsed().as_secs_f64();
    let report = serde_json::json!({
        "rows": splits.train.len(), "tokens": splits.summary.train.tokens, "s_tokenizer": round(s_tokenizer),
        "s_rows": round(seconds), "rows_s": (splits.train.len() as f64 / seconds).round(),
        "peak_rss_gib_before": before, "peak_rss_gib": peak, "s_leaks": round(s_leaks), "leaks": leaks.iter().map(|leaks| leaks.found.len()).sum::<usize>(), "threads": rayon::current_num_threads(),
        "cpu": cpu_name(), "load1": load_average(), "digest": splits.summary.digest,
    });
    println!("{report}");
}
