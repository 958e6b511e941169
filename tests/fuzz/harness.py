"""What all fuzz targets share: cases that are numbered and repeatable, run in children that may crash, hang or fill the memory.

A target makes case number i from a random generator that depends on seed, target and i alone, so any case can be run again. Children are
forked, so that a case costs milliseconds; each has an address space, CPU time and a folder of its own."""

import collections
import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CPU_SECONDS = 5  # of a case; more is a hang
WALL_SECONDS = 60  # of a case that waits for something, or of a machine that is very busy
MEMORY = 3 << 30  # bytes of address space that a child may add to its parent's
GROWTH = 500 << 20  # bytes of memory that one case may touch
BATCH = 250  # cases of a child: its memory cannot grow for ever
GOOD = ("refused", "right", "works", "same", "another")  # all other verdicts are faults


class Case(NamedTuple):
    "What one case does"

    label: str  # what was changed, for people
    data: object


class Target(NamedTuple):
    "One kind of attack; `target_*.py` list theirs in TARGETS"

    name: str
    full: int  # cases of a full run
    prepare: Callable  # folder -> world, what the cases share; called once
    make: Callable  # world, random.Random, i -> Case
    attempt: Callable  # world, Case, an empty folder -> verdict, detail


class Finding(NamedTuple):
    "A case that showed a fault"

    target: str
    number: int
    label: str
    verdict: str
    detail: str


def clear(error: BaseException, *names: str, kinds: tuple = (ValueError, TypeError, OSError, RuntimeError)) -> bool:
    "An error of one line that names what it is about; subclasses that only a parser raises are not meant for people"
    text = str(error)
    return (
        isinstance(error, kinds)
        and not isinstance(error, (UnicodeError, RecursionError, NotImplementedError))
        and type(error).__name__ not in ("JSONDecodeError", "SafetensorError")
        and 10 <= len(text) <= 900
        and text.isprintable()
        and (not names or any(name in text for name in names))
    )


def said(error: BaseException) -> str:
    "An error and the line that raised it"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}sscq{os.sep}" in f.filename]
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].name}]" if frames else ""
    return f"{type(error).__name__}: {' / '.join(str(error).splitlines())[:300]}{place}"


def refusal(error: BaseException, *names: str, **kinds) -> tuple[str, str]:
    "The verdict on an error"
    return "refused" if clear(error, *names, **kinds) else "UNCLEAR", said(error)


def generator(seed: int, target: str, number: int) -> random.Random:
    return random.Random(f"{seed} {target} {number}")


@contextlib.contextmanager
def own_folder():
    "An empty folder, which is the current one"
    before, folder = os.getcwd(), tempfile.mkdtemp(prefix="sscq-fuzz-")
    os.chdir(folder)
    try:
        yield Path(folder)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def one_case(target: Target, world, seed: int, number: int) -> tuple[str, str]:
    case = target.make(world, generator(seed, target.name, number), number)
    with own_folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return target.attempt(world, case, folder)
        except MemoryError as error:
            return "UNCLEAR", said(error)


def _child(target: Target, world, seed: int, numbers: range, answers):
    "Run cases, telling the parent before and after each"
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    for number in numbers:
        answers.send((number, None, None))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends this process, wherever it computes
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            verdict, detail = one_case(target, world, seed, number)
        except BaseException as error:
            verdict, detail = "UNCLEAR", f"while attacking: {said(error)}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if grown > GROWTH:
            verdict, detail = "MEMORY", f"{grown >> 20} MB more; {verdict}: {detail}"
        answers.send((number, verdict, detail))
    os._exit(0)


def run_batch(target: Target, world, seed: int, numbers: range, deadline: float):
    "Verdicts of some cases, as (number, verdict, detail); ends early at the deadline, or after a case that ended its child"
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(target, world, seed, numbers, theirs))
    child.start()
    theirs.close()
    under_way = None
    try:
        while time.monotonic() < deadline or under_way is not None:
            if not ours.poll(WALL_SECONDS):
                yield under_way, "HANG", f"no answer after {WALL_SECONDS} s"
                return
            try:
                number, verdict, detail = ours.recv()
            except EOFError:
                child.join()
                if under_way is not None:
                    hang = child.exitcode == -signal.SIGPROF
                    yield under_way, "HANG" if hang else "CRASH", f"over {CPU_SECONDS} s of CPU time" if hang else f"exit code {child.exitcode}"
                return
            under_way = number if verdict is None else None
            if verdict is not None:
                yield number, verdict, detail
    finally:
        child.kill()
        child.join()


def run_target(target: Target, world, seed: int, n: int, seconds: float = float("inf")) -> tuple[collections.Counter, list[Finding]]:
    "Up to n cases in so many seconds"
    tally, findings, done, deadline = collections.Counter(), [], 0, time.monotonic() + seconds
    while done < n and time.monotonic() < deadline:
        for number, verdict, detail in run_batch(target, world, seed, range(done, min(n, done + BATCH)), deadline):
            tally[verdict] += 1
            done = number + 1
            if verdict in GOOD:
                continue
            findings.append(Finding(target.name, number, target.make(world, generator(seed, target.name, number), number).label, verdict, detail))
    return tally, findings
