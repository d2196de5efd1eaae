//! Generation: `cargo bench --bench generate` prints one JSON line, measured on a model of Qwen3-0.6B's shape with random weights.
//!
//! `benches/peer/generate.py` runs the same work with transformers' `generate`.
//!
//!     cargo bench --bench generate -- --dtype bf16 --batch 16 --prompt 40 --tokens 32 --rank 8 --rounds 3

#[path = "common.rs"]
mod common;

use candle_core::{DType, Device};
use common::{cpu_name, load_average, peak_rss_gib, random_weight, round};
use couplet_train::{
    config::{LoraConfig, Projection},
    generate::{Sampling, Session},
    kernels,
    model::{AdapterWeights, Params, Qwen3, lora::initial_values},
    testing::qwen3_0_6b,
};
use std::time::Instant;

#[expect(clippy::print_stdout, reason = "the result")]
fn main() {
    // As the program does.
    kernels::keep_freed_buffers();
    kernels::join_pool();
    let args: Vec<String> = std::env::args().collect();
    let get = |name: &str| common::option(&args, name);
    let number = |name: &str, default| get(name).map_or(default, |n| n.parse().expect("a number"));
    let dtype = if get("--dtype").is_some_and(|dtype| dtype == "bf16") { DType::BF16 } else { DType::F32 };
    let (batch, prompt, tokens) = (number("--batch", 1), number("--prompt", 40), number("--tokens", 32));
    let (rank, rounds) = (number("--rank", 0), number("--rounds", 3));

    let config = qwen3_0_6b();
    let model = Qwen3::build(&config, &lora(0), dtype, &Device::Cpu, |name, shape| random_weight(name, shape, dtype));
    let model = model.expect("a model").0;
    let adapter = (rank > 0).then(|| {
        let layout = model.adapter_layout(&lora(rank)).expect("a layout");
        let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| Ok(initial_values(slot, 42)));
        AdapterWeights::new(config.num_hidden_layers, &lora(rank), &params.expect("parameters")).expect("an adapter")
    });
    // Nothing in common, so that nothing is shared: the peer shares nothing either.
    let prompts: Vec<Vec<u32>> =
        (0..batch).map(|row| (0..prompt).map(|i| ((row * 7919 + i * 104_729) % 150_000) as u32).collect()).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();

    let (mut firsts, mut steps, mut ids) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        ids.clear();
        let began = Instant::now();
        let (mut session, mut logits) = Session::open(&model, adapter.as_ref(), &prompts).expect("a session");
        firsts.push(began.elapsed().as_secs_f64());
        for _ in 1..tokens {
            let began = Instant::now();
            let choose = |row| Sampling::GREEDY.choose(logits.row(row), &[], 0).expect("a token");
            let next: Vec<u32> = (0..batch).map(choose).collect();
            logits = session.step(&next).expect("a step");
            steps.push(began.elapsed().as_secs_f64());
            ids.push(next[0]);
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        round(times[times.len() / 2])
    };
    let s_step = median(&mut steps);
    let report = serde_json::json!({
        "dtype": format!("{dtype:?}").to_lowercase(), "batch": batch, "prompt": prompt, "tokens": tokens, "rank": rank,
        "s_first": median(&mut firsts), "s_step_median": s_step, "s_step_best": round(steps[0]),
        "tokens_s": (10.0 * batch as f64 / s_step).round() / 10.0, "threads": rayon::current_num_threads(),
        "peak_rss_gib": peak_rss_gib(), "cpu": cpu_name(), "load1": load_average(), "first_ids": &ids[..ids.len().min(5)],
    });
    println!("{report}");
}

fn lora(rank: usize) -> LoraConfig {
    LoraConfig {
        lora_rank: rank.max(1),
        lora_alpha: 16.0,
        lora_dropout: 0.0,
        lora_target: if rank > 0 { Projection::ALL.to_vec() } else { vec![] },
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    }
}
