#!/usr/bin/env python3
"""Time LlamaFactory itself: its command line, with the settings of the LoRA example it ships, on random Qwen3-0.6B.

    python benches/peer/llamafactory_cli.py --steps 4

Writes a model, the rows and a YAML into a folder, runs `llamafactory-cli train` there, and notes when each step's line appears in
LlamaFactory's own trainer_log.jsonl. The first step has no beginning, so that at least one is for warming up. Prints one JSON line.

Needs llamafactory and what it needs; nothing is downloaded.
"""
import argparse, importlib.metadata, json, os, shutil, subprocess, sys, tempfile, time

from step import ROOT, GEOMETRIES, QWEN3_TOKENIZER, alpaca_rows, encode, gflop_step, random_model, read_tokenizer, report

# As examples/train_lora/qwen3_lora_sft.yaml of LlamaFactory 0.9.5; template, thinking and the order of rows as on the other sides, a log
# line a step, no checkpoint, and no worker processes beside training.
RECIPE = """
model_name_or_path: {folder}/model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: {rank}
lora_target: all
dataset: rows
dataset_dir: {folder}
template: qwen3
enable_thinking: false
cutoff_len: 2048
output_dir: {folder}/out
overwrite_output_dir: true
overwrite_cache: true
logging_steps: 1
save_strategy: "no"
report_to: none
per_device_train_batch_size: {batch}
gradient_accumulation_steps: {accumulate}
learning_rate: 1.0e-4
num_train_epochs: 1.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: {bf16}
disable_shuffling: true
use_cpu: true
"""


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--geometry", choices=GEOMETRIES, default="qwen3-0.6b", help="random weights of this shape (default: %(default)s)")
    p.add_argument("--data", metavar="FILE", default=os.path.join(ROOT, "data", "couplets_train.json"), help="Alpaca JSON (default: data/couplets_train.json)")
    p.add_argument("--batch", type=int, default=1, help="rows fed at once (default: %(default)s)")
    p.add_argument("--accumulate", type=int, default=8, help="batches a step (default: %(default)s)")
    p.add_argument("--rank", type=int, default=8, help="LoRA rank (default: %(default)s)")
    p.add_argument("--dtype", choices=["f32", "bf16"], default="bf16", help="(default: %(default)s)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's threads (default: all, %(default)s here)")
    p.add_argument("--steps", type=int, default=4, help="timed steps (default: %(default)s)")
    p.add_argument("--warmup", type=int, default=1, help="steps before those, at least 1 (default: %(default)s)")
    p.add_argument("--folder", help="where to write; a model that is there is taken (default: a temporary folder)")
    a = p.parse_args()
    if min(a.steps, a.warmup, a.batch, a.accumulate, a.threads) < 1:
        p.error("--steps, --warmup, --batch, --accumulate and --threads are at least 1")
    return a


def write_model(folder, a):
    import torch, transformers

    torch.manual_seed(0)
    model = random_model(a.geometry, a.dtype)
    model.save_pretrained(folder)
    read_tokenizer(QWEN3_TOKENIZER).save(os.path.join(folder, "raw.json"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "raw.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    os.remove(os.path.join(folder, "raw.json"))


def write_inputs(folder, a, rows):
    files = {
        "rows.json": json.dumps(rows, ensure_ascii=False),
        "dataset_info.json": json.dumps({"rows": {"file_name": "rows.json"}}),
        "train.yaml": RECIPE.format(folder=folder, rank=a.rank, batch=a.batch, accumulate=a.accumulate, bf16=str(a.dtype == "bf16").lower()),
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(text)


def train(folder, a):
    """When each step was logged, and the highest resident memory of the process in KiB."""
    env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), HF_HUB_OFFLINE="1", HF_HOME=os.path.join(folder, "hf"), CUDA_VISIBLE_DEVICES="")
    shutil.rmtree(os.path.join(folder, "out"), ignore_errors=True)
    log, output = os.path.join(folder, "out", "trainer_log.jsonl"), os.path.join(folder, "output.txt")
    with open(output, "w") as f:
        run = subprocess.Popen([sys.executable, "-m", "llamafactory.cli", "train", os.path.join(folder, "train.yaml")], env=env, stdout=f, stderr=f)
    times, ended = [], 0
    while not ended:
        time.sleep(0.01)
        ended, status, usage = os.wait4(run.pid, os.WNOHANG)
        logged = sum('"loss"' in line for line in open(log)) if os.path.exists(log) else 0
        times += [time.perf_counter()] * (logged - len(times))
    run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode or len(times) < a.warmup + a.steps:
        with open(output) as f:
            sys.exit(f"llamafactory: exit {run.returncode}, {len(times)} steps logged\n{f.read()[-2000:]}")
    return times, usage.ru_maxrss


def measure(folder, a):
    if not os.path.exists(os.path.join(folder, "model")):
        write_model(os.path.join(folder, "model"), a)
    import transformers

    data = alpaca_rows(a.data, a.batch * a.accumulate * (a.steps + a.warmup))
    write_inputs(folder, a, data)
    times, memory = train(folder, a)
    seconds = [after - before for before, after in zip(times, times[1:])][a.warmup - 1:]
    tokenizer = read_tokenizer(QWEN3_TOKENIZER)
    rows = [encode(tokenizer, row) for row in data[a.warmup * a.batch * a.accumulate:]]
    config = transformers.AutoConfig.from_pretrained(os.path.join(folder, "model"))
    gflop = gflop_step(config, a.rank, rows, a.batch, a.steps, gc=True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "llamafactory")}
    gib = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss: bytes on macOS, KiB on Linux
    print(json.dumps({
        "model": a.geometry, "dtype": a.dtype, "gradient_checkpointing": True, "batch": a.batch, "accumulate": a.accumulate, "rank": a.rank,
        **report(seconds, rows, a.batch, gflop), "peak_rss_gib": round(memory / gib, 3), "threads": a.threads, **versions,
    }), flush=True)


def main():
    a = parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)  # before torch is imported
    if a.folder:
        os.makedirs(a.folder, exist_ok=True)
        return measure(os.path.abspath(a.folder), a)
    with tempfile.TemporaryDirectory() as folder:
        measure(folder, a)


if __name__ == "__main__":
    main()
