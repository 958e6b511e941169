"The fuzz run: a quarter of a minute of it, without the checks of annotations; and that it sees what it looks for."
import os
import subprocess
import sys
from pathlib import Path

import children
import pytest

FUZZ = Path(__file__).parent / "fuzz"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="cases run in forked children")


def python(*args) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=FUZZ.parent.parent)


def test_a_quarter_of_a_minute_of_attacks():
    run = python(FUZZ / "run.py", "--seconds", 15, "--seed", 0)
    assert run.returncode == 0, f"{run.stdout[-4000:]}{run.stderr[-2000:]}"
    assert " 0 faults" in run.stdout


FAULTS = """
import os, sys, time
sys.path.insert(0, {fuzz!r})
import harness
from harness import Case, Target, run_target
harness.CPU_SECONDS, harness.GROWTH = .3, 50 << 20

def attempt(world, case, folder):
    what = case.data
    if what == "crash": os.abort()
    if what == "exit": os._exit(0)
    if what == "hang":
        while True: pass
    if what == "hang in C": sum(range(10 ** 11))
    if what == "memory": bytearray(200 << 20)
    if what == "too much memory": bytearray(100 << 30)
    if what == "raise": raise KeyError("what nobody understands")
    if what == "refuse": return harness.refusal(ValueError("file.bin is damaged: take another copy"), "file.bin")
    if what == "two lines": return harness.refusal(ValueError("file.bin is damaged:\\ntake another copy"), "file.bin")
    if what == "no name": return harness.refusal(ValueError("something is damaged"), "file.bin")
    if what == "bare": return harness.refusal(AttributeError("file.bin has no attribute 'shape'"), "file.bin")
    return "right", ""

cases = {cases!r}
target = Target("t", len(cases), lambda folder: None, lambda world, r, i: Case(cases[i], cases[i]), attempt)
tally, findings = run_target(target, None, 0, len(cases))
print({{f.label: f.verdict for f in findings}})
print(sum(tally.values()))
"""


def test_every_kind_of_fault_is_seen_and_the_next_case_runs():
    cases = ["crash", "right", "hang", "hang in C", "right", "memory", "raise", "refuse", "two lines", "too much memory", "no name", "bare", "exit", "right"]
    run = python("-c", FAULTS.format(fuzz=str(FUZZ), cases=cases))
    assert run.returncode == 0, run.stderr
    found, n = run.stdout.splitlines()
    assert eval(found) == {"crash": "CRASH", "hang": "HANG", "hang in C": "HANG", "memory": "MEMORY", "raise": "UNCLEAR", "two lines": "UNCLEAR",
                           "too much memory": "UNCLEAR", "no name": "UNCLEAR", "bare": "UNCLEAR", "exit": "CRASH"}
    assert int(n) == len(cases)


SAME = """
import sys
sys.path.insert(0, {fuzz!r})
from pathlib import Path
import tempfile, torch
from run import all_targets
from harness import generator
with tempfile.TemporaryDirectory() as folder:
    worlds = {{}}
    for target in all_targets():
        if target.prepare not in worlds:
            (own := Path(folder, str(len(worlds)))).mkdir()
            worlds[target.prepare] = target.prepare(own)
        world = worlds[target.prepare]
        for i in range(20): print(target.name, i, ascii(target.make(world, generator(3, target.name, i), i).label))
"""


def test_a_case_is_the_same_every_time():
    code = SAME.format(fuzz=str(FUZZ))
    first, second = python("-c", code), children.run(code)  # of two starts of Python: sets and dicts of theirs have other orders
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    def plain(run): return [line for line in run.stdout.splitlines() if " at 0x" not in line]
    assert plain(first) == plain(second) and len(plain(first)) > 100
