"Settings: what is meant is taken as Python's own kind of value, the rest is refused in one line that names it."
import math
import re
import os
import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sscq.validation import (
    MAX_TEMPERATURE, MIN_TEMPERATURE, check_callable, check_choice, check_count, check_counts, check_flag, check_number, check_path,
    check_seed, check_temperature, check_tensor, one_line, shown)


def shown_id(value) -> str:
    "Without addresses: every process that runs the tests must name them alike"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Rude:
    "A value that cannot even be shown"
    def __repr__(self): raise RuntimeError("no")


class Deep:
    def __repr__(self): return repr(self)


ODD = [None, "", "5", "a\nb\x1b[2J", b"5", [], {}, (), {1}, object(), object, 1j, Decimal("3"), Rude(), Deep(), np.array([1, 2]), np.array(True),
       torch.ones(2), torch.tensor(True), torch.tensor(3.), [[1], [1, 2]], print, 10 ** 5000, -10 ** 5000, math.nan, -math.inf, "\ud800"]
CHECKS = {
    "check_count": check_count, "check_seed": check_seed, "check_number": lambda name, value: check_number(name, value, 0, 9),
    "check_temperature": check_temperature, "check_flag": check_flag, "check_choice": lambda name, value: check_choice(name, value, ["a", "b"]),
    "check_callable": lambda name, value: check_callable(name, value, "a record"), "check_path": check_path,
    "check_tensor": lambda name, value: check_tensor(name, value, "N D"),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("i", range(len(ODD)))
def test_taken_or_refused_by_name_in_one_line(check, i):
    try: CHECKS[check]("setting", ODD[i])
    except (TypeError, ValueError) as error:
        text = str(error)
        assert type(error) in (TypeError, ValueError) and text.startswith("setting") and text.isprintable() and 10 < len(text) < 400
        assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__), "the reader sees one error, not two"


# --- text ---

@given(st.text())
def test_one_line_shows_everything_and_loses_nothing(text):
    line = one_line(text)
    assert line.isprintable()
    if text.isprintable(): assert line == text
    assert one_line(line) == line


def test_characters_that_turn_text_around_are_escaped(): assert one_line("a\u202egpj.exe\u200b\ud800\n") == r"a\u202egpj.exe\u200b\ud800\n"


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text() | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_shown_is_one_short_line(value):
    text = shown(value)
    assert text.isprintable() and len(text) <= 80
    if len(repr(value)) <= 80: assert text == one_line(repr(value))


def test_shown_of_what_cannot_be_shown():
    assert shown(Rude()) == "a value of type Rude" and shown(Deep()) == "a value of type Deep" and shown(10 ** 5000) == "a value of type int"
    assert shown(torch.zeros(3, 4)) == "Tensor of shape (3, 4) and torch.float32" and shown(np.zeros(2)) == "ndarray of shape (2,) and float64"
    assert shown("x" * 100) == "'" + "x" * 78 + "…" and shown("x" * 100, 10) == "'xxxxxxxx…"


# --- whole numbers ---

@given(st.integers(-5, 10), st.integers(-5, 10), st.integers(-5, 10), st.sampled_from([int, np.int64, np.int8, torch.tensor]))
def test_counts(value, least, most, kind):
    if least <= value <= most:
        n = check_count("n", kind(value), least, most)
        assert type(n) is int and n == value
    else:
        with pytest.raises(ValueError, match=f"^n={value} must be at (least {least}|most {most})$"): check_count("n", kind(value), least, most)


@pytest.mark.parametrize("value", [True, False, np.True_, torch.tensor(True), 1., np.float32(2), "5", None, Fraction(2), Decimal(2), 1j, [3],
                                   torch.tensor(3.), torch.ones(2, dtype=torch.int64)], ids=shown_id)
def test_no_whole_number(value):
    for check in (check_count, check_seed):
        with pytest.raises(TypeError, match="^n=.* is of type .*; it must be an int$"): check("n", value)


def test_several_counts_in_their_order():
    assert check_counts(a=np.int64(3), b=2) == [3, 2] and check_counts() == []
    with pytest.raises(ValueError, match="^b=0 must be at least 1$"): check_counts(a=1, b=0, c=-1)


def test_counts_end_where_faiss_does():
    assert check_count("n", 2 ** 31 - 1) == 2 ** 31 - 1
    with pytest.raises(ValueError, match="at most 2,147,483,647"): check_count("n", 2 ** 31)


def test_seeds():
    assert check_seed("seed", np.int64(0)) == 0 and check_seed("seed", 2 ** 63 - 1) == 2 ** 63 - 1
    for seed in (0, 2 ** 63 - 1): torch.Generator().manual_seed(check_seed("seed", seed))
    for seed in (-1, 2 ** 63):
        with pytest.raises(ValueError, match="^seed="): check_seed("seed", seed)


# --- numbers ---

bounds = st.none() | st.floats(-10, 10)


@given(st.floats() | st.integers(-10 ** 400, 10 ** 400) | st.fractions(), bounds, bounds, bounds, st.booleans())
def test_numbers(value, least, most, above, finite):
    try: x = float(value)
    except OverflowError: x = math.inf if value > 0 else -math.inf
    right = (not math.isnan(x) and (least is None or x >= least) and (most is None or x <= most) and (above is None or x > above)
             and (not finite or math.isfinite(x)))
    if right: assert type(check_number("x", value, least, most, above, finite)) is float and check_number("x", value, least, most, above, finite) == x
    else:
        with pytest.raises(ValueError, match="^x="): check_number("x", value, least, most, above, finite)


@pytest.mark.parametrize("value", [np.float32(.5), np.float64(.5), Fraction(1, 2)])
def test_other_kinds_of_numbers_become_floats(value): assert type(check_number("x", value)) is float and check_number("x", value) == .5


@pytest.mark.parametrize("value", [True, np.True_, "5", None, 1j, Decimal("0.5"), torch.tensor(.5), np.array(.5), [1.]], ids=shown_id)
def test_no_number(value):
    with pytest.raises(TypeError, match="^x=.* it must be a number$"): check_number("x", value)


@given(st.floats(MIN_TEMPERATURE, MAX_TEMPERATURE))
def test_float32_divides_by_every_temperature(value):
    tau = check_temperature("tau", value)
    assert type(tau) is float and (torch.ones(1) / tau).isfinite().all() and torch.ones(1) / tau > 0


@pytest.mark.parametrize("value", [0, -1, 1e-320, 1e-13, 1e13, math.nan, math.inf, 10 ** 400])
def test_no_temperature(value):
    with pytest.raises(ValueError, match="^tau="): check_temperature("tau", value)


def test_a_temperature_may_be_learned():
    tau = torch.nn.Parameter(torch.tensor(.5))
    assert check_temperature("tau", tau) is tau
    for wrong in (torch.tensor([.5]), torch.tensor(1), torch.tensor(True)):
        with pytest.raises(TypeError, match="^tau="): check_temperature("tau", wrong)


# --- flags, choices, functions ---

@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags(value): assert check_flag("flag", value) is bool(value)


@pytest.mark.parametrize("value", [0, 1, 1., "True", None, [], torch.tensor(True)], ids=shown_id)
def test_no_flag(value):
    with pytest.raises(TypeError, match="^flag=.* it must be True or False$"): check_flag("flag", value)


def test_choices():
    assert check_choice("c", "a", ("a", "b")) == "a" and check_choice("c", False, (False, True, "changed")) is False
    assert check_choice("c", 5, {5: None}) == 5 and check_choice("c", "b", iter("ab")) == "b"
    for wrong in ("c", None, ["a"], {"a"}, np.array(["a", "b"]), torch.ones(2), b"a"):
        with pytest.raises(ValueError, match="^c=.* is unknown; choose one of a, b$"): check_choice("c", wrong, ("a", "b"))


def test_a_number_is_no_flag_among_choices():
    for wrong, choices in ((0, (False, True)), (1, (False, True)), (True, (0, 1)), (np.True_, (0, 1)), (1., (0, 1))):
        with pytest.raises(ValueError, match="is unknown"): check_choice("c", wrong, choices)


def test_functions():
    assert check_callable("f", print, "a record") is print
    with pytest.raises(TypeError, match="^f=5 is of type int; it must be a function of a record$"): check_callable("f", 5, "a record")


# --- paths ---

@given(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20))
@settings(deadline=None)
def test_paths_that_can_be(name):
    path = check_path("out", name)
    assert isinstance(path, Path) and check_path("out", path) == path
    if name not in (".", ".."):
        with tempfile.TemporaryDirectory() as folder: (folder / path).touch()


@pytest.mark.parametrize("value", ["", "a\0b", "\0", "\ud800", "a/\ud800x/b", Path("a\0b")], ids=ascii)
def test_paths_that_cannot_be(value):
    with pytest.raises(ValueError, match="^out=") as error: check_path("out", value)
    assert str(error.value).isprintable()


def test_names_that_are_not_utf8_are_paths(tmp_path):  # as listing a folder gives them
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / check_path("out", name)).touch()
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]


@pytest.mark.parametrize("value", [5, None, b"x", True, ["x"], object(), torch.tensor(3)], ids=shown_id)
def test_no_path(value):
    with pytest.raises(TypeError, match="^out=.* it must be a path"): check_path("out", value)


# --- tensors ---

@given(st.integers(0, 3), st.sampled_from(["", "N", "N D", "N M d"]), st.sampled_from(["float", "codes", "whole"]), st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.complex64]))
def test_tensors(ndim, dims, kind, dtype):
    x = torch.ones([2] * ndim, dtype=dtype)
    right = {"float": dtype.is_floating_point, "codes": dtype == torch.uint8, "whole": dtype in (torch.uint8, torch.int64)}[kind]
    if ndim == len(dims.split()) and right: assert check_tensor("x", x, dims, kind) is x
    else:
        with pytest.raises((ValueError, TypeError), match="^x of"): check_tensor("x", x, dims, kind)


@pytest.mark.parametrize("array", [np.arange(6.).reshape(2, 3), np.arange(6.).reshape(3, 2).T, np.arange(6.).reshape(2, 3)[::-1],
                                   np.arange(12.).reshape(2, 6)[:, ::2], np.broadcast_to(np.arange(3.), (2, 3)),
                                   np.frombuffer(bytes(48)).reshape(2, 3), [[1., 2., 3.], [4., 5., 6.]]])
def test_arrays_of_every_layout_become_tensors(array):
    x = check_tensor("x", array, "N D")
    assert x.dtype in (torch.float32, torch.float64) and np.array_equal(x.numpy(), np.asarray(array))


def test_numbers_of_a_tensor_are_looked_at_where_asked_for():
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.tensor([1., bad])
        assert check_tensor("x", x, "N") is x
        with pytest.raises(ValueError, match="^x contain NaN or infinite values"): check_tensor("x", x, "N", finite=True)
    assert check_tensor("x", torch.zeros(0), "N", finite=True).shape == (0,)


@pytest.mark.parametrize("value", ["x", None, object(), [[1], [1, 2]], {}, [None], ["x"]], ids=shown_id)
def test_no_tensor(value):
    with pytest.raises(TypeError, match=r"^x=.* must be a tensor \(N, D\) of floating point$"): check_tensor("x", value, "N D")
