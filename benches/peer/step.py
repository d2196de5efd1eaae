#!/usr/bin/env python3
"""Time LoRA fine-tuning steps with PyTorch + transformers + PEFT: the peer of `cargo bench --bench step`.

    python benches/peer/step.py                                    # random Qwen3-0.6B, f32, 8 couplets a step
    python benches/peer/step.py --dtype bf16 --batch 1 --accumulate 8 --gc
    python benches/peer/step.py --rows 512 --batch 2               # rows of 512 tokens, all labelled, nothing in common
    python benches/peer/step.py --model data/tiny_qwen3 --steps 20 # a real checkpoint
    python benches/peer/step.py --geometry qwen3-14b --dtype bf16 --batch 32 --device cuda

One step = forward, backward, clip to norm 1.0, AdamW (fused), on --accumulate batches of --batch couplets. The rows are taken in file
order, tokenised the way LlamaFactory's template `qwen3` does with thinking off, and padded on the right to a multiple of 8. The loss is
the sum of the labels' negative log-likelihoods over their number in the step. Prints one JSON line; progress goes to stderr.

Needs torch, transformers, peft and tokenizers; nothing is downloaded.
"""
import argparse, gzip, json, os, resource, statistics, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QWEN3_TOKENIZER = os.path.join(ROOT, "tests", "fixtures", "qwen3_tokenizer", "tokenizer.json.gz")


def geometry(hidden, intermediate, blocks, heads, tied, key_value_heads=8, head_dim=128):
    return dict(vocab_size=151936, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=blocks, num_attention_heads=heads,
                num_key_value_heads=key_value_heads, head_dim=head_dim, tie_word_embeddings=tied)


GEOMETRIES = {  # as in the published config.json, but for `toy`, which is that of benches/step.rs
    "toy": geometry(64, 192, 2, 2, False, 1, 64),
    "qwen3-0.6b": geometry(1024, 3072, 28, 16, True),
    "qwen3-1.7b": geometry(2048, 6144, 28, 16, True),
    "qwen3-4b": geometry(2560, 9728, 36, 32, True),
    "qwen3-8b": geometry(4096, 12288, 36, 32, False),
    "qwen3-14b": geometry(5120, 17408, 40, 40, False),
    "qwen3-32b": geometry(5120, 25600, 64, 64, False),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    w = p.add_mutually_exclusive_group()
    w.add_argument("--geometry", choices=GEOMETRIES, default="qwen3-0.6b", help="random weights of this shape (default: %(default)s)")
    w.add_argument("--model", metavar="DIR", help="a real checkpoint instead: config.json and safetensors")
    p.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, also gzipped (default: the one in --model, or Qwen3's of the tests)")
    p.add_argument("--data", metavar="FILE", default=os.path.join(ROOT, "data", "couplets_train.json"), help="Alpaca JSON (default: data/couplets_train.json)")
    p.add_argument("--rows", type=int, metavar="TOKENS", help="rows of so many tokens, all labelled, instead of --data")
    p.add_argument("--batch", type=int, default=8, help="rows fed at once (default: %(default)s)")
    p.add_argument("--accumulate", type=int, default=1, help="batches a step (default: %(default)s)")
    p.add_argument("--rank", type=int, default=8, help="LoRA rank on all seven projections (default: %(default)s)")
    p.add_argument("--alpha", type=int, default=16, help="LoRA alpha (default: %(default)s)")
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: bf16 base, f32 LoRA, autocast (default: %(default)s)")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    p.add_argument("--gc", action="store_true", help="recompute activations in the backward pass (gradient checkpointing)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's threads (default: all, %(default)s here)")
    p.add_argument("--steps", type=int, default=5, help="timed steps (default: %(default)s)")
    p.add_argument("--warmup", type=int, default=1, help="steps before those, not counted (default: %(default)s)")
    p.add_argument("--lr", type=float, default=1e-4, help="learning rate, constant (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="random weights and LoRA A (default: %(default)s)")
    a = p.parse_args()
    if a.tokenizer is None:
        a.tokenizer = os.path.join(a.model, "tokenizer.json") if a.model else QWEN3_TOKENIZER
    if min(a.steps, a.batch, a.accumulate, a.threads) < 1 or a.warmup < 0 or (a.rows is not None and a.rows < 2):
        p.error("--steps, --batch, --accumulate and --threads are at least 1, --rows 2, --warmup 0")
    return a


def cpu_name():
    try:
        with open("/proc/cpuinfo") as f:
            return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")
    except OSError:
        import platform

        return platform.processor() or "unknown"


def random_model(geometry, dtype, device):
    """Qwen3 with random weights, drawn in their own type and place: no f32 copy of a bf16 model, and none in the host's memory."""
    import torch, transformers

    config = transformers.Qwen3Config(**GEOMETRIES[geometry], rope_theta=1e6, rms_norm_eps=1e-6, max_position_embeddings=40960,
                                      attn_implementation="sdpa")
    torch.set_default_dtype(torch.bfloat16 if dtype == "bf16" else torch.float32)
    with torch.device(device):
        model = transformers.Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def read_tokenizer(path):
    from tokenizers import Tokenizer

    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        return Tokenizer.from_buffer(f.read())


def encode(tokenizer, row):
    """One Alpaca row -> (ids, labels); source and target are tokenised apart, and only the target has labels."""
    query = "\n".join(x for x in (row.get("instruction"), row.get("input")) if x)
    source = f"<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    target = f"{row['output']}<|im_end|>\n"
    s, t = (tokenizer.encode(x, add_special_tokens=False).ids for x in (source, target))
    return s + t, [-100] * len(s) + t


def alpaca_rows(path, need):
    """The first rows of a file; a short file starts over."""
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    return [data[i % len(data)] for i in range(need)]


def synthetic(sample, tokens, vocab_size):
    """As `synthetic` of benches/step.rs."""
    ids = [(sample * 7919 + i * 104729) % vocab_size for i in range(tokens)]
    return ids, ids


def width(batch):
    """As LlamaFactory's collator pads: to the longest row, and that to a multiple of 8."""
    return -(-max(len(ids) for ids, _ in batch) // 8) * 8


def count(rows, batch):
    """Tokens of rows fed `batch` at once; the counts of benches/step.rs."""
    batches = [rows[i:i + batch] for i in range(0, len(rows), batch)]
    padded = sum(len(b) * width(b) for b in batches)
    real = sum(len(ids) for ids, _ in rows)
    label = sum(l != -100 for _, labels in rows for l in labels[1:])
    return {"real": real, "fed": padded, "padded": padded, "label": label}


def gflop_step(config, rank, rows, batch, steps, gc):
    """Useful and executed GFLOP a step. Useful: `Shape::useful` of src/plan/work.rs. Executed: padded rows, logits of all of them, every
    block twice forward with gradient checkpointing, which also hands the first block's gradient down to the embeddings."""
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = [(q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f)]
    n, lora = layers * sum(o * i for o, i in shapes), layers * rank * sum(o + i for o, i in shapes)
    head, triangle = config.vocab_size * d, lambda tokens: tokens * (tokens + 1) // 2
    useful = sum(len(ids) * (4 * n + 6 * lora) + 4 * head * sum(l != -100 for l in labels[1:]) + layers * 12 * q * triangle(len(ids))
                 for ids, labels in rows)
    executed = 0
    for b in (rows[i:i + batch] for i in range(0, len(rows), batch)):
        tokens = len(b) * width(b)
        executed += tokens * (4 * n + 6 * lora + 4 * head) + len(b) * layers * 14 * q * triangle(width(b))
        if gc:
            executed += tokens * (2 * n + 2 * lora) + len(b) * layers * 4 * q * triangle(width(b))
        else:
            executed -= tokens * 2 * ((q + 2 * kv) * d + 3 * rank * d)
    return {"useful": round(useful / steps / 1e9, 4), "executed": round(executed / steps / 1e9, 4)}


def report(seconds, rows, batch, gflop):
    """What every side reports of its timed steps, of which `seconds` has the times and `rows` all rows."""
    total, tokens = sum(seconds), count(rows, batch)
    return {
        "steps": len(seconds), "s_step_best": round(min(seconds), 4), "s_step_median": round(statistics.median(seconds), 4),
        "samples_s": round(len(rows) / total, 4), **{f"{name}_tok_s": round(n / total, 4) for name, n in tokens.items()},
        "tokens": tokens, "gflop_step": gflop, "cpu": cpu_name(), "load1": round(os.getloadavg()[0], 2),
    }


def card_peak():
    """FLOP per second of a large product in bf16, as benches/machine.rs measures it."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    rounds = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - start) / 4)
    return 2 * 8192**3 / statistics.median(rounds)


def main():
    a = parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)  # before torch is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import peft
    import torch
    import torch.nn.functional as F
    import transformers

    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    bf16, on_card = a.dtype == "bf16", a.device == "cuda"
    wait = torch.cuda.synchronize if on_card else lambda: None
    if a.model:
        dtype = torch.bfloat16 if bf16 else torch.float32
        model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="sdpa").to(a.device)
    else:
        model = random_model(a.geometry, a.dtype, a.device)
    model.config.use_cache = False
    if a.gc:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})  # LlamaFactory's default
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=a.rank, lora_alpha=a.alpha, lora_dropout=0.0, target_modules=TARGETS))
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(trained, lr=a.lr, weight_decay=0.0, fused=True)

    tokenizer = read_tokenizer(a.tokenizer)
    pad = tokenizer.token_to_id("<|endoftext|>")
    per_step = a.batch * a.accumulate
    need = per_step * (a.steps + a.warmup)
    if a.rows:
        rows = [synthetic(i, a.rows, model.config.vocab_size) for i in range(need)]
    else:
        rows = [encode(tokenizer, row) for row in alpaca_rows(a.data, need)]
    top = max(max(ids) for ids, _ in rows)
    if top >= model.config.vocab_size:
        sys.exit(f"--tokenizer {a.tokenizer} gives id {top}, but the model has only {model.config.vocab_size}: not this model's tokenizer")

    def collate(batch):
        fill = lambda xs, v: xs + [v] * (width(batch) - len(xs))
        ids = torch.tensor([fill(i, pad) for i, _ in batch])
        labels = torch.tensor([fill(l, -100) for _, l in batch])
        mask = torch.tensor([fill([1] * len(i), 0) for i, _ in batch])
        return [x.to(a.device) for x in (ids, labels, mask)]

    model.train()
    peak = card_peak() if on_card else None
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts, cpu, losses = {"forward": [], "backward": [], "update": []}, [], []
    for step in range(a.warmup + a.steps):
        step_rows = rows[step * per_step:(step + 1) * per_step]
        labelled = sum(l != -100 for _, labels in step_rows for l in labels)
        cpu_start, total_loss = time.process_time(), 0.0
        forward = backward = 0.0
        for at in range(0, per_step, a.batch):
            ids, labels, mask = collate(step_rows[at:at + a.batch])
            wait()
            start = time.perf_counter()
            with torch.autocast(a.device, torch.bfloat16, enabled=bf16):
                logits = model(input_ids=ids, attention_mask=mask).logits
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum") / labelled
            del logits
            wait()
            middle = time.perf_counter()
            loss.backward()
            wait()
            end = time.perf_counter()
            forward, backward, total_loss = forward + middle - start, backward + end - middle, total_loss + float(loss.detach())
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wait()
        for name, seconds in (("forward", forward), ("backward", backward), ("update", time.perf_counter() - start)):
            parts[name].append(seconds)
        cpu.append(time.process_time() - cpu_start)
        losses.append(round(total_loss, 4))
        took = sum(times[-1] for times in parts.values())
        print(f"step {step + 1}{' (warmup)' if step < a.warmup else ''}: {took:.3f} s, loss {losses[-1]}", file=sys.stderr, flush=True)

    gib = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss: bytes on macOS, KiB on Linux
    timed, timed_rows = {name: times[a.warmup:] for name, times in parts.items()}, rows[a.warmup * per_step:]
    gflop = gflop_step(model.config, a.rank, timed_rows, a.batch, a.steps, a.gc)
    print(json.dumps({
        "model": a.model or a.geometry, "dtype": a.dtype, "gradient_checkpointing": a.gc, "rows": a.rows, "batch": a.batch,
        "accumulate": a.accumulate, "rank": a.rank, **report([sum(times) for times in zip(*timed.values())], timed_rows, a.batch, gflop),
        **{f"s_{name}_median": round(statistics.median(times), 4) for name, times in timed.items()},
        "card": torch.cuda.get_device_name() if on_card else None, "peak_gflop_s": round(peak / 1e9, 4) if on_card else None,
        "peak_card_bytes": torch.cuda.max_memory_allocated() if on_card else None,
        "reserved_card_bytes": torch.cuda.max_memory_reserved() if on_card else None,
        "cpu_s_step_best": round(min(cpu[a.warmup:]), 4),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / gib, 3), "rss_before_steps_gib": round(before / gib, 3),
        "loss": losses, "threads": a.threads, "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
    }), flush=True)


if __name__ == "__main__":
    main()
