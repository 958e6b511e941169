"""Attack the library with damaged files, odd numbers and odd settings, and report what it does not answer clearly.

    python tests/fuzz/run.py                                    # every target's full number of cases: some minutes
    python tests/fuzz/run.py --seconds 3600 --seed 7            # as many cases as go into an hour, shared out among the targets
    python tests/fuzz/run.py --only "model files" --seed 7 --case 123    # one case once more, with what it did

Exits 1 where a case crashed, hung, lied or failed in a way that helps nobody. A new target is a `target_*.py` here with a list TARGETS."""

import argparse
import collections
import importlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child cannot use its parent's threads
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import torch

from harness import GOOD, Target, generator, one_case, run_target

torch.set_num_threads(1)


def all_targets() -> list[Target]:
    return [t for path in sorted(HERE.glob("target_*.py")) for t in importlib.import_module(path.stem).TARGETS]


def report(findings: list) -> str:
    "Each kind of fault once, with how often it came and a case that shows it"
    kinds = collections.defaultdict(list)

    def kind(text):
        return re.sub(r"'[^']*'|\"[^\"]*\"|\S*[.\d]\S*|/\S+", "…", text)[:50]

    for f in findings:
        kinds[f.target, f.verdict, kind(f.detail), f.detail.rpartition(" [")[2] if f.detail.endswith("]") else ""].append(f)
    text = "\n".join(
        f"  {f.verdict} ×{len(found)} in {f.target}, case {f.number}: {f.label[:160]!r}: {f.detail[:260]}"
        for found in sorted(kinds.values(), key=len, reverse=True)
        for f in found[:1]
    )
    return text.encode(errors="backslashreplace").decode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="in all; without it, every target's full number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="TARGET")
    parser.add_argument("--case", type=int, help="run this one alone, here, and show what it does")
    parser.add_argument("--json", type=Path, help="write every finding into this file")
    args = parser.parse_args()
    targets = [t for t in all_targets() if not args.only or t.name in args.only]
    if not targets:
        parser.error(f"--only {args.only}: there are {', '.join(t.name for t in all_targets())}")
    end, findings, total = time.monotonic() + args.seconds, [], 0
    with tempfile.TemporaryDirectory(prefix="sscq-fuzz-") as folder:
        worlds = {t.prepare: None for t in targets}
        for i, prepare in enumerate(worlds):
            Path(folder, str(i)).mkdir()
            worlds[prepare] = prepare(Path(folder, str(i)))
        for i, target in enumerate(targets):
            world = worlds[target.prepare]
            if args.case is not None:
                print(target.make(world, generator(args.seed, target.name, args.case), args.case).label)
                print(*one_case(target, world, args.seed, args.case), sep=": ")
                continue
            start = time.monotonic()
            n, share = (target.full, args.seconds) if args.seconds == float("inf") else (sys.maxsize, (end - start) / (len(targets) - i))
            tally, found = run_target(target, world, args.seed, n, share)
            findings += found
            total += sum(tally.values())
            counts = ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(tally.items(), key=lambda item: item[0] in GOOD))
            print(f"{target.name}: {sum(tally.values()):,} cases in {time.monotonic() - start:.0f} s: {counts}", flush=True)
    if args.case is not None:
        return 0
    if args.json:
        args.json.write_text(json.dumps([f._asdict() for f in findings], indent=1))
    print(f"{total:,} cases with seed {args.seed}: {len(findings):,} faults" + ("\n" + report(findings) if findings else ""))
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
