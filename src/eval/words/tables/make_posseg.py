"""Writes posseg.txt: the model by which Python's jieba.posseg cuts and tags words that its dictionary has not.

Usage: python make_posseg.py posseg.txt

Needs jieba 0.42.1. README.md, beside this file, describes the lines.
"""

import sys

from jieba.posseg import char_state_tab_P as usual
from jieba.posseg import emit_P as emissions
from jieba.posseg import start_P as start
from jieba.posseg import trans_P as transitions

NEVER = -3.14e100  # jieba's log P of what its training text never had


def name(state):
    place, tag = state
    return place + tag


def characters_by_value(state):
    """log P → the characters the state emits so: those of which the state is usual, and the others."""
    groups = {}
    for char, value in emissions[state].items():
        groups.setdefault(value, ([], []))[state not in usual.get(char, ())].append(char)
    for char in (c for c, states in usual.items() if state in states and c not in emissions[state]):
        groups.setdefault(NEVER, ([], []))[0].append(char)
    return sorted(groups.items(), reverse=True)


with open(sys.argv[1], "w", encoding="utf-8", newline="\n") as out:
    for state in sorted(start):
        following = " ".join(f"{name(to)} {value!r}" for to, value in sorted(transitions[state].items()))
        out.write(f"{name(state)}\t{start[state]!r}\t{following}\n")
        for value, groups in characters_by_value(state):
            usually, rarely = ("".join(sorted(group)) for group in groups)
            out.write(f"{value!r}\t{usually}\t{rarely}\n")
