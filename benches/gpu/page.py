"""The section of docs/performance.md that measure.py writes: tables of the record it keeps."""
BEGIN, END = "<!-- made by benches/gpu/measure.py: begin -->", "<!-- made by benches/gpu/measure.py: end -->"
OURS, RECORDED = "couplet-train", "couplet-train, recorded"
JOB = 50_000 * 5  # sample passes of the job that docs/performance.md predicts
STEPS = ["model", "setting", "side", "s/step", "samples/s", "real tok/s", "fed tok/s", "padded tok/s", "label tok/s", "effective MFU", "hardware MFU",
         "peak memory, GB", "SM clock, MHz", "50,000 × 5", "couplet-train is"]
MEMORY = ["model", "setting", "", "weights", "trainable", "activations", "working", "peak, GB", ""]


def table(columns, rows):
    return ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(x, digits):
    return "" if x is None else f"{x:,.{digits}f}"


def short(why):
    """For a cell."""
    return "out of memory" if "out of memory" in why.lower() else why.replace("|", "/")[:150]


def duration(seconds):
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def measured(record):
    """Parts of the steps by model, setting and side; a repeated run only shows that it is the same."""
    parts = [part for part in record["parts"] if part["kind"] in ("step", "peer") and not part.get("repeated")]
    return {(part["model"], part["setting"], part["side"]): part for part in parts}


def step_row(key, part, first, quick):
    if "result" not in part:
        return [*key, f"{part['status']}: {short(part['why'])}", *[""] * (len(STEPS) - 4)]
    run, ours = part["result"], key[2] in (OURS, RECORDED)
    mfu = lambda kind: ""
    if first:  # every side by the same peak
        per_second = run["samples_s"] / (run["batch"] * run["accumulate"])
        mfu = lambda kind: f"{100 * run['gflop_step'][kind] * per_second / first['peak_gflop_s']:.1f} %"
    bytes_at_peak = run["memory"]["peak"] if ours else run.get("peak_card_bytes")
    faster = "" if ours or quick or not first else f"**{run['s_step_median'] / first['s_step_median']:.1f} × as fast**"
    return [*key, number(run["s_step_median"], 4), number(run["samples_s"], 1), *(number(run[f"{name}_tok_s"], 0) for name in ("real", "fed", "padded", "label")),
            mfu("useful"), mfu("executed"), number(bytes_at_peak and bytes_at_peak / 1e9, 2), number(part.get("watched", {}).get("sm_mhz_median"), 0),
            "" if run["rows"] else duration(JOB / run["samples_s"]), faster]


def memory_rows(key, run):
    memory, gb = run["memory"], lambda bytes_: number(bytes_ and bytes_ / 1e9, 3)
    said, total = memory["predicted"], memory["predicted_peak"]
    off = f"{100 * (total / memory['peak'] - 1):+.1f} %" if memory["peak"] else ""
    return [[*key[:2], "predicted", *(gb(said[part]) for part in ("weights", "trainable", "activations", "working")), gb(total), off],
            ["", "", "measured", gb(memory["weights"]), gb(memory["trainable"]), "", "", gb(memory["peak"]), ""]]


def other_parts(record):
    shown = [part for part in record["parts"] if part["kind"] not in ("step", "peer", "machine") or part["status"] == "failed"]
    for part in (part for part in shown if (part["kind"], part["status"]) != ("step", "failed")):
        said = short(part["why"]) if "why" in part else ", ".join(f"{k} {round(v, 4) if isinstance(v, float) else v}" for k, v in part["result"].items() if not isinstance(v, dict))
        yield [f"{part['kind']}: {part['name']}", part["status"], said, f"{part['seconds']:.1f}" if "seconds" in part else ""]


def page(record):
    steps = measured(record)
    done = {key: part["result"] for key, part in steps.items() if "result" in part}
    mine = {key: run for key, run in done.items() if key[2] == OURS}
    host, any_run = record["machine"], next(iter(mine.values()), None)
    card = next((part["result"] for part in record["parts"] if part["name"] == "card" and "result" in part), {})
    lines = [f"{record['date'][:10]}, {any_run['card'] if any_run else card.get('name', 'no card')}" + (f"; {card['power_limit_w']} W, {card['sm_mhz_most']} MHz at most, driver {card['driver']}." if card else "."),
             f"{host['processors']} processors of `{host['cpu']}`, load {host['load1']} at the start; couplet-train {host['commit'] or 'of an unknown commit'}; `{record['data']}`. {record['seconds']:.0f} s in all."]
    if mine:
        peaks, copies = [run["peak_gflop_s"] / 1e3 for run in mine.values()], [run["copy_gb_s"] for run in mine.values() if run["copy_gb_s"]]
        lines.append(f"Measured in the same processes: {any_run['peak_path']} in bf16 {min(peaks):,.1f} to {max(peaks):,.1f} TFLOP/s"
                     + (f", a copy on the card reads and writes {min(copies):,.0f} to {max(copies):,.0f} GB/s." if copies else "."))
    peers = [run for key, run in done.items() if key[2] not in (OURS, RECORDED)]
    if peers:
        names = ", ".join(f"{name} {peers[0][name]}" for name in ("torch", "transformers", "peft"))
        lines.append(f"The other side: {names}, SDPA, no checkpointing." + (f" Its own peak {max(run['peak_gflop_s'] for run in peers) / 1e3:,.1f} TFLOP/s." if peers[0].get("peak_gflop_s") else ""))
    declined = sorted({what for run in mine.values() for what in run["declined"]})
    lines += [f"What kernels on the card did not take: {'; '.join(declined)}."] if declined else []
    lines += ["", "**The smallest case of everything (`--quick`): these figures say only that every part works.**"] if record["quick"] else []
    lines += table(STEPS, [step_row(key, part, mine.get((key[0], key[1], OURS)), record["quick"]) for key, part in steps.items()])
    if mine:
        lines += ["Memory on the card, in GB, and what the plan said. What is trained is measured between steps, without the gradient.", ""]
        lines += table(MEMORY, [row for key, run in mine.items() for row in memory_rows(key, run)])[1:]
    lines += table(["part", "", "", "s"], list(other_parts(record)))[1:]
    commands = [record["command"], *dict.fromkeys(part["command"] for part in record["parts"] if "command" in part)]
    return "\n".join([*lines, "```sh", *commands, "```", ""])
