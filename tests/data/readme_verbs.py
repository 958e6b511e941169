"The verbs of README.md as a user's script has them. No one runs it: mypy says what it sees, a test compares."
from sscq import SSCQ, Index, SSCQObjective, TrainConfig
from sscq.codebook import Encoded

model = SSCQ(bits=16)
reveal_type(model)  # sscq.core.SSCQ
reveal_type(model.fit("photos/", epochs=50))  # sscq.core.SSCQ
reveal_type(model.fit("photos/", config=TrainConfig(), objective=SSCQObjective()))  # sscq.core.SSCQ
reveal_type(model.bits)  # int
reveal_type(model.device)  # torch._C.device
reveal_type(model.codebooks)  # torch._tensor.Tensor
reveal_type(model.encode("photos/"))  # torch._tensor.Tensor
reveal_type(model.embed("photos/"))  # torch._tensor.Tensor
reveal_type(model.save_pretrained("my-model"))  # str | None
reveal_type(SSCQ.from_pretrained("my-model"))  # sscq.core.SSCQ
index = model.index("photos/")
reveal_type(index)  # sscq.index.Index
reveal_type(index.bits)  # int
reveal_type(index.paths)  # list[str] | None
reveal_type(index.search("query.jpg", k=10))  # sscq.answers.SearchResult
reveal_type(index.search("query.jpg").distances)  # torch._tensor.Tensor
reveal_type(index.search("query.jpg").paths)  # list[list[str]] | None
reveal_type(index.explain("query.jpg", 3))  # sscq.answers.Explanation
reveal_type(index.add(model.embed("more/")).remove([7]).merge(index))  # sscq.index.Index
reveal_type(index.to_ivf(n_lists=64))  # sscq.ivf.IVFIndex
reveal_type(index.to_ivf().search("query.jpg"))  # sscq.answers.SearchResult
reveal_type(index.save("my-model/photos.sscq"))  # pathlib.Path
reveal_type(Index.load("my-model/photos.sscq", embed=model.embed))  # sscq.index.Index
reveal_type(TrainConfig().micro_batch)  # int | None
a = b = Encoded(model.embed("photos/"), model.embed("photos/"))
loss, parts = SSCQObjective(n_neighbors=40)(a, b, model.codebooks)
reveal_type(loss)  # torch._tensor.Tensor
reveal_type(parts)  # sscq.objective.Parts
