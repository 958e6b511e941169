"""Change one thing in a module, and see whether its tests notice.

    python tests/mutants.py search train data evaluate --n 15 --seed 0      # 15 mutants of each; prints the survivors
    python tests/mutants.py evaluate --only 7 --show                        # one of them, as a difference

A mutant is a module in which one comparison, number, operator, argument order, condition, statement or decorator is another. Each runs
against the module's own tests (stopped at the first failure) in a copy of the project, so nothing here changes. The
choice depends on the seed and the module alone. Slow: this is no part of the tests."""
import argparse
import ast
import copy
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
            ast.In: ast.NotIn, ast.NotIn: ast.In}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr,
            ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult, ast.Pow: ast.Mult}
TESTS = {"train": ["train", "distributed"]}  # else test_MODULE.py alone
MESSAGES = (ast.Raise, ast.JoinedStr)  # what an error says is not a mutant's business


def changes(tree: ast.Module) -> Iterator[tuple[str, ast.AST, object]]:
    "Every (what, node, how to change it in place)"
    def inside(node, parents=()):
        yield node, parents
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, MESSAGES): yield from inside(child, (*parents, node))

    def replace(node, **fields): return lambda: [setattr(node, name, value) for name, value in fields.items()]

    def swap(field, i, j):
        def change(): field[i], field[j] = field[j], field[i]
        return change

    for node, parents in inside(tree):
        if not any(isinstance(p, (ast.FunctionDef, ast.ClassDef)) for p in parents) and not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        if any(isinstance(p, ast.arg) or isinstance(p, ast.AnnAssign) and node is p.annotation for p in parents[-2:]): continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
            yield "comparison", node, replace(node, ops=[COMPARED[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.BoolOp): yield "and/or", node, replace(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not): yield "not", node, replace(node, op=ast.UAdd())
        elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED: yield "operator", node, replace(node, op=COMPUTED[type(node.op)]())
        elif isinstance(node, ast.Constant) and type(node.value) is int: yield "number", node, replace(node, value=node.value + 1)
        elif isinstance(node, ast.Constant) and type(node.value) is bool: yield "flag", node, replace(node, value=not node.value)
        elif isinstance(node, ast.If): yield "if", node, replace(node, test=ast.Constant(False))
        elif isinstance(node, ast.IfExp): yield "if", node, replace(node, test=ast.Constant(True))
        elif isinstance(node, ast.Call) and len(node.args) > 1 and all(isinstance(a, ast.Name)
                                                                       for a in node.args[:2]) and "isinstance" not in ast.unparse(node.func):
            yield "arguments", node, swap(node.args, 0, 1)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call): yield "call left out", node, replace(node, value=ast.Constant(None))
        elif isinstance(node, ast.With) and len(node.items) == 1 and node.items[0].optional_vars is None:
            yield "with left out", node, replace(node, items=[ast.withitem(ast.parse("__import__('contextlib').nullcontext()", mode="eval").body)])
        elif isinstance(node, ast.Return) and node.value is not None and isinstance(node.value, ast.Tuple) and len(node.value.elts) > 1:
            yield "returned order", node, swap(node.value.elts, 0, 1)
        if isinstance(node, ast.FunctionDef):
            for d in node.decorator_list:
                if "patch" not in ast.unparse(d) and "static" not in ast.unparse(d):
                    yield "decorator left out", node, replace(node, decorator_list=[other for other in node.decorator_list if other is not d])


def mutants(source: str, n: int, seed: int, module: str) -> list[tuple[str, int, str]]:
    "n different (what, line, changed source)"
    tree = ast.parse(source)
    total = len(list(changes(tree)))
    chosen = random.Random(f"{seed} {module}").sample(range(total), min(n, total))
    out = []
    for i in chosen:
        mutant = copy.deepcopy(tree)
        what, node, change = list(changes(mutant))[i]
        change()
        out.append((what, node.lineno, ast.unparse(ast.fix_missing_locations(mutant))))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--n", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--timeout", type=float, default=400)
    parser.add_argument("-k", dest="some", default="", help="pytest's choice of tests")
    args, survivors, tried = parser.parse_args(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "project")
        shutil.copytree(ROOT, here, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "_docs", "runs", "results"))
        environment = os.environ | {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        def tests(module):
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", args.some,
                       *(here / "tests" / f"test_{name}.py" for name in TESTS.get(module, [module]))]
            try: return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=args.timeout)
            except subprocess.TimeoutExpired: return None
        for module in args.modules:
            file = here / "sscq" / f"{module}.py"
            source, plain = file.read_text(), ast.unparse(ast.parse(file.read_text()))
            if not args.show and not args.only:
                file.write_text(plain)
                start, run = time.monotonic(), tests(module)
                if run is None or run.returncode: raise SystemExit(f"the tests of {module} fail before anything is changed:\n{run and run.stdout[-1500:]}")
                print(f"{module}: {time.monotonic() - start:.0f} s without a mutant", flush=True)
            for i, (what, line, text) in enumerate(mutants(source, args.n, args.seed, module)):
                if args.only is not None and i not in args.only: continue
                difference = [d for d in difflib.unified_diff(plain.splitlines(), text.splitlines(), n=0, lineterm="") if d[0] in "+-"
                              and d[:3] not in ("+++", "---")]
                label = f"{module} {i}, line {line}, {what}: " + "  →  ".join(d[1:].strip()[:150] for d in difference)
                if args.show:
                    print(label)
                    continue
                file.write_text(text)
                run = tests(module)
                alive = run is not None and run.returncode == 0
                survivors, tried = survivors + alive, tried + 1
                last = "timeout" if run is None else next((x for x in reversed(run.stdout.splitlines()) if x.startswith(("FAILED", "ERROR"))), "")[:110]
                print(f"{'SURVIVES' if alive else 'killed  '} {label}{'' if alive else f'  [{last}]'}", flush=True)
            file.write_text(source)
    print(f"{survivors} of {tried} survive")
    return 0


if __name__ == "__main__": sys.exit(main())
