#!/usr/bin/env python3
"""couplet-train against PyTorch + PEFT: the same steps in turn (A B A B ...), and a table with the ratios.

    cargo bench --bench step --no-run                                   # once; it prints the path of the benchmark
    PEER/bin/python benches/peer/compare.py --bench target/release/deps/step-... --tokenizer QWEN3/tokenizer.json

PEER is the environment of README.md in this folder. For every case and dtype PyTorch first runs one step with one thread
and with all processors; the better count is used. Both sides see the same rows (--data, an Alpaca file), batch 8, rank 8.
"""
import argparse, json, os, statistics, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))


def last_json(command):
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{run.stderr[-800:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench", required=True, help="the benchmark that cargo built")
    p.add_argument("--tokenizer", required=True, help="a Qwen3 tokenizer.json, for the 0.6B geometry")
    p.add_argument("--data", default="data/couplets_train.json")
    p.add_argument("--cases", default="tiny,qwen3-0.6b")
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--rounds", type=int, default=2)
    a = p.parse_args()

    print("| case | dtype | side | s/step, median | samples/s | peak memory, GiB | threads |\n|---|---|---|---|---|---|---|")
    for case in a.cases.split(","):
        model = ["--model", "data/tiny_qwen3", "--tokenizer", "data/tiny_qwen3/tokenizer.json"]
        peer = [sys.executable, os.path.join(HERE, "step.py"), "--data", a.data, "--dtype", a.dtype]
        peer += model if case == "tiny" else ["--geometry", case, "--tokenizer", a.tokenizer]
        counts = sorted({1, os.cpu_count()})
        tried = {n: last_json(peer + ["--threads", str(n), "--steps", "1"])["s_step_best"] for n in counts}
        threads = min(tried, key=tried.get)
        ours = [a.bench, "--case", case, "--dtype", a.dtype, "--data", a.data, "--steps", str(a.steps)]
        peer += ["--threads", str(threads), "--steps", str(a.steps)]
        sides = {"couplet-train": [], "PyTorch + PEFT": []}
        for _ in range(a.rounds):
            sides["couplet-train"].append(last_json(ours))
            sides["PyTorch + PEFT"].append(last_json(peer))
        middle = lambda side, key: statistics.median(run[key] for run in sides[side])
        for side, runs in sides.items():
            print(f"| {case} | {a.dtype} | {side} | {middle(side, 's_step_median'):.3f} | {middle(side, 'samples_s'):.2f} "
                  f"| {middle(side, 'peak_rss_gib'):.2f} | {runs[0]['threads']} |")
        ratio = lambda key: middle("PyTorch + PEFT", key) / middle("couplet-train", key)
        print(f"| {case} | {a.dtype} | **ratio** | **{ratio('s_step_median'):.2f} x faster** | | "
              f"**{100 / ratio('peak_rss_gib'):.0f} %** of the memory | |", flush=True)
    cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    print(f"\n{cpu}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
