"""The bound of `data prepare`: 770,000 couplets, as many as the public set has, in time and memory.

    python3 benches/data/bound.py WORK [couplet-train]

Writes two parallel files with a blank between any two characters, made of the shipped couplets by joining and exchanging, and
prepares them with everything that costs time. Prints seconds and the highest resident memory. Linux.
"""

import json
import pathlib
import random
import resource
import subprocess
import sys
import time

ROWS = 770_000
WORK = pathlib.Path(sys.argv[1])
PROGRAM = sys.argv[2] if len(sys.argv) > 2 else "target/release/couplet-train"


def couplets():
    shipped = [(row["input"], row["output"]) for row in json.load(open("data/couplets_train.json", encoding="utf-8"))]
    characters = sorted({c for upper, _ in shipped for c in upper})
    draw = random.Random(1)
    for _ in range(ROWS):
        upper, lower = draw.choice(shipped)
        kind = draw.random()
        if kind < 0.3:  # two clauses
            other = draw.choice(shipped)
            upper, lower = f"{upper}，{other[0]}", f"{lower}，{other[1]}"
        elif kind < 0.99:  # a new couplet, now and then near to another
            for at in draw.sample(range(len(upper)), 1 if kind < 0.5 else 3):
                upper = upper[:at] + draw.choice(characters) + upper[at + 1 :]
                lower = lower[:at] + draw.choice(characters) + lower[at + 1 :]
        yield upper, lower


WORK.mkdir(parents=True, exist_ok=True)
sides = [WORK / "in.txt", WORK / "out.txt"]
if not sides[1].exists():
    with open(sides[0], "w", encoding="utf-8") as upper, open(sides[1], "w", encoding="utf-8") as lower:
        for a, b in couplets():
            upper.write(" ".join(a) + " \n")
            lower.write(" ".join(b) + " \n")
options = "--simplify --punctuation full --tag --balance length --overwrite".split()
start = time.time()
command = [PROGRAM, "data", "prepare", "--upper", sides[0], "--lower", sides[1], "--out", WORK / "data", *options]
subprocess.run(command, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"{time.time() - start:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of CPU), {used.ru_maxrss / 1e6:.2f} GB")
