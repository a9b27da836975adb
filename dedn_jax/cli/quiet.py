"""What libraries print beside an error that is reported in one line, left out."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import Any

# For the process that releases shared memory after a forced end, and warns that it does.
_OF_SHARED_MEMORY = "ignore:resource_tracker:UserWarning"


def quiet_libraries() -> None:
    """Leaves out what libraries print beside an error that is reported in one line."""
    with contextlib.suppress(ImportError):  # `dedn info` runs where packages are missing
        from absl import logging as absl_logging

        # Orbax logs an error, with its stack trace, and raises it.
        absl_logging.set_verbosity(absl_logging.FATAL)
    # Of a checkpoint that cannot be read or written, one part's error is raised; asyncio logs those
    # of all others.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # Of a damaged TIFF.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    if _OF_SHARED_MEMORY not in sys.warnoptions:
        sys.warnoptions.append(_OF_SHARED_MEMORY)
    sys.unraisablehook = _without_late_results
    # Of compiled programs that cannot be kept, on a full disk: they are compiled again.
    warnings.filterwarnings("ignore", message="Error .* persistent compilation cache entry")
    # Pillow warns of a picture that is refused for its size.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    # What it has to say of damaged metadata names no file.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    # Figures go to files; a notebook's backend, which its terminals inherit, may not be installed.
    os.environ["MPLBACKEND"] = "agg"
    # Matplotlib's font has no Chinese, for one; names are whole in HTML and JSON.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")


def _without_late_results(unraisable: Any) -> None:
    """TensorStore's threads have results for an event loop that ended with the first error."""
    trace = unraisable.exc_traceback
    if trace is None or trace.tb_frame.f_code.co_name != "call_soon_threadsafe":
        sys.__unraisablehook__(unraisable)
