"""The command line: ``protoscene COMMAND``. Results go to stdout, everything else to stderr.

Exit codes: 0 done; 2 refused; 3 failed while running; 129, 130 and 143 interrupted; 70 a bug.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from protoscene.cli.interrupts import Interrupted, interruptible
from protoscene.cli.terminal import complain
from protoscene.errors import Failed, Refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # Threads of torch that wait by spinning are up to 30 times slower beside one busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    given = list(sys.argv[1:] if arguments is None else arguments)
    with _warnings_in_one_line(), interruptible():
        try:
            # Costs a tenth of a second, in which an interruption is to be as quiet as later.
            from protoscene.cli.command_line import parsed

            command = parsed(given)
            if isinstance(command, int):
                return command
            command.run()
            sys.stdout.flush()
            return 0
        except BrokenPipeError:  # the reader (head, less) has seen enough
            with contextlib.suppress(OSError):  # so that the flush at exit is quiet too
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except BaseException as error:
            code, problem = _outcome(error)
            if "--debug" in given:
                traceback.print_exc()
            complain("error", problem)
            return code


def _outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and message."""
    if isinstance(error, Refused):
        return 2, str(error)
    if isinstance(error, Failed):
        return 3, str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return 3, f"{place}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return 3, "out of memory; try a larger --voxel-size or a smaller --resolution"
    if isinstance(error, Interrupted):
        return error.code, str(error)
    kind = type(error).__name__
    return 70, f"internal error, please report it with the output of --debug: {kind}: {error}"


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        complain("warning", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
