"The command line: `python -m sscq`, and the command `sscq`. By hand, to be there before anything heavy is loaded"
import os
import signal
import sys


def leave(*_):
    os.write(2, b"sscq: stopped\n")
    os._exit(130)


def main() -> int:  # exit code
    # loading takes seconds; Ctrl-C in them is no traceback through the modules under way
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours: signal.signal(signal.SIGINT, leave)
    from sscq.cli import main
    if ours: signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__": sys.exit(main())
