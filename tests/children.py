"""Processes of their own without another import of torch, which costs two seconds each time: forked from a server that has imported the
library and nothing else, never computed and has one thread. For tests of what a process does; what a start of Python does, and what loads
what, needs a start of Python."""
import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER = r"""
import atexit, json, os, select, signal, socket, sys, threading, traceback

def serve(listener):
    "Answers requests for ever; returns in a child, with the code that it is to run"
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]: os._exit(0)  # whoever asked is gone
        line, _ = listener.accept()
        if os.fork():  # a keeper for each child, who waits for it
            line.close()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]: pass
            except ChildProcessError: pass
            continue
        data, fds, *_ = socket.recv_fds(line, 1 << 22, 3)
        while not data.endswith(b"\n"): data += line.recv(1 << 22)
        child = os.fork()
        if child:
            for fd in fds: os.close(fd)
            for fd in range(3): os.close(fd)  # else a reader waits for the keeper too
            line.sendall(b"%d\n" % child)
            line.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os._exit(0)
        line.close()
        listener.close()
        for n, fd in enumerate(fds):
            os.dup2(fd, n)
            os.close(fd)
        asked = json.loads(data)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.argv = ["-c", *asked["args"]]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return asked["code"]

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
import sscq.cli, sscq.core, sscq.index, torch._dynamo  # noqa: E401 (the last comes with any optimizer)
print("ready", flush=True)
code = serve(listener)
try: exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if status and not isinstance(stop.code, int): print(stop.code, file=sys.stderr)
except BaseException: status = traceback.print_exc() or 1
else: status = 0
threading._shutdown()  # waits for threads, as Python's own end does; which would then take half a second to free the library
atexit._run_exitfuncs()
for file in (sys.stdout, sys.stderr): file and file.flush()
os._exit(status)
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # as it is when the tests are collected
_server: list = []  # its process, its address


def _address() -> str:
    if not _server:
        folder = tempfile.TemporaryDirectory(prefix="sscq-fork-")  # a short name: an address has 107 bytes at most
        process = subprocess.Popen([sys.executable, "-c", SERVER, f"{folder.name}/s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT)
        atexit.register(_end)
        _server[:] = process, folder
        assert process.stdout.readline() == b"ready\n", "no server to fork from"
    return f"{_server[1].name}/s"


def _end():
    process, folder = _server
    process.stdin.close()
    process.wait()
    process.stdout.close()
    folder.cleanup()


class Forked:
    "As subprocess.Popen, of code to run: with `stdout` and `stderr` as texts to read, if they were asked for"
    def __init__(self, code: str, *args, stdout=None, stderr=None, cwd=None, env=None):
        self.args, self.stdout, self.stderr, self.returncode, fds, own = (code, *args), None, None, None, [], []
        for name, wanted in dict(stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr).items():
            if wanted == subprocess.PIPE:
                ours, theirs = os.pipe()
                setattr(self, name, os.fdopen(ours, "r", encoding="utf-8"))
                own.append(theirs)
            elif wanted == subprocess.DEVNULL: own.append(theirs := os.open(os.devnull, os.O_RDWR))
            else: theirs = wanted.fileno() if wanted is not None else {"stdout": 1, "stderr": 2}[name]
            fds.append(theirs)
        asked = dict(code=code, args=[str(a) for a in args], cwd=str(cwd or os.getcwd()), env=dict(env if env is not None else os.environ))
        self.line = socket.socket(socket.AF_UNIX)
        self.line.connect(_address())
        socket.send_fds(self.line, [b" "], fds)
        self.line.sendall(json.dumps(asked).encode() + b"\n")
        for fd in own: os.close(fd)
        self.said = self.line.makefile("rb", buffering=0)  # nothing is read ahead, so that select sees what is left
        self.pid = int(self.said.readline())

    def __enter__(self): return self
    def __exit__(self, *_):
        for file in (self.stdout, self.stderr): file and file.close()
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            late = not select.select([self.line], [], [], timeout)[0]
            if late: self.kill()
            self.returncode = int(self.said.readline())
            self.said.close()
            self.line.close()
            if late: raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int):  # not to a child that has ended: its number may be another's by now
        if self.returncode is None and not select.select([self.line], [], [], 0)[0]: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)


def started(code: str, *args, **kw) -> subprocess.Popen:
    "Where nothing forks"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], text=True, **kw)


Child = Forked if hasattr(os, "fork") else started


def run(code: str, *args, timeout: float = 120, **kw) -> subprocess.CompletedProcess:
    "Run code as `python -c` does; stdout and stderr come as texts, and are short"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with Child(code, *args, stdout=out, stderr=err, **kw) as child: code = child.wait(timeout)
        for file in (out, err): file.seek(0)
        return subprocess.CompletedProcess(child.args, code, out.read(), err.read())


COMMAND = "import sys; from sscq.cli import main; sys.argv[0] = 'sscq'; sys.exit(main())"


def sscq(*args, **kw) -> subprocess.CompletedProcess:
    "The command, as a shell calls it"
    return run(COMMAND, *args, **kw)


def script(path: Path, *args, **kw) -> subprocess.CompletedProcess:
    "Run a file as `python FILE` does"
    return run("import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')", path, *args, **kw)
