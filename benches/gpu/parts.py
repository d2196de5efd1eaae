"""The parts of measure.py: each a process with a time limit, whose result is printed and kept as soon as it is there."""
import datetime, hashlib, json, os, platform, re, shutil, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "peer"))
import compare  # noqa: E402

SMI = {  # what nvidia-smi is asked, once
    "name": "name", "driver": "driver_version", "memory_mib": "memory.total", "power_limit_w": "power.limit", "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem", "sm_mhz_most": "clocks.max.sm", "memory_mhz_most": "clocks.max.mem", "temperature_c": "temperature.gpu",
    "used_mib": "memory.used", "persistence": "persistence_mode", "ecc": "ecc.mode.current",
}
WATCHED = ["clocks.sm", "power.draw", "temperature.gpu", "memory.used", "utilization.gpu"]


class Run:
    """How a process ended."""

    def __init__(self, code, out, seconds, limit):
        self.code, self.out, self.seconds, self.limit = code, out, seconds, limit

    def why(self):
        """Why it has no result: its last words."""
        if self.code is None:
            return f"stopped after {self.limit:.0f} s"
        words = [line for line in self.out.strip().splitlines() if line.strip() and not line.startswith("note: ")]
        return f"exit {self.code}: " + (" / ".join(words[-3:])[-400:] if words else "no word")


class Runner:
    """Runs parts until the time is over, and keeps what they say."""

    def __init__(self, programs, env, seconds, path, skipped):
        self.programs, self.env, self.path, self.skipped = programs, env, path, skipped
        self.began, self.seconds = time.monotonic(), seconds
        self.all = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "parts": []}

    def record(self, **more):
        """Everything so far; the file has it too."""
        self.all.update(more)
        self.all["seconds"] = round(time.monotonic() - self.began, 1)
        new = self.path + ".new"
        with open(new, "w", encoding="utf-8") as f:
            json.dump(self.all, f, ensure_ascii=False, indent=1)
        os.replace(new, self.path)
        return self.all

    def failed(self):
        return [part for part in self.all["parts"] if part["status"] == "failed"]

    def run(self, kind, name, command, limit, read, shown=None, watch=False, env=None, **more):
        """One process. `read` makes its result, or a text that says what is wrong. Returns the result, or nothing."""
        left = self.seconds - (time.monotonic() - self.began)
        if kind in self.skipped:
            return self.say(kind, name, "skipped", "--skip", **more)
        if command[0] is None:
            return self.say(kind, name, "failed", "the program is not there", **more)
        if left < 5:
            return self.say(kind, name, "skipped", "no time left", **more)
        with Watch() if watch else Nothing() as seen:
            done = execute(command, min(limit, left), env or self.env)
        result = read(done)
        if isinstance(result, str):
            self.say(kind, name, "failed", result, command=shown, seconds=done.seconds, out=done.out[-4000:], **more)
            return None
        self.say(kind, name, "ok", None, result, command=shown, seconds=done.seconds, watched=seen.summary(), **more)
        return result

    def judge(self, kind, name, verdict):
        """A part without a process: `verdict` is its result, or a text that says what is wrong."""
        self.say(kind, name, *(("failed", verdict) if isinstance(verdict, str) else ("ok", None, verdict)))

    def say(self, kind, name, status, why=None, result=None, **more):
        part = {"kind": kind, "name": name, "status": status, "why": why, "result": result, **more}
        self.all["parts"].append({key: value for key, value in part.items() if value is not None})
        self.record()
        took = f" ({more['seconds']:.1f} s)" if "seconds" in more else ""
        short = why or brief(kind, result)
        print(f"[{self.all['seconds']:6.1f} s] {kind}: {name}: {status}{took}{': ' + short if short else ''}", flush=True)


def brief(kind, result):
    """A line of the result."""
    if kind in ("step", "peer"):
        mfu = f", hardware MFU {100 * result['mfu_hardware']:.1f} %" if "mfu_hardware" in result else ""
        return f"{result['s_step_median']:.4f} s a step, {result['samples_s']:.1f} samples/s, {result['real_tok_s']:.0f} real tokens/s{mfu}, loss {result['loss'][-1]}"
    return ", ".join(f"{key} {value}" for key, value in result.items() if not isinstance(value, (dict, list))) if isinstance(result, dict) else ""


def execute(command, limit, env):
    """Its output goes to a file, so that nothing is lost or waited for when it is stopped; it is stopped with its children."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
        except BaseException as stop:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(stop, subprocess.TimeoutExpired):
                raise
            code = None
        out.seek(0)
        return Run(code, out.read(), round(time.monotonic() - began, 2), limit)


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def summary(self):
        return None


class Watch(Nothing):
    """nvidia-smi beside a part, four times a second: how fast, how hot, how busy."""

    def __enter__(self):
        self.process, self.out = None, tempfile.TemporaryFile("w+")
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", f"--query-gpu={','.join(WATCHED)}", "--format=csv,noheader,nounits", "-i", "0", "-lms", "250"]
            self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def summary(self):
        """Of the moments when the card was at work."""
        self.out.seek(0)
        rows = [[number(cell) for cell in line.split(",")] for line in self.out.read().splitlines()]
        busy = [row for row in rows if len(row) == len(WATCHED) and None not in row and row[-1] > 0]
        if not busy:
            return None
        clocks, power, heat, memory, _ = zip(*busy)
        return {"sm_mhz_median": statistics.median(clocks), "sm_mhz_least": min(clocks), "power_w_most": max(power), "temperature_c_most": max(heat), "memory_mib_most": max(memory),
                "busy_moments": len(busy), "moments": len(rows)}


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def last_json(run):
    """The JSON of the last line that is one."""
    if run.code != 0:
        return run.why()
    lines = [line for line in run.out.splitlines() if line.startswith("{")]
    result = json.loads(lines[-1]) if lines else "it printed no JSON"
    if isinstance(result, dict) and result.get("moved", 1) < 0.99:
        return f"only {100 * result['moved']:.1f} % of the trained parameters moved"
    return result


def same_run(first, again):
    if (first["digest"], first["loss"]) != (again["digest"], again["loss"]):
        return f"the same run gave other results: digests {first['digest']} and {again['digest']}, losses {first['loss']} and {again['loss']}"
    return {"digest": first["digest"], "faster by": f"{100 * (first['s_step_median'] / again['s_step_median'] - 1):.1f} %"}


def close_run(first, recorded):
    """Products of other shapes may be summed in another order, in bf16."""
    apart = max(abs(a - b) for a, b in zip(first["loss"], recorded["loss"]))
    return {"losses at most apart": round(apart, 4)} if apart <= 0.02 else f"other losses: {first['loss']} and {recorded['loss']}"


def machine(runner):
    """What this is measured on, and whether the programs find their libraries."""
    about = {"processors": os.cpu_count(), "load1": round(os.getloadavg()[0], 2), "python": platform.python_version(), "kernel": platform.release()}
    describe = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    about["commit"] = describe.stdout.strip() if describe and describe.returncode == 0 else None
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        about["cpu"] = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    runner.record(machine=about)
    runner.judge("machine", "host", about)
    if shutil.which("nvidia-smi"):
        runner.run("machine", "card", ["nvidia-smi", f"--query-gpu={','.join(SMI.values())}", "--format=csv,noheader,nounits", "-i", "0"], 30, card)
    else:
        runner.say("machine", "card", "skipped", "nvidia-smi is not there")
    for name, program in runner.programs.items():
        runner.run("machine", f"libraries of {name}", ["ldd", program] if program else [None], 20, libraries)
    runner.run("machine", "couplet-train doctor", [runner.programs["couplet-train"], "doctor"], 30, lambda run: {"lines": run.out.splitlines()} if run.code == 0 else run.why())


def card(run):
    cells = [cell.strip() for cell in run.out.strip().splitlines()[0].split(",")] if run.code == 0 and run.out.strip() else []
    return dict(zip(SMI, cells)) if len(cells) == len(SMI) else run.why()


def libraries(run):
    missing = sorted(set(re.findall(r"(\S+) => not found", run.out)))
    return f"not found: {', '.join(missing)}" if missing else {"missing": 0} if run.code == 0 else run.why()


def modules_with_devices():
    """Modules whose tests run on every device, by the sources: filters of the test program."""
    found = []
    for folder, _, names in os.walk(os.path.join(ROOT, "src")):
        for name in (n for n in names if n.endswith(".rs")):
            path = os.path.join(folder, name)
            if re.search(r"\bin (crate::testing::)?devices\(\)", compare.read(path)):
                words = os.path.relpath(path, os.path.join(ROOT, "src"))[:-len(".rs")].split(os.sep)
                found.append("::".join(words[:-1] if words[-1] in ("mod", "tests") else words) + "::")
    return sorted(set(found))


def tested(run):
    """Of libtest's last line. No test at all is no success."""
    found = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", run.out)
    names = re.findall(r"^    (\S+)$", run.out.split("\nfailures:\n")[-1], re.MULTILINE)
    if not found:
        return f"{run.why()}; passed until then: {len(re.findall(r'^test .* ok$', run.out, re.MULTILINE))}"
    passed, failed = int(found[1]), int(found[2])
    if failed or not passed or run.code != 0:
        return f"{passed} passed, {failed} failed: {', '.join(names) or 'exit ' + str(run.code)}"
    return {"passed": passed}


def sanitized(run):
    """Of compute-sanitizer's summary; the tests under it must pass, too."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", run.out)
    if summary and not re.match(r"0 (errors|hazards)", summary[1]):
        first = re.search(r"========= (?!COMPUTE-SANITIZER)(\S.*)", run.out)
        return f"{summary[1]}; the first: {first[1] if first else '?'}"
    result = tested(run)
    return result if isinstance(result, str) or summary else "it has no summary"


def sanitizers(runner):
    places = [os.path.join(os.environ.get(name) or "/nowhere", "bin") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda/bin"]
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=":".join(places))
    for name, limit in (("memcheck", 50), ("racecheck", 40), ("initcheck", 30)):
        if not tool:
            runner.say("sanitizer", name, "skipped", "compute-sanitizer is not there")
            continue
        program = runner.programs["tests"]
        command = [tool if program else None, "--tool", name, "--error-exitcode", "99", "--print-limit", "5", program, *modules_with_devices(), "--test-threads=1"]
        runner.run("sanitizer", name, command, limit, sanitized)


def tests(runner, quick):
    runner.run("tests", "on the card", [runner.programs["tests"], *modules_with_devices()], 300 if quick else 60, tested)


def quick_start(runner, a, folder):
    """The program itself, twice: the same adapter, byte for byte."""
    adapters = []
    for name in ("once", "again"):
        out = os.path.join(folder, name)
        few = ["max_steps=2", "eval_strategy=no", "plot_loss=false", "max_samples=32"] if a.quick else ["eval_strategy=epoch"]
        options = ["--config", "configs/tiny_couplets.toml", f"device={a.device}", f"output_dir={out}", *few]
        shown = "couplet-train " + compare.shown(options[:3]) + " " + " ".join(few)
        if runner.run("quickstart", name, [runner.programs["couplet-train"], *options], 300 if a.quick else 30, lambda run: receipt(run, out), shown=shown):
            with open(os.path.join(out, "adapter_model.safetensors"), "rb") as f:
                adapters.append(hashlib.sha256(f.read()).hexdigest())
    if len(adapters) == 2:
        same = adapters[0] == adapters[1]
        runner.judge("determinism", "the quick start twice", {"adapter": adapters[0][:16]} if same else "the adapters differ")


def receipt(run, out):
    """What a run says of itself."""
    if run.code != 0:
        return run.why()
    with open(os.path.join(out, "run.json"), encoding="utf-8") as f:
        text = json.load(f)
    results = text["results"]
    return {"train_loss": results["train_loss"], "eval_loss": results["eval_loss"], "steps": results["steps"], "train_seconds": text["measured"]["train_seconds"], "predicted": text["predicted"], "measured": text["measured"]}
