"""Install exactly the oldest versions that settings.ini allows, and run the core of the tests with them.

    python tests/lower_bounds.py                                   # this Python, a new environment in a temporary folder
    python tests/lower_bounds.py --python python3.10 --keep ENV    # another one; ENV is used again next time
    python tests/lower_bounds.py --with faiss-cpu==1.10.0          # all minima but this one

Needs some gigabytes and a package index. Warnings are no errors here: what was new then may be deprecated in a library of its time."""
import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNNERS = ("pytest", "hypothesis", "beartype", "nbdev")  # what the tests need besides; nbdev brings what the notebooks import
# reference numbers, the losses, a few steps of training, search, files, the model and its card
CORE = ["reference", "validation", "files", "codebook", "diversity", "neighbors", "contrastive", "objective", "views", "backbone", "search", "evaluate",
        "core", "data"]
KNOWN = ["tests/test_data.py::test_other_colours[YCbCr]"]  # Pillow below 13 cannot read the TIFF that it writes in these colours
SOME = {"train": "step or resume or checkpoint or schedule or rate"}


def minima(*fields: str) -> list[str]:
    "name==version of every requirement in these fields of settings.ini"
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    wanted = " ".join(ini["DEFAULT"][field] for field in fields).split()
    return [re.sub(r">=([^,]+).*", r"==\1", one) for one in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--keep", metavar="ENV", type=Path)
    parser.add_argument("--with", dest="instead", nargs="*", default=[], metavar="NAME==VERSION")
    parser.add_argument("--tests", nargs="*", help="pytest's arguments instead of the core of the tests")
    args = parser.parse_args()
    chosen = {one.partition("==")[0]: one for one in minima("requirements")}
    chosen |= {one.partition("==")[0]: one for one in minima("lab_requirements", "dev_requirements") if one.partition("==")[0] in RUNNERS}
    chosen |= {one.partition("==")[0]: one for one in args.instead}
    with contextlib.ExitStack() as stack:
        env = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        python = env / "bin" / "python"
        if not python.exists(): subprocess.run([args.python, "-m", "venv", env], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *chosen.values()], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", ROOT], check=True)  # for its metadata; the code is taken from here
        print(f"{subprocess.check_output([python, '-V'], text=True).strip()}, {', '.join(chosen.values())}", flush=True)
        command = [python, "-m", "pytest", "-q", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "-m", "not browser and not cuda",
                   *(f"--deselect={test}" for test in KNOWN)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        def file(name): return ROOT / "tests" / f"test_{name}.py"
        runs = [args.tests] if args.tests else [[file(name) for name in CORE], *([file(name), "-k", some] for name, some in SOME.items())]
        failed = [subprocess.run([*command, *run], cwd=ROOT, env=environment).returncode for run in runs]
        demo = [python, "-m", "sscq.cli", "demo", "--epochs", "2", "--out", stack.enter_context(tempfile.TemporaryDirectory())]
        if not args.tests: failed.append(subprocess.run(demo, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode)
    return int(any(failed))


if __name__ == "__main__": sys.exit(main())
