"""The command line: `refusal-lightning COMMAND ...`; no logic of its own."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

from refusal_lightning import __version__
from refusal_lightning.cli.commands import COMMANDS
from refusal_lightning.cli.flags import HELP, take_common_flags
from refusal_lightning.cli.program import program
from refusal_lightning.errors import UserError
from refusal_lightning.io.console import messages_to_console, process_name
from refusal_lightning.io.files import full_disk
from refusal_lightning.io.text import one_line
from refusal_lightning.plugins import MEND, line_in_plugin, load_plugins

_INTERRUPTED = "interrupted; go on with the same command"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit status: 0 or the command's own, 2 for a user's mistake, 1 for the rest."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, 130)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning says nothing of it, and ends with 1
            return _fail(_INTERRUPTED, 130)
        raise
    except BrokenPipeError:
        raise
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _fail(*_explained(error))


def _run(arguments: Sequence[str]) -> int:
    flags = take_common_flags(arguments)
    if not flags.rest or flags.rest[0] in ("-h", "--help"):
        print(_overview())
        return 0 if flags.rest else 2
    if flags.rest[0] == "--version":
        print(__version__)
        return 0
    _stop_on_notice()
    command, rest = _command(flags.rest)
    from refusal_lightning.cli.parsing import load, parse  # what parses and checks takes longer than the overview

    with messages_to_console():
        load_plugins(flags.plugins)  # before the configuration is checked, which may name what they add
        target, values = parse(command, rest)
        status = load(target)(**values)
    return status if isinstance(status, int) else 0


def _explained(error: Exception) -> tuple[str, int]:
    """What went wrong, for the user, and the exit status."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError) and (full := full_disk(error)):
        return full, 1
    text = f"{type(error).__name__}: {one_line(error) or 'no message'}"
    if line := line_in_plugin(error):
        return f"{line}: {text}; {MEND}", 2
    return f"{text} (run again with --debug for the traceback)", 1


def leave_closed_pipe() -> None:
    """What is still to be printed goes nowhere if its reader has closed the pipe; Python would complain at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop_on_notice() -> None:
    """SIGUSR1, by which schedulers announce that a job will end, is SIGTERM by another name."""
    if hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command, of one word or two, and the arguments after it."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, list(arguments[words:])
    several = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if several:
        raise UserError(f"{arguments[0]!r} needs one of: {', '.join(several)}")
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(COMMANDS)}"
    raise UserError(f"unknown command {arguments[0]!r}{hint}")


def _overview() -> str:
    lines = [
        f"refusal_lightning {__version__}: the refusal direction of chat models, measured.",
        "",
        f"usage: {program()} COMMAND --config FILE [--section.key VALUE ...]",
        "",
        *(f"  {name:<13} {command.help}" for name, command in COMMANDS.items()),
        "",
        "COMMAND --help explains every key; COMMAND --print_config prints the configuration as read.",
        *HELP,
    ]
    return "\n".join(lines)


def _fail(message: str, status: int) -> int:
    where = f" in {name}" if (name := process_name()) else ""
    print(f"refusal_lightning: error{where}: {message}", file=sys.stderr, flush=True)
    return status
