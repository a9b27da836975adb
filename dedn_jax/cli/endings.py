"""How a job that raised ends: what it says, and its exit status."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from dedn_jax.errors import (
    InputError,
    OthersError,
    ProcessesError,
    one_line,
    tells_of_lost_process,
)
from dedn_jax.system_errors import remedy
from dedn_jax.training.interrupt import Interrupted

# How JAX names an environment variable that it cannot read.
_OF_ENVIRONMENT = re.compile(r"for (environment '|JAX flag )")

# Statuses with which all processes of a run end at the same time.
TOGETHER = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)


class Ending(NamedTuple):
    """What a job ends with.

    Attributes:
      line: to print, if any.
      status: to exit with.
      of_others: whether it ends because other processes of the run have.
    """

    line: str
    status: int
    of_others: bool = False


def ending_of(error: BaseException, several: bool) -> Ending:
    """The line to print, if any, and the exit status.

    0: done. 1: the training diverged, another process of the run ended or did not come, nothing
    got on, or pictures were skipped. 2: an input cannot be used; the message says what to do.
    128 + N: stopped by signal N with everything saved, so that a scheduler can tell an
    interruption from an end.

    Args:
      error: what was raised; raised again where it is no way for a job to end.
      several: whether the job is one process of several.
    """
    match error:
        case InputError():
            return Ending(str(error), 2)
        case Interrupted():
            return Ending(str(error), 128 + error.signal_number)
        case KeyboardInterrupt():
            return Ending("stopped", 128 + signal.SIGINT)
        case FloatingPointError() | ProcessesError():
            return Ending(str(error), 1, isinstance(error, OthersError))
        case UnicodeEncodeError() if "surrogates not allowed" in error.reason:
            # Python has a byte of a name that is not UTF-8 as half a pair of surrogates.
            name = error.object[max(0, error.start - 100) : error.end + 100]
            return Ending(f"{name!a}: a name that is not UTF-8; rename it", 2)
        case BrokenPipeError():
            # Whoever read standard output had enough, as `head` has.
            return Ending("", 128 + signal.SIGPIPE)
        case OSError():
            # Of a renaming the name that was wanted, not the temporary one.
            of = error.filename2 or error.filename
            name = f"{str(of)[:1000]}: " if of else ""
            advice = remedy(error)
            line = f"{name}{error.strerror or error}"
            line += f"; {advice}, and give the command again" if advice else ""
            return Ending(line, 2)
        case ValueError() if _OF_ENVIRONMENT.search(str(error)):
            return Ending(f"JAX: {one_line(error)}; see to the environment variables JAX_*", 2)
        case RuntimeError() if "Unable to initialize backend" in str(error):
            unknown = "known backends" in str(error)
            advice = (
                "see to the environment variable JAX_PLATFORMS"
                if unknown
                else "if another program has the device, end that, and give the same command again"
            )
            return Ending(f"JAX: {one_line(error)}; {advice}", 2 if unknown else 1)
        case RuntimeError() | ValueError() if several and (
            isinstance(error, RuntimeError) or tells_of_lost_process(error)
        ):
            # A collective operation raises it when another process has gone.
            line = (
                "another process of this run has ended, or cannot be reached "
                f"({one_line(error)}); see its output, and give the same command on all of them "
                "to go on from the last checkpoint"
            )
            return Ending(line, 1, of_others=True)
    raise error
