#!/usr/bin/env python3
"""Time greedy generation with transformers' `generate`: the peer of `cargo bench --bench generate`.

    python benches/peer/generate.py --dtype bf16 --batch 16

Qwen3-0.6B's shape with random weights; prompts of --prompt tokens, --tokens new ones. A step is the time per further token:
(all tokens - the first token) / (tokens - 1), medians of --rounds. Prints one JSON line. Needs torch and transformers (and peft with --rank).
"""
import argparse, json, os, statistics, time


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="of the weights and activations (default: %(default)s)")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--prompt", type=int, default=40)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--rank", type=int, default=0, help="a PEFT adapter of this rank on all seven projections, not merged; 0: none")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)  # before torch is imported
    import torch, transformers

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    config = transformers.Qwen3Config(vocab_size=151936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
                                      num_key_value_heads=8, head_dim=128, intermediate_size=3072, tie_word_embeddings=True,
                                      rope_theta=1e6, rms_norm_eps=1e-6, max_position_embeddings=40960, attn_implementation="sdpa")
    torch.set_default_dtype(torch.bfloat16 if a.dtype == "bf16" else torch.float32)
    model = transformers.Qwen3ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    if a.rank:
        import peft

        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=a.rank, lora_alpha=16, target_modules=names)).eval()
        if a.dtype == "bf16":
            model.to(torch.bfloat16)
    ids = torch.tensor([[(row * 7919 + i * 104729) % 150000 for i in range(a.prompt)] for row in range(a.batch)])

    def seconds(tokens):
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens,
                           max_new_tokens=tokens, pad_token_id=0, eos_token_id=151645)
        return time.perf_counter() - start

    seconds(2)  # warm
    firsts, steps = [], []
    for _ in range(a.rounds):
        first, all_tokens = seconds(1), seconds(a.tokens)
        firsts.append(first)
        steps.append((all_tokens - first) / (a.tokens - 1))
    step = statistics.median(steps)
    print(json.dumps({
        "dtype": a.dtype, "batch": a.batch, "prompt": a.prompt, "tokens": a.tokens, "rank": a.rank,
        "s_first": round(statistics.median(firsts), 4), "s_step_median": round(step, 4), "s_step_best": round(min(steps), 4),
        "tokens_s": round(a.batch / step, 1), "threads": a.threads, "torch": torch.__version__,
        "transformers": transformers.__version__, "load1": round(os.getloadavg()[0], 2),
    }))


if __name__ == "__main__":
    main()
