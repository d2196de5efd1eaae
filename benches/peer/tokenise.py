"""Tokenises the rows of an Alpaca file as LlamaFactory does: two strings a row, one after the other, with transformers' tokenizer.

    python tokenise.py --tokenizer FOLDER --data FILE.json

Prints one JSON line; compare `tokens` with that of `cargo bench --bench tokenise`.
"""

import argparse
import json
import resource
import time

parser = argparse.ArgumentParser()
parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json and tokenizer_config.json")
parser.add_argument("--data", required=True)
args = parser.parse_args()

from transformers import AutoTokenizer  # noqa: E402 (after the options, so that --help is quick)

tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
with open(args.data, encoding="utf-8") as file:
    rows = json.load(file)
began = time.perf_counter()
tokens = 0
for row in rows:
    asked = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    source = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    target = f"{row['output']}<|im_end|>\n"
    tokens += sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in (source, target))
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"rows": len(rows), "tokens": tokens, "s_rows": round(seconds, 3), "peak_rss_gib": round(peak, 3)}))
