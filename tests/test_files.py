"Files: whole or not at all, whoever kills, forks, links or fills the disk; and read without believing a word."
import contextlib
import errno
import json
import os
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import children
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from sscq import files
from sscq.files import (
    MAX_NAME, PART, atomic_write, check_writable, check_writable_folder, checksum, parse_json, put_in_place, read_tensors, remove_abandoned,
    staging)

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and modes of POSIX")


def parts(folder: Path) -> list: return list(folder.glob(PART + "*"))


def child(code: str, *args, **kwargs) -> children.Child:
    "Another process that has imported the module"
    lines = ["import os, signal, sys, threading, time", "from pathlib import Path", "from sscq.files import atomic_write, staging", code]
    return children.Child("\n".join(lines), *args, stdout=subprocess.PIPE, **kwargs)


# --- whole or not at all ---

FORKED = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, a shell has it ignored
def forked(function):  # a process of its own, without another import of torch
    come, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(go)
        os.read(come, 1)  # it is there: Python forgets signals that come during a fork
        os.close(come)
        return pid
    try:
        os.close(go)
        os.close(come)
        function()
    finally: os._exit(0)
"""


@posix
def test_thirty_kills(tmp_path):
    "At any moment the file is one of its contents, whole; and what the last one left is gone after the next write"
    code = FORKED + """
file = atomic_write(sys.argv[1], bytes(200_000))
def write():
    for n in range(10 ** 6): atomic_write(file, bytes([n % 256]) * 200_000)
for i in range(30):
    pid = forked(write)
    time.sleep(.004 + .002 * i)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    content = file.read_bytes()
    assert len(content) == 200_000 and len(set(content)) == 1, (i, len(content))
    assert len(list(file.parent.glob(".sscq-part-*"))) <= 1, i
atomic_write(file, b"the last")
print("whole")"""
    with child(code, tmp_path / "file") as process: assert process.stdout.read() == "whole\n"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@given(old=st.none() | st.binary(max_size=300), new=st.binary(max_size=300), fails=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_new_content_or_the_old(old, new, fails):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        if old is not None: file.write_bytes(old)
        def write(part):
            part.write_bytes(new)
            if fails: raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext(): atomic_write(file, write)
        assert (file.read_bytes() if file.exists() else None) == (old if fails else new)
        assert not parts(Path(folder))


class Recorder:
    "What goes to the disk and what is renamed, in order"
    def __init__(self, monkeypatch):
        self.calls = []
        fsync, replace = os.fsync, os.replace
        def recorded_fsync(fd):
            self.calls.append(("fsync", "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else os.fstat(fd).st_size))
            return fsync(fd)
        def recorded_replace(a, b):
            self.calls.append(("replace", Path(b).name))
            return replace(a, b)
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)


@posix
def test_data_is_on_the_disk_before_the_name_leads_to_it_and_the_folder_after(tmp_path, monkeypatch):
    record = Recorder(monkeypatch)
    atomic_write(tmp_path / "file", b"12345")
    assert record.calls == [("fsync", 5), ("replace", "file"), ("fsync", "folder")]
    record.calls.clear()
    atomic_write(tmp_path / "file", b"123456", previous=tmp_path / "before")
    assert record.calls == [("fsync", 6), ("replace", "before"), ("replace", "file"), ("fsync", "folder")]
    assert ((tmp_path / "before").read_bytes(), (tmp_path / "file").read_bytes()) == (b"12345", b"123456")


@posix
def test_data_that_does_not_reach_the_disk_takes_no_name(tmp_path, monkeypatch):
    file = atomic_write(tmp_path / "file", b"old")
    fsync = os.fsync
    def fails(fd):
        if stat.S_ISREG(os.fstat(fd).st_mode): raise OSError(errno.EIO, "Input/output error")
        return fsync(fd)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="file cannot be written .Input/output error"): atomic_write(file, b"new")
    assert file.read_bytes() == b"old"


@posix
def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):  # as on some network file systems
    fsync = os.fsync
    def fails(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode): raise OSError(errno.EINVAL, "Invalid argument")
        return fsync(fd)
    monkeypatch.setattr(os, "fsync", fails)
    assert atomic_write(tmp_path / "file", b"new").read_bytes() == b"new"


def test_the_file_before_is_kept_only_where_there_is_one(tmp_path):
    atomic_write(tmp_path / "file", b"1", previous=tmp_path / "before")
    assert not (tmp_path / "before").exists()
    for content in (b"2", b"3"): atomic_write(tmp_path / "file", content, previous=tmp_path / "before")
    assert ((tmp_path / "before").read_bytes(), (tmp_path / "file").read_bytes()) == (b"2", b"3")


def test_a_file_called_mode_can_be_prepared_beside_others(tmp_path):
    with staging(tmp_path) as folder:
        for name in ("mode", "other"): (folder / name).write_text(name)
        for name in ("other", "mode"): put_in_place(folder / name, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mode", "other"]
    assert (tmp_path / "mode").read_text() == "mode"


# --- modes and the umask ---

@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664, 0o444, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(mode)
    atomic_write(file, b"new")
    assert (stat.S_IMODE(file.stat().st_mode), file.read_bytes()) == (mode, b"new")


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path, mask):
    code = f"os.umask({mask}); Path(sys.argv[1], 'plain').write_bytes(b''); atomic_write(Path(sys.argv[1], 'ours'), b'')"
    with child(code, tmp_path) as process: pass
    assert process.returncode == 0
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "ours").stat().st_mode


@posix
def test_the_umask_is_never_touched_while_others_make_files(tmp_path):
    "Four threads write and replace files; what a fifth makes meanwhile has the usual mode, every time"
    code = """
folder, end = Path(sys.argv[1]), time.monotonic() + 1.5
os.umask(0o077)
def write(i):
    n = 0
    while time.monotonic() < end:
        atomic_write(folder / f"file{i}", b"x" * 1000)
        (folder / f"file{i}").unlink()
        n += 1
    assert n > 5
threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
for thread in threads: thread.start()
modes, n = set(), 0
while time.monotonic() < end:
    n += 1
    fd = os.open(folder / f"plain{n}", os.O_CREAT | os.O_WRONLY, 0o666)
    modes.add(oct(os.fstat(fd).st_mode & 0o777))
    os.close(fd)
    os.unlink(folder / f"plain{n}")
for thread in threads: thread.join()
print(sorted(modes))"""
    with child(code, tmp_path) as process: printed = process.stdout.read()
    assert process.returncode == 0 and printed == "['0o600']\n"
    assert not list(tmp_path.iterdir())


def test_threads_write_the_same_file_and_others_beside_it(tmp_path):
    errors = []
    def write(i):
        try:
            for n in range(20): atomic_write(tmp_path / ("shared" if n % 2 else f"own{i}"), bytes([i]) * 10_000)
        except BaseException as error: errors.append(error)
    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not errors and not parts(tmp_path)
    content = (tmp_path / "shared").read_bytes()
    assert len(content) == 10_000 and len(set(content)) == 1


@posix
def test_processes_write_beside_each_other(tmp_path):
    "None takes what another is preparing for abandoned, though each cleans up before it writes"
    code = FORKED + """
def write(i):
    for n in range(150): atomic_write(Path(sys.argv[1], str(i)), bytes(1000))
    print("done", flush=True)
for pid in [forked(lambda: write(i)) for i in range(4)]: os.waitpid(pid, 0)"""
    with child(code, tmp_path) as process: assert process.stdout.read() == "done\n" * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == list("0123")


# --- links, pipes, devices, folders ---

@posix
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    target, link, chain = tmp_path / "far" / "file", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("far/file")
    chain.symlink_to(link)
    for n, path in enumerate((link, chain, link)):  # the first to what is not there yet
        atomic_write(path, bytes([n]))
        assert link.is_symlink() and chain.is_symlink() and target.read_bytes() == bytes([n])
    assert sorted(p.name for p in (tmp_path / "far").iterdir()) == ["file"] and not parts(tmp_path)


@posix
def test_a_link_to_itself_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for function in (lambda path: atomic_write(path, b""), check_writable):
        with pytest.raises(OSError, match="/a cannot be written"): function(tmp_path / "a")


@posix
def test_a_pipe_is_written_into(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert check_writable(pipe) == pipe
    atomic_write(pipe, b"through it")
    reader.join()
    assert got == [b"through it"] and stat.S_ISFIFO(pipe.stat().st_mode)


def device(path: Path, minor: int) -> Path:
    "A device of our own, as /dev/null (3) or /dev/full (7)"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        with open(path, "wb"): return path
    except (AttributeError, OSError): pytest.skip("making devices needs root")


def test_a_device_stays_a_device(tmp_path):
    null = device(tmp_path / "null", 3)
    atomic_write(check_writable(null), b"away with it")
    assert stat.S_ISCHR(null.stat().st_mode) and sorted(p.name for p in tmp_path.iterdir()) == ["null"]


def test_a_full_disk_is_said_and_stays_what_it_is(tmp_path):
    full, link = device(tmp_path / "full", 7), tmp_path / "a\nlink"
    link.symlink_to(full)
    for path in (full, link):
        with pytest.raises(OSError, match="cannot be written .No space left on device.: make room") as error: atomic_write(path, b"x" * 100_000)
        assert str(error.value).isprintable()
    assert stat.S_ISCHR(full.stat().st_mode) and link.is_symlink()


@posix
def test_a_full_disk_keeps_the_file(tmp_path):
    "A limit of the size of files stands for the disk"
    code = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = atomic_write(Path(sys.argv[1], "file"), b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try: atomic_write(file, bytes(5000))
except OSError as error: print(error)"""
    with child(code, tmp_path) as process: printed = process.stdout.read()
    assert "file cannot be written (File too large): make room" in printed
    assert (tmp_path / "file").read_bytes() == b"old" and not parts(tmp_path)


def test_a_library_that_cannot_write_is_named_too(tmp_path):
    def fails(part): raise SafetensorError("Error while serializing: I/O error: No space left on device\nmore")
    with pytest.raises(OSError, match=r"file cannot be written \(Error while serializing: I/O error: No space left on device\)"):
        atomic_write(tmp_path / "file", fails)
    assert not list(tmp_path.iterdir())


def test_names_of_255_bytes_are_written_and_longer_ones_refused_before_the_work(tmp_path):
    for n in range(250, MAX_NAME + 1): assert atomic_write(check_writable(tmp_path / ("n" * n)), b"x").read_bytes() == b"x"
    assert atomic_write(check_writable(tmp_path / ("é" * 127)), b"x").exists()
    for name in ("n" * 256, "é" * 128):
        with pytest.raises(ValueError, match="longer than the 255 bytes"): check_writable(tmp_path / name)


@posix
def test_a_path_too_long_to_prepare_in_is_refused_before_the_work(tmp_path, monkeypatch):
    deep = tmp_path
    while len(str(deep)) < 3900: deep = deep / ("d" * min(200, 4060 - len(str(deep))))
    deep = deep / ("d" * (4070 - len(str(deep))))
    path = deep / "f"
    assert len(str(path)) < 4096
    with pytest.raises(OSError, match="cannot be written .File name too long") as error: check_writable(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("function", [check_writable, lambda path: atomic_write(path, b"x")])
def test_what_is_no_place_for_a_file_is_named(tmp_path, function):
    (tmp_path / "file").touch()
    (tmp_path / "fol\x1bder").mkdir()
    for wrong in (tmp_path / "file" / "below", tmp_path / "fol\x1bder", tmp_path / "file" / "far" / "below"):
        with pytest.raises((OSError, ValueError)) as error: function(wrong)
        assert str(error.value).isprintable() and str(tmp_path) in str(error.value)
    with pytest.raises((OSError, ValueError)): check_writable_folder(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_must_not_be_written_is_refused_before_the_work(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OSError, match="cannot be written"): check_writable(tmp_path / "file")
    finally: tmp_path.chmod(0o755)


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "new" / "file")
    check_writable_folder(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


# --- what killed processes leave ---

@posix
def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_prepares_stays(tmp_path):
    code = """
with staging(sys.argv[1]) as folder:
    (folder / "weights").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(60)"""
    with child(code, tmp_path) as dead, child(code, tmp_path) as living:
        abandoned, held = Path(dead.stdout.readline().strip()), Path(living.stdout.readline().strip())
        dead.kill()
        dead.wait()
        assert abandoned.exists() and held.exists()
        atomic_write(tmp_path / "file", b"x")
        assert not abandoned.exists() and (held / "weights").exists()
        with staging(tmp_path) as own:
            remove_abandoned(tmp_path)
            assert own.exists()
        living.kill()
    remove_abandoned(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@posix
def test_only_folders_of_ours_are_cleared(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "dear").touch()
    (tmp_path / f"{PART}link").symlink_to("elsewhere")
    (tmp_path / f"{PART}file").touch()
    (tmp_path / "sscq-part-other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    atomic_write(tmp_path / "elsewhere" / "new", b"")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "elsewhere" / "new"])
    remove_abandoned(tmp_path / "absent")


@posix
def test_a_folder_taken_away_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock, times = files._lock, []
    def taken(folder):
        times.append(folder)
        if len(times) == 1: folder.rmdir()  # another process was quicker
        return lock(folder)
    monkeypatch.setattr(files, "_lock", taken)
    with staging(tmp_path) as folder: assert folder.exists() and folder != times[0]
    assert not parts(tmp_path)


@posix
def test_a_folder_held_by_a_cleaner_is_made_again(tmp_path, monkeypatch):
    lock, times = files._lock, []
    def held(folder):
        times.append(folder)
        return None if len(times) == 1 else lock(folder)
    monkeypatch.setattr(files, "_lock", held)
    with staging(tmp_path) as folder: assert folder != times[0]


@posix
@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.ENOSYS])
def test_without_locks_files_are_written_and_nothing_is_cleared(tmp_path, monkeypatch, number):
    import fcntl
    def unsupported(*args): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, "flock", unsupported)
    other = tmp_path / f"{PART}other"
    other.mkdir()
    assert atomic_write(tmp_path / "file", b"x").read_bytes() == b"x"
    assert parts(tmp_path) == [other]


def test_without_fcntl_files_are_written_and_nothing_is_cleared(tmp_path, monkeypatch):  # Windows
    monkeypatch.setattr(files, "fcntl", None)
    other = tmp_path / f"{PART}other"
    other.mkdir()
    assert atomic_write(tmp_path / "file", b"x").read_bytes() == b"x"
    assert parts(tmp_path) == [other]


@posix
def test_no_descriptor_stays_open(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")
    (tmp_path / f"{PART}dead").mkdir()
    for _ in range(20): atomic_write(tmp_path / "file", b"x")
    with pytest.raises(ZeroDivisionError): atomic_write(tmp_path / "file", lambda part: 1 / 0)
    assert len(os.listdir("/proc/self/fd")) == before


@posix
def test_a_second_interrupt_leaves_the_old_file(tmp_path):
    "Ctrl-C twice, at any moment"
    code = FORKED + """
file = atomic_write(sys.argv[1], bytes(100_000))
def write():
    try:
        for n in range(10 ** 6): atomic_write(file, os.urandom(1) * 100_000)
    except KeyboardInterrupt: pass
for i in range(30):
    pid = forked(write)
    for wait in (.01 + .001 * i, .0002 * i):
        time.sleep(wait)
        os.kill(pid, signal.SIGINT)
    os.waitpid(pid, 0)
    content = file.read_bytes()
    assert len(content) == 100_000 and len(set(content)) == 1, i
atomic_write(file, b"x")
print("whole")"""
    with child(code, tmp_path / "file", stderr=subprocess.DEVNULL) as process: assert process.stdout.read() == "whole\n"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- reading ---

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(plain, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=10)


@given(st.dictionaries(st.text(), json_values))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_json_objects_come_back(value): assert parse_json(json.dumps(value), "a") == value


@given(st.binary(max_size=60) | st.text(max_size=60) | json_values.map(json.dumps))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_anything_else_is_one_clear_line(text):
    try: assert isinstance(parse_json(text, "a\nfile"), dict)
    except ValueError as error:
        assert type(error) is ValueError and str(error).startswith(r"a\nfile is damaged") and str(error).isprintable() and len(str(error)) < 300


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": {"a": 1, "a": 2}}', "[" * 200_000, '{"a":' * 100_000, "9" * 5000,
                                  '{"a": ' + "9" * 5000 + "}", b"\xff", "", "null"])
def test_traps_of_json(text):
    with pytest.raises(ValueError, match="^a is damaged"): parse_json(text, "a")


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
tables = st.dictionaries(names, st.sampled_from([
    torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6, dtype=torch.int32), torch.zeros(()), torch.zeros(0), torch.ones(2, 3).T,
    torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bool)]), max_size=3)


@given(tables, tables, st.text(max_size=5), st.text(max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_checksum_tells_everything_apart(a, b, s, t):
    def plain(x): return {name: (str(v.dtype), tuple(v.shape), v.tolist()) for name, v in x.items()}
    assert (checksum(a, s) == checksum(b, t)) == (plain(a) == plain(b) and s == t)
    assert checksum(dict(reversed(a.items())), s) == checksum(a, s)


def test_tensors_come_back_with_their_texts(tmp_path):
    saved = {"x": torch.arange(6.).view(2, 3), "n": torch.tensor(5), "h": torch.ones(3, dtype=torch.bfloat16)}
    save_file(saved, tmp_path / "file", {"a": "b"})
    meta, tensors = read_tensors(tmp_path / "file")
    assert meta == {"a": "b"} and tensors.keys() == saved.keys() and all(torch.equal(tensors[k], saved[k]) for k in saved)
    save_file(saved, tmp_path / "plain")
    assert read_tensors(tmp_path / "plain")[0] == {}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_one_clear_line(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fi\nle")
        save_file({"x": torch.arange(4.)}, path, {"a": "b"})
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))): raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(raw[:data.draw(st.integers(0, len(raw)))]))
        try: read_tensors(path)
        except ValueError as error:
            assert type(error) is ValueError and str(error).isprintable() and r"fi\nle is damaged" in str(error) and len(str(error)) < 600


@posix
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="is not a file"): read_tensors(path)
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path / "absent", tmp_path / "link"):
        with pytest.raises(FileNotFoundError, match="is missing"): read_tensors(path)
