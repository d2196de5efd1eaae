"""What `data prepare` can do beyond cleaning, measured on the shipped model: length balance, themes, wordings.

    python3 benches/data/directions.py WORK [couplet-train]

Prepares the shipped couplets (verse and festive) in four ways, trains the quick start's recipe for the same number of steps on
each, evaluates each adapter on the same held-out rows, and prints a table in Markdown. From the root of the repository; some
minutes an adapter. What is done already in WORK is not done again.
"""

import json
import pathlib
import subprocess
import sys

WORK = pathlib.Path(sys.argv[1])
PROGRAM = sys.argv[2] if len(sys.argv) > 2 else "target/release/couplet-train"
STEPS = 300
UNSEEN = "上联如下，请对下联。"
VARIANTS = {
    "plain": [],
    "balance": ["--balance", "length"],
    "tag": ["--tag"],
    "wordings": ["--instruction", "benches/data/wordings.txt"],
}
# Name, folder, rows.
TESTS = [("festive_test", WORK / "data", 100), ("couplets_test", "data", 300), ("unseen", WORK / "data", 300)]
METRICS = [
    ("eval_loss_per_token", "loss"),
    ("pass", "pass"),
    ("shape", "shape"),
    ("all", "all"),
    ("no_shared", "no_shared"),
    ("parallel", "parallel"),
    ("distinct_2", "distinct_2"),
]


def run(*words):
    print("+", *words, file=sys.stderr, flush=True)
    subprocess.run([PROGRAM, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def prepare(name, inputs, *options):
    if not (WORK / "data" / f"{name}.json").exists():
        run("data", "prepare", *inputs, "--out", WORK / "data", "--name", name, *options)


def train(name):
    out = WORK / name
    if not (out / "run.json").exists():
        overrides = f"dataset={name} dataset_dir={WORK}/data eval_dataset= eval_strategy=no max_samples=100000"
        run("--config", "configs/tiny_couplets.toml", *overrides.split(), f"max_steps={STEPS}", f"output_dir={out}")


def evaluate(name, test, folder, rows):
    out = WORK / f"{name}-{test}"
    if not (out / "couplet_eval.json").exists():
        where = [f"dataset={test}", f"dataset_dir={folder}", f"max_samples={rows}", f"output_dir={out}"]
        run("evaluate", "--adapter", WORK / name, "--no-base", *where)
    return json.loads((out / "couplet_eval.json").read_text())


def cell(found):
    if found is None:
        return ""
    if isinstance(found, dict):
        spread = f" ({found['low']:.2f}–{found['high']:.2f})" if "low" in found else ""
        return f"{found['value']:.3f}{spread}"
    return f"{found:.3f}"


def look_up(tree, key):
    """The first value of that name, wherever it stands."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        for value in tree.values():
            found = look_up(value, key)
            if found is not None:
                return found
    return None


WORK.mkdir(parents=True, exist_ok=True)
prepare("festive", ["data/couplets_festive.json"], "--split", "240/100/100")
for name, options in VARIANTS.items():
    prepare(name, ["data/couplets_train.json", WORK / "data/festive.json"], "--split", "none", *options)
prepare("unseen", ["data/couplets_test.json"], "--split", "none", "--instruction", UNSEEN)
for name in VARIANTS:
    train(name)
for test, folder, rows in TESTS:
    print(f"\n{test}, {rows} rows:\n")
    print("| | " + " | ".join(label for _, label in METRICS) + " |")
    print("| --- |" + " --- |" * len(METRICS))
    for name in VARIANTS:
        tuned = evaluate(name, test, folder, rows)["tuned"]
        print(f"| {name} | " + " | ".join(cell(look_up(tuned, key)) for key, _ in METRICS) + " |", flush=True)
