"The benchmark of picture collections, on a handful of pictures: grey ones get a network of one channel, and are scored by what it sees."
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent


@pytest.fixture
def collections(monkeypatch):
    monkeypatch.syspath_prepend(HERE.parent / "benchmarks")
    import picture_collections
    return picture_collections


def kinds(root: Path, mode: str) -> Path:
    "Two kinds, bright and dark, 24 pictures of each to search and two to ask with"
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("test", 2)):
        for kind, level in (("bright", 160), ("dark", 20)):
            folder = root / part / kind
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(level, level + 80, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return root


@pytest.mark.filterwarnings("ignore:.*codes for:UserWarning")  # a step on so few pictures: their codes tie, and it says so
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_collection_is_scored(collections, tmp_path, monkeypatch, mode):
    folder = kinds(tmp_path / "pictures", mode)
    kept = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", f"picture_collections.py {folder} --steps 1 --seeds 0 --models-only --json {kept}".split())
    collections.main()
    rows = json.loads(kept.read_text())
    assert [(r["method"], r["refined"], r["steps"], r["seeds"]) for r in rows] == [("SSCQ", False, 1, [0]), ("SSCQ", True, 1, [0])]
    assert all(r["p_at_10"] > .8 for r in rows)  # colours alone tell these kinds apart
