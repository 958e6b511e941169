"Children of the server that tests fork from answer as a start of Python would."
import os
import signal
import subprocess
import sys

import children
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
CODE = """
import os, sys
print(__name__, sys.argv[1:], os.path.basename(os.getcwd()), os.environ["SSCQ_WHO"], flush=True)
print("to the other", file=sys.stderr)
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "sys.exit('said')", "raise KeyError('x')", "os.kill(os.getpid(), 9)", "os._exit(4)",
                                 "import threading; threading.Timer(.1, print, ['late']).start()", "import atexit; atexit.register(print, 'at the end')"])
def test_a_child_ends_as_python_does(tmp_path, end):
    kw = dict(cwd=tmp_path, env=os.environ | {"SSCQ_WHO": "me"})
    forked = children.run(CODE.format(end=end), 1, "two words", **kw)
    started = subprocess.run([sys.executable, "-c", CODE.format(end=end), "1", "two words"], capture_output=True, text=True, **kw)
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout) and f"['1', 'two words'] {tmp_path.name} me" in forked.stdout
    first_and_last = [(lines[0], lines[-1]) for lines in (forked.stderr.splitlines(), started.stderr.splitlines())]
    assert first_and_last[0] == first_and_last[1]


def test_a_child_can_be_read_interrupted_and_killed():
    code = "import time\ntry:\n print('there', flush=True)\n time.sleep(60)\nexcept KeyboardInterrupt: print('heard')"
    for number, ended, last in ((signal.SIGINT, 0, "heard\n"), (signal.SIGKILL, -9, "")):
        with children.Child(code, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == "there\n"
            child.send_signal(number)
            assert child.stdout.read() == last
        assert child.returncode == ended


def test_a_child_that_hangs_is_ended():
    with pytest.raises(subprocess.TimeoutExpired): children.run("import time; time.sleep(60)", timeout=.2)


def test_the_library_is_loaded_and_nothing_is_checked_or_computed():
    said = children.run("import os, sys; print('sscq.core' in sys.modules, 'beartype' in sys.modules, len(os.listdir('/proc/self/task')))").stdout
    assert said == "True False 1\n" or not os.path.exists("/proc/self/task")


def test_a_command_and_a_script(tmp_path):
    assert children.sscq("--version").stdout.startswith("sscq ")
    (tmp_path / "script.py").write_text("import sys; print(__name__, sys.argv[1:], __file__.endswith('script.py')); sys.exit(2)")
    done = children.script(tmp_path / "script.py", "a")
    assert (done.returncode, done.stdout) == (2, "__main__ ['a'] True\n")
