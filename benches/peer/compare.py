#!/usr/bin/env python3
"""couplet-train against PyTorch + PEFT, and against LlamaFactory: the same steps in turn (A B A B ...), one table.

    PEER/bin/python benches/peer/compare.py                                        every setting, f32 and bf16
    PEER/bin/python benches/peer/compare.py --settings couplets-8 --dtype bf16
    PEER/bin/python benches/peer/compare.py --llamafactory --page docs/performance.md

PEER is the environment of README.md in this folder. Every side sees the same rows; where their tokens are not the same in number, nothing is
printed. The JSON lines of all runs go to stderr as they come.
"""
import argparse, datetime, importlib.util, json, os, resource, statistics, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BEGIN, END = "<!-- made by benches/peer/compare.py: begin -->", "<!-- made by benches/peer/compare.py: end -->"
OURS, PYTORCH, CHECKPOINTED, LLAMAFACTORY = "couplet-train", "PyTorch + PEFT", "PyTorch + PEFT, checkpointing", "LlamaFactory"

# Options of both sides, dtypes, and the sides of PyTorch with options of their own.
BOTH = ["f32", "bf16"]
SETTINGS = {
    "tiny": (["--batch", "8"], ["f32"], {PYTORCH: []}),
    "couplets-8": (["--batch", "8"], BOTH, {PYTORCH: [], CHECKPOINTED: ["--gc"]}),
    "couplets-32": (["--batch", "32"], BOTH, {PYTORCH: [], f"{PYTORCH}, 4 × 8": ["--batch", "8", "--accumulate", "4"]}),
    "rows-512": (["--batch", "2", "--rows", "512"], BOTH, {PYTORCH: []}),
    "lf-example": (["--batch", "1", "--accumulate", "8"], BOTH, {CHECKPOINTED: ["--gc"]}),
}
COLUMNS = ["setting", "side", "s/step", "samples/s", "real tok/s", "fed tok/s", "padded tok/s", "label tok/s", "forward, s", "backward, s", "update, s",
           "GFLOP/step", "effective MFU", "hardware MFU", "peak memory, GiB", "couplet-train is"]


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--settings", default=",".join(SETTINGS), help="(default: %(default)s)")
    p.add_argument("--dtype", choices=[*BOTH, "both"], default="both", help="(default: %(default)s; tiny is f32)")
    p.add_argument("--data", help="Alpaca file (default: data/couplets_train.json)")
    p.add_argument("--steps", type=int, default=4, help="timed steps a run (default: %(default)s)")
    p.add_argument("--warmup", type=int, default=1, help="steps before those (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=2, help="runs of every side, in turn (default: %(default)s)")
    p.add_argument("--threads", type=int, help="of every side (default: all; PyTorch all or half, whichever is faster)")
    p.add_argument("--llamafactory", action="store_true", help="LlamaFactory's command line as well, in lf-example")
    p.add_argument("--bench", help="the benchmark that cargo built (default: cargo builds it)")
    p.add_argument("--page", help="replace what stands in this file between the two comments by the table")
    a = p.parse_args()
    a.settings = a.settings.split(",")
    for name in a.settings:
        if name not in SETTINGS:
            p.error(f"unknown setting {name}: one of {', '.join(SETTINGS)}")
    least = 1 if a.llamafactory else 0  # its first step has no beginning
    if a.steps < 1 or a.rounds < 1 or a.warmup < least:
        p.error("--steps and --rounds are at least 1, --warmup 0, with --llamafactory 1")
    if a.llamafactory and importlib.util.find_spec("llamafactory") is None:
        p.error(f"--llamafactory: {sys.executable} has no llamafactory")
    if a.page:
        replaced(read(a.page), "")  # the comments are there, before anything is measured
    return a


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def replaced(page, text, begin=BEGIN, end=END):
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(end) < page.index(begin):
        sys.exit(f"--page: expected one line {begin} and one line {end} behind it")
    return page[:page.index(begin) + len(begin)] + "\n" + text + page[page.index(end):]


def build():
    command = ["cargo", "bench", "--bench", "step", "--no-run", "--message-format=json"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit("cargo bench --bench step --no-run failed")
    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in messages if m["reason"] == "compiler-artifact" and m["target"]["name"] == "step")


def shown(words):
    """Paths below the repository's root, and no others: the page is not of this machine's folders."""
    return " ".join(os.path.relpath(w, ROOT) if w.startswith(ROOT + os.sep) else os.path.basename(w) if os.path.isabs(w) else w for w in words)


def ours(a, bench, setting, dtype):
    env = {"RAYON_NUM_THREADS": str(a.threads)} if a.threads else {}
    options = ["--case", "tiny" if setting == "tiny" else "qwen3-0.6b", *SETTINGS[setting][0], *common(a, dtype)]
    words = [f"{name}={value}" for name, value in env.items()] + ["cargo bench --bench step --", *options]
    return {"command": [bench, *options], "env": env, "shown": shown(words)}


def pytorch(a, setting, dtype, options):
    options = [*SETTINGS[setting][0], *options, *common(a, dtype)]
    if setting == "tiny":
        options = ["--model", os.path.join(ROOT, "data", "tiny_qwen3"), *options]
    return python("step.py", options)


def llamafactory(a, dtype, folder):
    options = [*SETTINGS["lf-example"][0], *common(a, dtype)]
    side = python("llamafactory_cli.py", options)
    side["command"] += ["--folder", os.path.join(folder, dtype)]  # the model is written once
    return side


def python(script, options):
    words = [os.path.join(HERE, script), *options]
    return {"command": [sys.executable, *words], "env": {}, "shown": "PEER/bin/python " + shown(words)}


def common(a, dtype):
    data = ["--data", os.path.abspath(a.data)] if a.data else []
    return ["--dtype", dtype, "--steps", str(a.steps), "--warmup", str(a.warmup), *data]


def within_free_memory():
    """An allocation beyond the free memory fails, in the process that asks for it: the system would end some process, with no word to anyone."""
    if sys.platform == "linux":
        free = next(int(line.split()[1]) << 10 for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable"))
        resource.setrlimit(resource.RLIMIT_DATA, (free, free))


def measured(side, threads=None):
    """The JSON of one run, or why there is none: what does not fit into the memory must not cost the others' results."""
    command = side["command"] + (["--threads", str(threads)] if threads else [])
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ, **side["env"]), preexec_fn=within_free_memory)
    if run.returncode:
        print(f"{shown(command)}: exit {run.returncode}\n{run.stderr[-2000:]}", file=sys.stderr, flush=True)
        return "out of memory" if "not enough memory" in run.stderr or run.returncode == -9 else "failed"
    line = run.stdout.strip().splitlines()[-1]
    print(f"{shown(command)}: {line}", file=sys.stderr, flush=True)
    return json.loads(line)


def best_threads(side):
    """PyTorch's better count: all processors or half of them, as two may be one core."""
    counts = sorted({os.cpu_count(), max(1, os.cpu_count() // 2)})
    tried = {n: measured({**side, "command": side["command"] + ["--steps", "1"]}, n) for n in counts}
    return min(counts, key=lambda n: float("inf") if isinstance(tried[n], str) else tried[n]["s_step_best"])


def rounds_of(a, sides):
    """Runs of every side, in turn; of a side that failed, why. It is not tried again."""
    runs = {name: [] for name in sides}
    for _ in range(a.rounds):
        for name, (side, threads) in sides.items():
            if not isinstance(runs[name], str):
                run = measured(side, threads)
                runs[name] = run if isinstance(run, str) else [*runs[name], run]
    return runs


def refuse_other_work(setting, runs):
    first, *others = [run for done in runs.values() if not isinstance(done, str) for run in done]
    for run in others:
        if other := other_work(first, run):
            sys.exit(f"{setting}: {other}")


def other_work(first, run):
    """Why two sides cannot be compared; nothing where they did the same."""
    names = ["real", "label"] + (["padded"] if run["batch"] == first["batch"] else [])
    same = run["steps"] == first["steps"] and all(run["tokens"][name] == first["tokens"][name] for name in names)
    useful = [r["gflop_step"]["useful"] for r in (run, first)]
    if not same or abs(useful[0] - useful[1]) > 1e-6 * useful[1]:
        return f"the sides did other work: {run['tokens']}, {first['tokens']}, useful GFLOP {useful}"
    return None


def cells(done, peak, first):
    """One side's row; `first` are the runs of couplet-train."""
    if isinstance(done, str):
        return [done, *[""] * (len(COLUMNS) - 3)]
    middle = lambda key, runs=done: statistics.median(run[key] for run in runs) if key in runs[0] else None
    number = lambda x, digits: "" if x is None else f"{x:,.{digits}f}"
    flop, samples = done[0]["gflop_step"], done[0]["batch"] * done[0]["accumulate"]
    share = lambda kind: f"{100 * flop[kind] * middle('samples_s') / samples / peak:.1f} %"
    speed = middle("s_step_median") / middle("s_step_median", first)
    memory = f"in {100 * middle('peak_rss_gib', first) / middle('peak_rss_gib'):.0f} % of the memory"
    return [
        number(middle("s_step_median"), 3), number(middle("samples_s"), 2), *(number(middle(f"{name}_tok_s"), 1) for name in ("real", "fed", "padded", "label")),
        *(number(middle(f"s_{part}_median"), 3) for part in ("forward", "backward", "update")),
        number(flop["executed"], 0), share("useful"), share("executed"), number(middle("peak_rss_gib"), 2),
        "" if done is first else f"**{speed:.1f} × as fast, {memory}**",
    ]


def page(a, results, commands):
    runs = [run for done in results.values() for side in done.values() if not isinstance(side, str) for run in side]
    mine = [(dtype, run) for (_, dtype), done in results.items() for run in done[OURS]]
    peaks = {}
    for dtype, run in mine:
        peaks.setdefault(dtype, []).append((run["peak_gflop_s"], run["peak_path"]))
    versions = {name: run[name] for run in runs for name in ("torch", "transformers", "peft", "llamafactory") if name in run}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    loads = [run["load1"] for run in runs]
    lines = [
        f"{datetime.date.today()}, {os.cpu_count()} processors of `{runs[0]['cpu']}`, {memory:.0f} GiB, load {min(loads)} to {max(loads)} at the ends of the runs.",
        f"couplet-train {commit}; {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"{a.rounds} rounds in turn, {a.steps} timed steps each; medians of the rounds. Peaks, measured in the same runs: "
        + ", ".join(f"{dtype} {min(every)[0]:,.0f} to {max(every)[0]:,.0f} GFLOP/s (path `{every[0][1]}`)" for dtype, every in peaks.items()) + ".", "",
        f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS),
    ]
    for (setting, dtype), done in results.items():
        for name, side in done.items():
            peak = statistics.median(run["peak_gflop_s"] for run in done[OURS])
            lines.append(f"| {' | '.join([f'{setting}, {dtype}', name, *cells(side, peak, done[OURS])])} |")
    lines += ["", "What couplet-train executes, by part:", ""]
    for (setting, dtype), done in results.items():
        flop = done[OURS][0]["gflop_step"]
        parts = ", ".join(f"{part} {100 * flop[part] / flop['executed']:.1f} %" for part in ("projections", "adapters", "head", "attention"))
        lines.append(f"- {setting}, {dtype}: {parts}")
    return "\n".join([*lines, "", "```sh", *commands, "```", ""])


def main():
    a = parse_args()
    bench = os.path.abspath(a.bench) if a.bench else build()
    results, commands, threads = {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in a.settings:
            for dtype in (d for d in SETTINGS[setting][1] if a.dtype in (d, "both")):
                sides = {OURS: (ours(a, bench, setting, dtype), None)}
                for name, options in SETTINGS[setting][2].items():
                    side = pytorch(a, setting, dtype, options)
                    if (setting == "tiny", dtype) not in threads:
                        threads[setting == "tiny", dtype] = a.threads or best_threads(side)
                    sides[name] = (side, threads[setting == "tiny", dtype])
                if a.llamafactory and setting == "lf-example":
                    sides[LLAMAFACTORY] = (llamafactory(a, dtype, folder), threads[False, dtype])
                runs = rounds_of(a, sides)
                if isinstance(runs[OURS], str):
                    sys.exit(f"{setting}, {dtype}: couplet-train failed")
                refuse_other_work(setting, runs)
                results[setting, dtype] = runs
                commands += [side["shown"] + (f" --threads {n}" if n else "") for side, n in sides.values()]
    if not results:
        sys.exit("no setting has this dtype")
    text = page(a, results, commands)
    print(text)
    if a.page:
        whole = replaced(read(a.page), text)
        with open(a.page, "w", encoding="utf-8") as f:
            f.write(whole)


if __name__ == "__main__":
    main()
