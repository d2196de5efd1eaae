"""Writes simplified.txt: make_simplified.py PHRASES > simplified.txt

Asks OpenCC (`pip install opencc==1.4.2`) for every character of the basic plane, and for the phrases of a dictionary of its
format (TSPhrases.txt). Kept are characters that change, and phrases that change otherwise than by their characters. Left out is
what would leave the basic plane: fonts and tokenizers hardly know the result.
"""

import sys

import opencc

convert = opencc.OpenCC("t2s").convert
plane = [chr(code) for code in range(0x2E80, 0x10000) if not 0xD800 <= code < 0xE000]
characters = {c: convert(c) for c in plane}
characters = {c: to for c, to in characters.items() if c != to and len(to) == 1 and ord(to) < 0x10000}
pairs = "".join(key + to for key, to in sorted(characters.items()))
for at in range(0, len(pairs), 60):
    print(pairs[at : at + 60])
print()

# Phrases that this version knows and older dictionaries do not; met in verse.
NEWER = "沈痾 沈浮 沈淪 深沈 沈迷 沈寂 陰沈 沈痛 束脩 祝釐 魏徵 甦醒 乾闥".split()
entries = NEWER + [line.split("\t")[0] for line in open(sys.argv[1], encoding="utf-8") if line.strip() and line[0] != "#"]
phrases = {}
for phrase in sorted(entries, key=lambda phrase: (len(phrase), phrase)):
    # As it comes out without this entry: shorter phrases where they begin, characters elsewhere.
    without, at = "", 0
    while at < len(phrase):
        here = next((phrase[at : at + n] for n in range(len(phrase) - at, 1, -1) if phrase[at : at + n] in phrases), phrase[at])
        without += phrases.get(here) or characters.get(here, here)
        at += len(here)
    to = convert(phrase)
    if to != without and max(map(ord, phrase + to)) < 0x10000:
        assert len(to) == len(phrase), phrase
        phrases[phrase] = to
for phrase, to in sorted(phrases.items()):
    print(phrase + to)
