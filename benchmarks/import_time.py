"""How much longer than PyTorch does `from sscq.core import SSCQ` take to import?

    python benchmarks/import_time.py --runs 7 --json import.json

Fresh interpreters, the two imports in turn; the ratio is of the medians. Limit: 1.25."""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORTS = {"torch, torchvision": "import torch, torchvision", "sscq.core": "from sscq.core import SSCQ"}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    for code in IMPORTS.values(): seconds(code)  # read the files once
    taken = [{name: seconds(code) for name, code in IMPORTS.items()} for _ in range(args.runs)]
    medians = {name: statistics.median(row[name] for row in taken) for name in IMPORTS}
    ratio = medians["sscq.core"] / medians["torch, torchvision"]
    print("| import | median seconds |\n|---|---:|")
    for name, value in medians.items(): print(f"| {name} | {value:.2f} |")
    print(f"| ratio | {ratio:.2f} |")
    if args.json: args.json.write_text(json.dumps({"rows": [{"import": n, "seconds": s} for n, s in medians.items()], "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__": main()
