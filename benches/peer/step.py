#!/usr/bin/env python3
"""Time LoRA fine-tuning steps with PyTorch + transformers + PEFT: the peer of `cargo bench`.

    python benches/peer/step.py --tokenizer tokenizer.json                      # random Qwen3-0.6B, f32
    python benches/peer/step.py --tokenizer tokenizer.json --dtype bf16
    python benches/peer/step.py --model data/tiny_qwen3 --steps 20              # a real checkpoint

One step = forward, backward, clip to norm 1.0, AdamW (fused), on one batch of couplets. The rows are taken in file order, tokenised
the way LlamaFactory's template `qwen3` does with thinking off, and padded on the right to a multiple of 8. The loss is the sum of the
labels' negative log-likelihoods over their number. Prints one JSON line; progress goes to stderr.

Needs torch, transformers, peft and tokenizers; nothing is downloaded.
"""
import argparse, json, os, resource, statistics, sys, time

GEOMETRIES = {  # as in the published config.json
    "qwen3-0.6b": dict(vocab_size=151936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
                       head_dim=128, intermediate_size=3072, tie_word_embeddings=True),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    w = p.add_mutually_exclusive_group()
    w.add_argument("--geometry", choices=GEOMETRIES, default="qwen3-0.6b", help="random weights of this shape (default: %(default)s)")
    w.add_argument("--model", metavar="DIR", help="a real checkpoint instead: config.json and safetensors")
    p.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json (default: the one in --model)")
    p.add_argument("--data", metavar="FILE", default="data/couplets_train.json", help="Alpaca JSON (default: %(default)s)")
    p.add_argument("--batch", type=int, default=8, help="rows per step (default: %(default)s)")
    p.add_argument("--rank", type=int, default=8, help="LoRA rank on all seven projections (default: %(default)s)")
    p.add_argument("--alpha", type=int, default=16, help="LoRA alpha (default: %(default)s)")
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: bf16 base, f32 LoRA, autocast (default: %(default)s)")
    p.add_argument("--gc", action="store_true", help="recompute activations in the backward pass (gradient checkpointing)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's threads (default: all, %(default)s here)")
    p.add_argument("--steps", type=int, default=5, help="timed steps (default: %(default)s)")
    p.add_argument("--warmup", type=int, default=1, help="steps before those, not counted (default: %(default)s)")
    p.add_argument("--lr", type=float, default=1e-4, help="learning rate, constant (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="random weights and LoRA A (default: %(default)s)")
    a = p.parse_args()
    if a.tokenizer is None:
        if a.model is None:
            p.error("--tokenizer is needed with --geometry")
        a.tokenizer = os.path.join(a.model, "tokenizer.json")
    if a.steps < 1 or a.batch < 1 or a.threads < 1 or a.warmup < 0:
        p.error("--steps, --batch and --threads are at least 1, --warmup at least 0")
    return a


def cpu_name():
    try:
        with open("/proc/cpuinfo") as f:
            return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")
    except OSError:
        import platform

        return platform.processor() or "unknown"


def encode(tokenizer, row):
    """One Alpaca row -> (ids, labels); source and target are tokenised apart, and only the target has labels."""
    query = "\n".join(x for x in (row.get("instruction"), row.get("input")) if x)
    source = f"<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    target = f"{row['output']}<|im_end|>\n"
    s, t = (tokenizer.encode(x, add_special_tokens=False).ids for x in (source, target))
    return s + t, [-100] * len(s) + t


def main():
    a = parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)  # before torch is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import peft
    import torch
    import torch.nn.functional as F
    import transformers
    from tokenizers import Tokenizer

    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    bf16 = a.dtype == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    if a.model:
        model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="sdpa")
    else:
        config = transformers.Qwen3Config(**GEOMETRIES[a.geometry], rope_theta=1e6, rms_norm_eps=1e-6, max_position_embeddings=40960,
                                          attn_implementation="sdpa")
        torch.set_default_dtype(dtype)  # weights are drawn in their own type: no f32 copy of a bf16 model
        model = transformers.Qwen3ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    if a.gc:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})  # LlamaFactory's default
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=a.rank, lora_alpha=a.alpha, lora_dropout=0.0, target_modules=TARGETS))
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(trained, lr=a.lr, weight_decay=0.0, fused=True)

    tokenizer = Tokenizer.from_file(a.tokenizer)
    pad = tokenizer.token_to_id("<|endoftext|>")
    with open(a.data, encoding="utf-8") as f:
        data = json.load(f)
    need = a.batch * (a.steps + a.warmup)
    rows = [encode(tokenizer, data[i % len(data)]) for i in range(need)]  # a short file starts over
    top = max(max(ids) for ids, _ in rows)
    if top >= model.config.vocab_size:
        sys.exit(f"--tokenizer {a.tokenizer} gives id {top}, but the model has only {model.config.vocab_size}: not this model's tokenizer")

    def collate(batch):
        width = -(-max(len(ids) for ids, _ in batch) // 8) * 8
        fill = lambda xs, v: xs + [v] * (width - len(xs))
        ids = torch.tensor([fill(i, pad) for i, _ in batch])
        labels = torch.tensor([fill(l, -100) for _, l in batch])
        mask = torch.tensor([fill([1] * len(i), 0) for i, _ in batch])
        return ids, labels, mask

    model.train()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, cpu, losses, real, padded = [], [], [], [], []
    for step in range(a.warmup + a.steps):
        ids, labels, mask = collate(rows[step * a.batch:(step + 1) * a.batch])
        count = int((labels != -100).sum())
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(input_ids=ids, attention_mask=mask).logits
        targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum") / count
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        losses.append(round(float(loss.detach()), 4))
        real.append(int(mask.sum()))
        padded.append(ids.numel())
        print(f"step {step + 1}{' (warmup)' if step < a.warmup else ''}: {seconds[-1]:.3f} s, loss {losses[-1]}", file=sys.stderr, flush=True)

    gib = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss: bytes on macOS, KiB on Linux
    t = seconds[a.warmup:]
    total = sum(t)
    print(json.dumps({
        "model": a.model or a.geometry, "dtype": a.dtype, "gradient_checkpointing": a.gc, "batch": a.batch, "rank": a.rank,
        "steps": a.steps, "s_step_best": round(min(t), 4), "s_step_median": round(statistics.median(t), 4), "cpu_s_step_best": round(min(cpu[a.warmup:]), 4),
        "samples_s": round(a.batch * a.steps / total, 3), "real_tokens_s": round(sum(real[a.warmup:]) / total, 1),
        "padded_tokens_s": round(sum(padded[a.warmup:]) / total, 1), "real_tokens_step": round(sum(real[a.warmup:]) / a.steps, 1),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / gib, 3), "rss_before_steps_gib": round(before / gib, 3),
        "loss_first": losses[0], "loss_last": losses[-1], "threads": a.threads, "torch": torch.__version__,
        "transformers": transformers.__version__, "peft": peft.__version__, "cpu": cpu_name(), "load1": round(os.getloadavg()[0], 2),
    }), flush=True)


if __name__ == "__main__":
    main()
