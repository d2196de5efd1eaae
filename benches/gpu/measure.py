#!/usr/bin/env python3
"""Everything there is to find out about couplet-train on a card, in one command and under nine minutes.

    python3 benches/gpu/measure.py                                     # builds with --features cuda, then measures
    python3 benches/gpu/measure.py --pack DIR                          # builds only, and packs the programs for another machine
    python3 benches/gpu/measure.py --binaries DIR --peer PEER/bin/python --data couplets.json --page docs/performance.md
    .ci/run_cuda_on_cpu python3 benches/gpu/measure.py --quick         # without a card: does every part work?

In turn: what the machine is; compute-sanitizer (memcheck, racecheck, initcheck) over the kernels' tests; these tests; the quick start, twice;
then for every model, with random weights made on the card, couplets 8, 32 and 128 a step and rows of 2,048 tokens: rates, MFU of a peak
measured in the same process, memory by part beside its prediction; a run repeated bit for bit, with recorded passes
too; and the same work in PyTorch + PEFT.

Each part has a time limit, prints as it ends, and is in the JSON file from then on; one that fails does not stop the others. Needs Python
3.8 or newer, and for PyTorch's side the environment of benches/peer/README.md. The card's settings are left as they are.
"""
import argparse, glob, gzip, json, lzma, os, shutil, subprocess, sys, tarfile, tempfile

import page
import parts
from parts import HERE, ROOT, compare

# What a step is: its name, and options of both sides.
SETTINGS = {"middle": ("couplets-32", ["--batch", "32"]), "small": ("couplets-8", ["--batch", "8"]), "large": ("couplets-128", ["--batch", "128"]),
            "rows": ("rows-2048", ["--batch", "2", "--rows", "2048"])}
QUICK = {"middle": ("couplets-4", ["--batch", "4"]), "small": ("couplets-2", ["--batch", "2"]), "large": ("couplets-6", ["--batch", "6"]),
         "rows": ("rows-40", ["--batch", "1", "--rows", "40"])}
PROGRAMS = ["step", "tests", "couplet-train"]
PACKED = "programs.tar.xz"


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binaries", metavar="DIR", help=f"what --pack made, or {', '.join(PROGRAMS)}, also with .gz (default: cargo builds them)")
    p.add_argument("--pack", metavar="DIR", help="build, put the programs there in one archive, and end")
    p.add_argument("--data", metavar="FILE", default=os.path.join(ROOT, "data", "couplets_train.json"), help="Alpaca JSON (default: data/couplets_train.json)")
    p.add_argument("--models", default="0.6b,14b,8b", help="sizes, in this order (default: %(default)s)")
    p.add_argument("--device", default="cuda:0", help="(default: %(default)s)")
    p.add_argument("--peer", metavar="PYTHON", help="a Python with torch, transformers and peft (default: this one, where it has them)")
    p.add_argument("--steps", type=int, default=20, help="timed steps a run (default: %(default)s)")
    p.add_argument("--warmup", type=int, default=3, help="steps before those (default: %(default)s)")
    p.add_argument("--minutes", type=float, default=8.5, help="for everything but a build (default: %(default)s)")
    p.add_argument("--json", metavar="FILE", default=os.path.join(ROOT, "target", "gpu.json"), help="all results (default: target/gpu.json)")
    p.add_argument("--page", metavar="FILE", help="replace what stands in this file between the two comments by the tables")
    p.add_argument("--skip", default="", help="kinds of parts, by comma: sanitizer, tests, quickstart, step, peer")
    p.add_argument("--quick", action="store_true", help="the smallest case of everything, to see that it works")
    a = p.parse_args()
    a.settings, a.case = (QUICK, "") if a.quick else (SETTINGS, "qwen3-")
    if a.quick:
        a.models, a.steps, a.warmup = "toy", 2, 2
    if a.steps < 1 or a.warmup < 0 or a.minutes <= 0:
        p.error("--steps is at least 1, --warmup 0, --minutes more than 0")
    if a.binaries and not os.path.isdir(a.binaries):
        p.error(f"--binaries: {a.binaries} is no folder")
    if a.page:
        compare.replaced(compare.read(a.page), "", page.BEGIN, page.END)  # the comments are there, before anything is measured
    return a


def executables(command):
    """Of what cargo built: target names and paths."""
    if not shutil.which("cargo"):
        sys.exit("cargo is not there: build elsewhere with --pack DIR, and give --binaries DIR here")
    run = subprocess.run([*command, "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed")
    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {m["target"]["name"]: m["executable"] for m in messages if m["reason"] == "compiler-artifact" and m.get("executable")}


def build():
    options = ["--release", "--locked", "--features", "cuda"]
    built = executables(["cargo", "build", *options, "--bins", "--bench", "step"])
    tests = executables(["cargo", "test", *options, "--no-run", "--lib"])
    return {"step": built["step"], "couplet-train": built["couplet-train"], "tests": tests["couplet_train"]}


def pack(programs, folder):
    """One archive, whose window is wide enough to hold the kernels that all programs have but once."""
    os.makedirs(folder, exist_ok=True)
    path, window = os.path.join(folder, PACKED), [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 28}]
    with lzma.open(path, "wb", filters=window) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for name, program in programs.items():
            archive.add(program, name)
    print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")


def carried(folder, to):
    """The programs of `folder`; what is packed is unpacked into `to`. Of one that is not there: nothing, and its parts say so."""
    def unpack(packed, name):
        with open(os.path.join(to, name), "wb") as program:
            shutil.copyfileobj(packed, program)
        os.chmod(program.name, 0o755)

    archive = os.path.join(folder, PACKED)
    if os.path.exists(archive):
        with tarfile.open(archive) as packed:
            for name in PROGRAMS:
                unpack(packed.extractfile(name), name)
    for name in PROGRAMS:
        if os.path.exists(os.path.join(folder, f"{name}.gz")):
            with gzip.open(os.path.join(folder, f"{name}.gz"), "rb") as packed:
                unpack(packed, name)
    places = {name: [os.path.abspath(os.path.join(where, name)) for where in (folder, to)] for name in PROGRAMS}
    return {name: next((path for path in paths if os.path.isfile(path)), None) for name, paths in places.items()}


def has_peer(python):
    return subprocess.run([python, "-c", "import torch, transformers, peft"], capture_output=True).returncode == 0


def library_folders(python):
    """CUDA's libraries where pip put them, for programs that were linked on another machine."""
    run = subprocess.run([python, "-c", "import site; print(*site.getsitepackages(), sep='\\n')"], capture_output=True, text=True)
    return [folder for site in run.stdout.split() for folder in sorted(glob.glob(os.path.join(site, "nvidia", "*", "lib")))]


def environment(python):
    """Of our programs. Folders of the machine go first: pip's libraries are for what it lacks. A backtrace would hide a panic's words."""
    known = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    return dict(os.environ, CARGO_MANIFEST_DIR=ROOT, RUST_BACKTRACE="0", LD_LIBRARY_PATH=":".join(known + library_folders(python)))


def step(a, runner, model, kind, repeated=False, recorded=False):
    """One run of the benchmark, or with passes that are recorded once and then launched; its JSON, or nothing."""
    setting, options = a.settings[kind]
    options = ["--case", a.case + model, *options, *common(a), "--device", a.device]
    command = [runner.programs["step"], *options, *(["--quick"] if a.quick else [])]
    graphs, side = ({"COUPLET_TRAIN_GRAPHS": "on"}, page.RECORDED) if recorded else ({}, page.OURS)
    shown = " ".join([*(f"{name}={value}" for name, value in graphs.items()), "cargo bench --features cuda --bench step --", compare.shown(options)])
    name = f"{model}, {setting}" + (", recorded" if recorded else "") + (", again" if repeated else "")
    more = {"model": model, "setting": setting, "side": side, "repeated": repeated}
    return runner.run("step", name, command, 90, parts.last_json, shown=shown, watch=True, env={**runner.env, **graphs}, **more)


def peer(a, runner, model, kind, first):
    """The same in PyTorch, if it did the same."""
    setting, options = a.settings[kind]
    options = ["--geometry", a.case + model, *options, *common(a), "--device", a.peer_device]

    def judged(run):
        result = parts.last_json(run)
        other = compare.other_work(first, result) if isinstance(result, dict) and first else None
        return other or result

    command, name = [a.peer, os.path.join(compare.HERE, "step.py"), *options], f"{model}, {setting}, {compare.PYTORCH}"
    shown = "PEER/bin/python benches/peer/step.py " + compare.shown(options)
    runner.run("peer", name, command, 120, judged, shown=shown, watch=True, env=a.peer_env, model=model, setting=setting, side=compare.PYTORCH)


def common(a):
    return ["--dtype", "bf16", "--steps", str(a.steps), "--warmup", str(a.warmup), "--data", os.path.abspath(a.data)]


def measurements(a, runner):
    done = {}
    for model in a.models.split(","):
        first = done[model, "middle"] = step(a, runner, model, "middle")
        if a.peer:
            peer(a, runner, model, "middle", first)
        judge(runner, f"{model}, the same run twice", parts.same_run, first, step(a, runner, model, "middle", repeated=True))
        for kind in ("small", "large", "rows"):
            done[model, kind] = step(a, runner, model, kind)
        recorded = {kind: step(a, runner, model, kind, recorded=True) for kind in ("middle", "small")}
        for kind, run in recorded.items():
            judge(runner, f"{model}, {a.settings[kind][0]}, recorded or not", parts.close_run, done[model, kind], run)
        again = step(a, runner, model, "small", recorded=True, repeated=True)
        judge(runner, f"{model}, the same recorded run twice", parts.same_run, recorded["small"], again)
    for kind in ("rows", "small") if a.peer else ():
        for model in a.models.split(","):
            peer(a, runner, model, kind, done[model, kind])


def judge(runner, name, verdict, first, second):
    if first and second:
        runner.judge("determinism", name, verdict(first, second))


def main():
    a = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = carried(a.binaries, folder) if a.binaries else build()
        if a.pack:
            return pack(programs, a.pack)
        python = a.peer or sys.executable
        a.peer = python if has_peer(python) else None
        # Where the CPU plays the card, PyTorch must not meet the driver that plays it.
        a.peer_device = "cpu" if a.quick else "cuda"
        a.peer_env = {name: value for name, value in os.environ.items() if not (a.quick and name == "LD_LIBRARY_PATH")}
        os.makedirs(os.path.dirname(os.path.abspath(a.json)), exist_ok=True)
        runner = parts.Runner(programs, environment(python), a.minutes * 60, a.json, [kind for kind in a.skip.split(",") if kind])
        runner.record(command="python3 benches/gpu/measure.py " + compare.shown(sys.argv[1:]), quick=a.quick, peer=bool(a.peer), data=compare.shown([os.path.abspath(a.data)]))
        parts.machine(runner)
        parts.sanitizers(runner)
        parts.tests(runner, a.quick)
        parts.quick_start(runner, a, folder)
        measurements(a, runner)
        text = page.page(runner.record())
        print("\n" + text, flush=True)
        if a.page:
            whole = compare.replaced(compare.read(a.page), text, page.BEGIN, page.END)
            with open(a.page, "w", encoding="utf-8") as f:
                f.write(whole)
        return 1 if runner.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
