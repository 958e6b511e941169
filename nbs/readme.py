"README.md from the index notebook: its Markdown and its outputs, links made to work from the top folder.  Usage: python nbs/readme.py"
import json
import re
from pathlib import Path

NBS = Path(__file__).parent
LINK = re.compile(r"(\]\(|src=\")(?!https?:|#|/)([^)\"]+)")


def outputs(cell: dict) -> list[str]:
    "What a cell shows, as far as Markdown can show it; pictures are files of their own, linked in the text"
    found = [o["data"].get("text/markdown") or o["data"].get("text/plain", "") for o in cell["outputs"] if "data" in o]
    return ["".join(text) for text in found]


def readme() -> str:
    parts = ["<!-- Made from nbs/index.ipynb by `make readme`; edit that. -->"]
    for cell in json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": parts.append(source)
        elif source.startswith("#| echo: false"): parts += outputs(cell)
        elif not source.startswith("#| hide"): parts += [f"```python\n{source}\n```", *outputs(cell)]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    return LINK.sub(lambda m: m[1] + ("" if m[2].startswith("../") else "nbs/") + m[2].removeprefix("../"), text)


if __name__ == "__main__":
    target = NBS.parent / "README.md"
    part = target.with_name("README.md.part")
    part.write_text(readme(), encoding="utf-8")
    part.replace(target)
