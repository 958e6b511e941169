"Codes and embeddings taken to databases that others run."
import sys

import pytest
import torch

from sscq.cli import main
from sscq.codebook import decode
from sscq.index import Index
from sscq.vectordb import index_lance, rows_of, to_lance, to_parquet


def run(*argv) -> int: return main([str(a) for a in argv])


def an_index(words: int = 16, n: int = 300, keep: str | None = "half") -> Index:
    gen = torch.Generator().manual_seed(words)
    index = Index(torch.randn(4, words, 3, generator=gen), keep=keep)
    return index.add(torch.randn(n, 12, generator=gen), paths=[f"/photos/{i}.png" for i in range(n)]).remove([0, 7])


def test_parquet_has_ids_paths_and_embeddings(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("sscq.vectordb.BLOCK", 64)
    for keep in ("half", "int8"):
        index = an_index(keep=keep)
        index.save(tmp_path / f"{keep}.sscq")
        assert run("export", tmp_path / f"{keep}.sscq", "--parquet", tmp_path / f"{keep}.parquet") == 0
        table = parquet.read_table(tmp_path / f"{keep}.parquet")
        assert table["id"].to_pylist() == index.ids.tolist() and table["path"].to_pylist() == index.paths
        f = torch.tensor(table["vector"].to_pylist())
        assert ((f.norm(dim=1) - 1).abs() < .02).all() and len(f) == 298


class Growing(Index):
    "Somebody adds a new first item after each look"
    adding = False

    def snapshot(self):
        now = super().snapshot()
        if self.adding: self.add(torch.ones(1, 12), ids=[int(now.ids[0]) - 1], paths=["/photos/new.png"])
        return now


@pytest.mark.parametrize("what", ["parquet", "lance"])
def test_what_is_added_while_rows_are_written_neither_shifts_nor_doubles_them(what, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("sscq.vectordb.BLOCK", 64)
    index = Growing(an_index().codebooks, keep="half").add(torch.randn(300, 12), ids=range(1000, 1300), paths=[f"/photos/{i}.png" for i in range(300)])
    wanted, index.adding = list(zip(index.ids.tolist(), index.paths)), True
    if what == "parquet": table = parquet.read_table(to_parquet(index, tmp_path / "x.parquet"))
    else: table = pytest.importorskip("lance").dataset(str(to_lance(index, tmp_path / "x.lance"))).to_table()
    assert list(zip(table["id"].to_pylist(), table["path"].to_pylist())) == wanted


@pytest.mark.parametrize("words", [16, 256])
def test_lance_answers_as_the_index_does(words, tmp_path, monkeypatch):
    lance = pytest.importorskip("lance")
    monkeypatch.setattr("sscq.vectordb.BLOCK", 128)
    index = an_index(words, 600)
    queries = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    def agrees(data, **how):
        wanted = index.search(queries, k=5)
        for q, ids, distances in zip(queries, wanted.ids, wanted.distances):
            got = data.to_table(nearest=dict(column="vector", q=q.numpy(), k=5, nprobes=1, **how), columns=["id", "_distance"])
            assert set(got["id"].to_pylist()) == set(ids.tolist())
            assert sorted(got["_distance"].to_pylist()) == pytest.approx(distances.tolist(), rel=1e-4)
    data = lance.dataset(str(to_lance(index, tmp_path / "codes.lance")))
    agrees(data), agrees(data, use_index=False)
    assert torch.allclose(torch.tensor(data.to_table()["vector"].to_pylist()), decode(index.codes, index.codebooks))
    index.add(queries + .01, paths=["new"] * 6)
    lance.write_dataset(rows_of(index, 598, 604, True), data.uri, mode="append")
    agrees(lance.dataset(data.uri)), agrees(index_lance(lance.dataset(data.uri), index))


def test_what_cannot_be_exported_is_said_and_nothing_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lance")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="is there already"): to_lance(an_index(), tmp_path / "there")
    with pytest.raises(ValueError, match="4 or 8 bits"): to_lance(an_index(32), tmp_path / "x")
    with pytest.raises(ValueError, match="is empty"): to_lance(Index(torch.randn(2, 16, 2)), tmp_path / "x")
    with pytest.raises(ValueError, match="keeps no embeddings"): to_parquet(an_index(keep=None), tmp_path / "x")
    an_index().save(tmp_path / "photos.sscq")
    capsys.readouterr()
    assert run("export", tmp_path / "photos.sscq") == 1 and "give --lance FOLDER or --parquet FILE" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lance", None)
    assert run("export", tmp_path / "photos.sscq", "--lance", tmp_path / "x") == 1
    assert capsys.readouterr().err.strip().endswith("pip install 'sscq[lance]'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos.sscq", "there"]
