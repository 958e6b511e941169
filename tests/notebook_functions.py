"Functions that a notebook defines for its reader but does not export: the readable versions, used as oracles and as benchmarks' baselines."
import ast
import json
from pathlib import Path

NBS = Path(__file__).parent.parent / "nbs"


def from_notebook(stem: str, *names: str) -> list:
    "The functions `names` of nbs/STEM.ipynb, with the notebook's own imports around them"
    cells = json.loads((NBS / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
    nodes = [node for cell in cells if cell["cell_type"] == "code" for node in ast.parse("".join(cell["source"])).body]
    wanted = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) or getattr(n, "name", None) in names]
    scope = {}
    exec(compile(ast.Module(wanted, []), stem, "exec"), scope)
    missing = [name for name in names if name not in scope]
    if missing: raise LookupError(f"{stem}.ipynb defines no {', '.join(missing)}")
    return [scope[name] for name in names]
