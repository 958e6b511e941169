"Every number of the reference files: values to 1e-5, gradients to 1e-4, in float32."
from pathlib import Path

import children
import numpy as np
import pytest
from reference import INPUTS, LIMIT, compare, relative_error

HERE = Path(__file__).parent
FILES = sorted((HERE / "data").glob("sscq_*bit.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_array_agrees(path):
    errors = compare(path)
    with np.load(path) as file: assert set(errors) == set(file.files) - INPUTS  # none is left unchecked
    limits = {name: 1e-4 if "grad" in name else 1e-5 for name in errors}
    assert not {name: error for name, error in errors.items() if not error <= limits[name]}


def test_a_loss_of_zero_is_not_divided_by():  # pn, when every negative is a neighbour
    assert relative_error(2e-8, np.float32(0)) < LIMIT < relative_error(1e-3, np.float32(0))
    assert relative_error(np.float32([1e-9]), np.float32([2e-9])) > LIMIT  # arrays stay relative to their own largest


@pytest.fixture(scope="module")
def altered(tmp_path_factory):
    with np.load(FILES[0]) as file: arrays = dict(file)
    arrays["sum/total"] = arrays["sum/total"] * np.float32(1.001)
    path = tmp_path_factory.mktemp("reference") / "altered.npz"
    np.savez(path, **arrays)
    return path


def test_the_script_reports_and_exits_1_beyond_the_limit(altered):
    run = children.script(HERE / "reference.py", FILES[0], altered)
    assert run.returncode == 1, run.stderr
    assert run.stdout.count("beyond 1e-4") == 1 and "sum/total" in run.stdout
    assert children.script(HERE / "reference.py", FILES[0]).returncode == 0


