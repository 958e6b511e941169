"""The modules and their imports, read from the code itself, as one picture: a column for each wing, every edge downwards.

A module stands above all that it imports, so no edge goes up; an edge is left out where others lead the same way."""
import ast
import html
from pathlib import Path

HEIGHT, ACROSS, DOWN, TOP = 26, 7, 30, 34  # a box, the room between boxes, and above the first, in pixels
COLUMNS = ["The faces", "The method", "The engine"]  # from left to right


def imported(tree: ast.AST) -> set[str]:
    "Modules of this package that code imports: absolutely, relatively, and inside of functions too"
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): used |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sscq.")}
        elif isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".") if node.module else []
            if not node.level and path[:1] != ["sscq"]: continue
            path = path if node.level else path[1:]
            used |= {path[0]} if path else {a.name for a in node.names}
    return used


def graph(package: Path, modules) -> dict[str, set[str]]:
    "For each of the modules, which others it imports"
    found = {m: imported(ast.parse((package / f"{m}.py").read_text(encoding="utf-8"))) - {m} for m in modules}
    return {m: used & set(modules) for m, used in found.items()}


def floors(imports: dict[str, set[str]]) -> dict[str, int]:
    "How many imports in a row a module stands above; a circle has no floor"
    found: dict[str, int] = {}

    def floor(module: str, above: tuple = ()) -> int:
        if module in above: raise ValueError(f"imports go in a circle: {' → '.join([*above[above.index(module):], module])}")
        if module not in found: found[module] = max((floor(used, (*above, module)) + 1 for used in sorted(imports[module])), default=0)
        return found[module]
    for module in imports: floor(module)
    return found


def needed(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    "Without the edges that a way through other modules makes superfluous"
    floor, below = floors(imports), {}  # below: all that a module imports, also by way of others
    for m in sorted(imports, key=floor.get): below[m] = set().union(imports[m], *(below[used] for used in imports[m]))
    return {m: {u for u in used if not any(u in below[other] for other in used)} for m, used in imports.items()}


def listed(names: list[str]) -> str: return ", ".join(names) if names else "nothing of this package"


def width(module: str) -> int:
    "Of its box: as wide as its name asks for"
    return max(52, 18 + 7 * len(module))


def svg(imports: dict[str, set[str]], wings: dict[str, list[str]], links: dict[str, str]) -> str:
    "The picture; `wings` says which modules each column holds, in the order of their notebooks, `links` where a box leads"
    floor, at, x, bands = floors(imports), {}, ACROSS, []
    top = max(floor.values())
    for wing in COLUMNS:
        rows = [[m for m in wings[wing] if floor[m] == n] for n in range(top + 1)]
        widths = [sum(width(m) + ACROSS for m in row) for row in rows]
        wide = max(widths) + ACROSS
        for n, row in enumerate(rows):
            left = x + (wide - widths[n] + ACROSS) / 2
            for m in row:
                at[m] = left, TOP + (top - n) * (HEIGHT + DOWN)
                left += width(m) + ACROSS
        bands.append((wing, x, wide))
        x += wide + ACROSS
    height = TOP + (top + 1) * (HEIGHT + DOWN) - DOWN + ACROSS
    parts = [f'<rect class="band" x="{left}" y="4" width="{wide}" height="{height - 4}" rx="8"/>'
             f'<text class="wing" x="{left + wide / 2}" y="22">{wing}</text>' for wing, left, wide in bands]
    for m, used in needed(imports).items():
        for u in sorted(used):
            (x0, y0), (x1, y1) = (at[m][0] + width(m) / 2, at[m][1] + HEIGHT), (at[u][0] + width(u) / 2, at[u][1])
            parts.append(f'<path data-from="{m}" data-to="{u}" d="M{x0:g} {y0} C{x0:g} {y0 + DOWN} {x1:g} {y1 - DOWN} {x1:g} {y1}"/>')
    for m, (left, y) in at.items():
        said = f"{m} imports {listed(sorted(imports[m]))}"
        parts.append(f'<a href="{html.escape(links[m])}" data-module="{m}" aria-label="{said}"><title>{said}</title>'
                     f'<rect class="module" x="{left:g}" y="{y}" width="{width(m)}" height="{HEIGHT}" rx="4"/>'
                     f'<text x="{left + width(m) / 2:g}" y="{y + HEIGHT / 2 + 4:g}">{m}</text></a>')
    chosen = "stroke: var(--color-brand-primary); stroke-width: 2.5; opacity: 1;"
    lit = "\n".join(f'.imports:has([data-module="{m}"]:is(:hover, :focus)) [data-from="{m}"] {{ {chosen} }}' for m in imports)
    said = f"{len(imports)} modules in three columns, {', '.join(wing.lower() for wing in COLUMNS)}; each stands above all that it imports."
    return (f'<svg class="imports" viewBox="0 0 {x} {height}" width="{x}" height="{height}" role="group" aria-labelledby="imports-title imports-said">'
            f'<title id="imports-title">Which module imports which</title>'
            f'<desc id="imports-said">{said}</desc>'
            f"<style>\n{lit}\n</style>{''.join(parts)}</svg>")
