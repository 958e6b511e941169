"Read what a notebook exports: names, signatures, docstrings and docments, straight from its cells, so that no page needs PyTorch to be made"
import ast
import io
import re
import tokenize
from typing import NamedTuple


class Row(NamedTuple):
    "One parameter, field or return value"
    name: str
    type: str
    default: str
    details: str


class Entry(NamedTuple):
    "One public name of a module"
    name: str  # `pack`, or `Index.search` for what belongs to a class
    kind: str  # a directive of Sphinx's Python domain
    signature: str
    doc: str
    rows: list[Row]
    cell: str  # the id of the cell that defines it
    raises: list[tuple[str, str]] = []  # kinds of errors, and when


Function = ast.FunctionDef | ast.AsyncFunctionDef


def text(node) -> str: return "" if node is None else ast.unparse(node)


NOQA = re.compile(r"#\s*noqa\b(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?(\s*\([^)]*\))?[;,]?[ \t]*")


def without_noqa(source: str) -> str:
    "What is said to the linter alone goes; what a comment says after it stays"
    def rest(m): return "# " if source[m.end():m.end() + 1].strip() else ""
    return re.sub(r"[ \t]+$", "", NOQA.sub(rest, source), flags=re.M) if NOQA.search(source) else source


def comments(source: str) -> dict[int, str]:
    "The comment at the end of each line"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def decorators(node) -> dict:
    "Name of each decorator, with its call if it is one"
    return {text(d.func if isinstance(d, ast.Call) else d).split(".")[-1]: d for d in node.decorator_list}


def arguments(f: Function) -> list[tuple[str, ast.arg, ast.expr | None]]:
    "Every parameter as (its name as a caller reads it, the node, its default)"
    a = f.args
    plain = a.posonlyargs + a.args
    found = [(x.arg, x, d) for x, d in zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults)]
    if a.vararg: found.append((f"*{a.vararg.arg}", a.vararg, None))
    found += [(x.arg, x, d) for x, d in zip(a.kwonlyargs, a.kw_defaults)]
    return found + ([(f"**{a.kwarg.arg}", a.kwarg, None)] if a.kwarg else [])


def rows_of(f: Function, notes: dict, bound: bool) -> list[Row]:
    "The parameters and what is returned; a comment belongs to the one thing that ends on its line"
    args = arguments(f)[bound:]
    ends = [x.end_lineno for _, x, _ in args] + ([f.returns.end_lineno] if f.returns else [])
    def note(line): return notes.get(line, "") if ends.count(line) == 1 else ""
    rows = [Row(name, text(x.annotation), text(d), note(x.end_lineno)) for name, x, d in args]
    return rows + ([Row("returns", text(f.returns), "", note(f.returns.end_lineno))] if f.returns and text(f.returns) != "None" else [])


def signature(f: Function, bound: bool) -> str:
    a = ast.parse(ast.unparse(f)).body[0].args  # a copy to cut from
    if bound: (a.posonlyargs or a.args).pop(0)
    return f"({text(a)})" + (f" -> {text(f.returns)}" if f.returns else "")


def one_line_note(f: Function, notes: dict) -> str:
    "What a definition on a single line says in its comment, which then speaks of the whole"
    return notes.get(f.lineno, "") if f.args.args and f.lineno == (f.returns or f.args.args[-1]).end_lineno and len(rows_of(f, {}, False)) > 1 else ""


PLUMBING = {"extra_repr"}  # methods that PyTorch calls, and nobody else


def message(call: ast.expr) -> str:
    "The text of an error as the code has it, with an ellipsis for what is filled in"
    if isinstance(call, ast.Constant): return str(call.value)
    if isinstance(call, ast.JoinedStr): return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in call.values)
    if isinstance(call, ast.BinOp): return message(call.left) + message(call.right)
    return "…"


def raised(f: Function) -> list[tuple[str, str]]:
    "The errors that a function raises itself, in the order of the code; then those of the checks that it calls"
    found, checks = [], []
    for node in ast.walk(f):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.append((node.lineno, text(node.exc.func), message(node.exc.args[0]) if node.exc.args else ""))
        if isinstance(node, ast.Call) and re.match(r"_?check_\w+$", text(node.func)): checks.append((node.lineno, text(node.func)))
    errors = [(kind, said) for _, kind, said in sorted(found) if re.fullmatch(r"[A-Z]\w+", kind) and said.strip("… ")]
    names = list(dict.fromkeys(f"`{name}`" for _, name in sorted(checks)))
    return list(dict.fromkeys(errors)) + ([("TypeError, ValueError", f"what does not pass {', '.join(names)}")] if names else [])


def gives(names: list[Entry]) -> dict[str, str]:
    "Of each name `f`, `C`, `C.method`, `C.field`: the class of what it gives, as its annotation says"
    found = {}
    for e in names:
        owner = e.name.rpartition(".")[0]
        said = {"class": e.name, "property": e.signature}.get(e.kind, e.signature.rpartition(" -> ")[2])
        for name, kind in [(e.name, said), *((f"{e.name}.{r.name}", r.type) for r in e.rows if e.kind == "class")]:
            kind = kind.removesuffix(" | None").strip("'\"")
            found[name] = owner if kind == "Self" else kind
    return found


def class_of(node: ast.AST, kinds: dict[str, str], known: dict[str, str]) -> str:
    "The class of an expression's value, as far as names and annotations tell"
    if isinstance(node, ast.Name): return known.get(node.id, "")
    if isinstance(node, ast.Attribute): return kinds.get(full_name(node, kinds, known), "")
    return kinds.get(full_name(node.func, kinds, known), "") if isinstance(node, ast.Call) else ""


def full_name(node: ast.AST, kinds: dict[str, str], known: dict[str, str]) -> str:
    "`fit` of a function, `SSCQ.fit` of what is asked of an SSCQ, or of the class itself; a module that is called goes forward"
    if isinstance(node, ast.Name): return f"{known[node.id]}.forward" if known.get(node.id) else node.id
    if not isinstance(node, ast.Attribute): return ""
    owner = class_of(node.value, kinds, known) or (node.value.id if isinstance(node.value, ast.Name) else "")
    return f"{owner}.{node.attr}" if owner in kinds else ""


def uses(node: ast.AST, kinds: dict[str, str], known: dict[str, str]) -> dict[str, int]:
    "What a statement uses: called, or asked for as a property (0), through a field of an instance (1), or by its name alone (2)"
    found: dict[str, int] = {}
    def use(name, how): found[name] = min(how, found.get(name, how))
    for n in ast.walk(node):
        if isinstance(n, ast.Call) and known.get(getattr(n.func, "id", ""), True): use(full_name(n.func, kinds, known), 0)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id not in known: use(n.id, 2)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and (owner := class_of(n.value, kinds, known)):
            use(f"{owner}.{n.attr}", 0)
            use(owner, 1)
    return {name: how for name, how in found.items() if name}


def assigned(node: ast.AST) -> list[tuple[ast.AST, ast.AST | None]]:
    "Names that a statement gives to values, with what says their class: the value, or an annotation"
    if isinstance(node, ast.Assign):
        of = node.targets[0], node.value
        if isinstance(of[0], ast.Tuple) and isinstance(of[1], ast.Tuple): return list(zip(of[0].elts, of[1].elts))
        return [of] if isinstance(of[0], ast.Name) else [(n, None) for target in node.targets for n in ast.walk(target)]
    if isinstance(node, ast.For): return [(n, None) for n in ast.walk(node.target)]
    if isinstance(node, ast.ExceptHandler) and node.name: return [(ast.Name(node.name, ast.Store()), node.type)]
    return [(ast.Name(a.arg, ast.Store()), a.annotation) for a in node.args.args] if isinstance(node, Function) else []


def statements(source: str, kinds: dict[str, str], known: dict[str, str], lines: int = 2) -> list[tuple[str, dict[str, int]]]:
    """Statements that fit on so many lines, and what each uses, those within loops and blocks last. Of a block, that is what it begins
    with; of one that is meant to fail, the error. `known`, the classes of variables, grows"""
    try: body = ast.parse(source).body
    except SyntaxError: return []  # a shell command
    found = []
    def visit(node, inner, known):
        block = isinstance(node, ast.With)
        if isinstance(node, ast.Expr | ast.Assign | ast.Assert) and not isinstance(getattr(node, "value", None), ast.Constant) or block:
            if node.end_lineno - node.lineno < lines:
                said = ast.unparse(node) if node.col_offset and node.end_lineno > node.lineno else ast.get_source_segment(source, node)
                found.append((inner, said, {k: v for part in (node.items if block else [node]) for k, v in uses(part, kinds, known).items()}))
        if isinstance(node, Function): known = dict(known)  # its own variables
        for name, value in assigned(node):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                says = isinstance(node, Function | ast.ExceptHandler) and isinstance(value, ast.Name) and value.id in kinds
                known[name.id] = value.id if says else class_of(value, kinds, known) if isinstance(node, ast.Assign) and value else ""
        if block and "expect_fail" in text(node.items[0].context_expr): return
        for child in ast.iter_child_nodes(node): visit(child, True, known)
    for node in body: visit(node, False, known)
    return [(said, used) for _, said, used in sorted(found, key=lambda f: f[0])]


def function(f: Function, notes: dict, cell: str, owner: str = "") -> Entry:
    "A function, or with an owner a method or property of that class"
    marks = decorators(f)
    static = "staticmethod" in marks
    prop = "property" in marks or "as_prop" in text(marks.get("patch"))
    doc = " ".join(filter(None, (ast.get_docstring(f), one_line_note(f, notes))))
    sig = signature(f, bound=bool(owner) and not static)
    kind = "property" if prop else "method" if owner else "function"
    rows = [] if prop else rows_of(f, notes, bound=bool(owner) and not static)
    return Entry(f"{owner}.{f.name}" if owner else f.name, kind, sig.partition(" -> ")[2] if prop else sig, doc, rows, cell, raised(f))


def class_entries(c: ast.ClassDef, notes: dict, cell: str) -> list[Entry]:
    "The class, then its public methods; a dataclass's or NamedTuple's fields are its parameters"
    init = next((x for x in c.body if isinstance(x, Function) and x.name == "__init__"), None)
    fields = [x for x in c.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name) and not x.target.id.startswith("_")]
    rows = rows_of(init, notes, bound=True) if init else [
        Row(x.target.id, text(x.annotation), text(x.value), notes.get(x.end_lineno, "")) for x in fields]
    sig = signature(init, bound=True) if init else "(" + ", ".join(f"{r.name}: {r.type}" + (f" = {r.default}" if r.default else "") for r in rows) + ")"
    shown = [x for x in c.body if isinstance(x, Function) and not x.name.startswith("_") and x.name not in PLUMBING and "setter" not in decorators(x)]
    methods = [function(x, notes, cell, c.name) for x in shown]
    return [Entry(c.name, "class", sig.partition(" -> ")[0] if rows else "", ast.get_docstring(c) or "", rows, cell, raised(init) if init else []), *methods]


def owner_of(f: Function) -> str | None:
    "The class that `@patch` or `@patch_to` adds a function to"
    marks = decorators(f)
    if "patch_to" in marks: return text(marks["patch_to"].args[0])
    return text(f.args.args[0].annotation) if "patch" in marks else None


def entries(source: str, cell: str) -> list[Entry]:
    "Every public name that a cell defines"
    notes, found = comments(source), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"): found += class_entries(node, notes, cell)
        elif isinstance(node, Function) and not node.name.startswith("_"): found.append(function(node, notes, cell, owner_of(node) or ""))
        elif isinstance(node, ast.Assign):
            targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
            names = [t.id for t in targets if isinstance(t, ast.Name) and not t.id.startswith("_")]
            found += [Entry(name, "data", text(node.value), notes.get(node.end_lineno, ""), [], cell) for name in names]
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            found.append(Entry(node.target.id, "data", text(node.value), notes.get(node.end_lineno, ""), [], cell))
    return found


def only_imports(source: str) -> bool:
    "Also of what may be absent: try, import, and what to do without it"
    try: body = ast.parse(source).body
    except SyntaxError: return False  # a shell command
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for top in body for node in (top.body if isinstance(top, ast.Try) else [top]))
