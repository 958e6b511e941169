"The explorers' plain functions, and their wiring without a browser."
import pytest
import torch

from sscq.search import train_pq
from sscq.widgets import codebook_explorer, distortions, example_points, plane_state


@pytest.mark.parametrize("M", [1, 2])
@pytest.mark.parametrize("K", [2, 8, 64])
def test_a_cold_softmax_lands_on_the_codeword(M, K):
    x = example_points(200, seed=1)
    state = plane_state(x, train_pq(x, M, K), 5, 1e-5)
    assert torch.allclose(state.z, state.word, atol=1e-3)
    assert torch.allclose(state.shares.sum(1), torch.ones(M))


@pytest.mark.parametrize("M", [1, 2])
def test_more_bits_never_distort_more(M):
    d = distortions(example_points(), [2, 4, 8, 16, 32, 64], M)
    assert list(d) == [M * b for b in range(1, 7)]
    assert list(d.values()) == sorted(d.values(), reverse=True)


def test_codebook_controls_move_the_numbers():
    explorer = codebook_explorer()
    seen = {explorer.readout.value}
    for name, value in (("K", 32), ("M", 2), ("tau", .01), ("point", 3)):
        explorer.controls[name].value = value
        assert not explorer.message.value
        assert explorer.readout.value not in seen
        seen.add(explorer.readout.value)
    assert explorer.readout.value.startswith("K 32 · M 2 · 10 bits · distortion 0.0")


def test_points_that_do_not_fit_give_a_message():
    assert "must be (N, 2)" in codebook_explorer(torch.rand(5, 3)).message.value
