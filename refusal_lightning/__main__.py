"""The program: `refusal-lightning COMMAND ...`, or `python -m refusal_lightning COMMAND ...`."""

import gc
import signal
import sys

from refusal_lightning.cli import leave_closed_pipe, main


def run() -> int:
    """One command, to the exit status of the program."""
    # The libraries' imports make a million objects that stay to the end. Looking among them for garbage every 700
    # objects, and once more on the way out, took a fourth of the time of a stage that finds its work done.
    gc.set_threshold(10_000, 10, 10)
    try:
        status = main()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        status = 128 + signal.SIGPIPE
    finally:
        leave_closed_pipe()
    gc.freeze()
    return status


if __name__ == "__main__":
    sys.exit(run())
