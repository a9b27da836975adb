"""Predictions by several processes: each takes a share of the pictures, and writes of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dedn_jax.buckets.outputs import fetch_part, output_address, send_part
from dedn_jax.errors import InputError
from dedn_jax.files import atomic_file
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.prediction_files import JSON_END, STDOUT, predict_to_files
from dedn_jax.parallel import processes
from dedn_jax.parallel.agreement import check_agreement, check_shared
from dedn_jax.parallel.limits import LONGEST_TIMEOUT
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.workdir import agreed_fields


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What the processes write in place of a file, beside it."""

    file: Path
    count: int

    def of(self, process: int) -> Path:
        return self.file.with_name(f".{self.file.name}.{process}-of-{self.count}")

    @contextlib.contextmanager
    def joined(self) -> Iterator[tuple[BinaryIO, list[BinaryIO]]]:
        """The file, which appears when it is complete, and the parts, which are then removed."""
        paths = [self.of(process) for process in range(self.count)]
        for path in paths[1:]:
            fetch_part(path)
        with contextlib.ExitStack() as stack:
            whole = stack.enter_context(atomic_file(self.file))
            yield whole, [stack.enter_context(path.open("rb")) for path in paths]
        for path in paths:
            path.unlink()


def predict_by_processes(
    run: TrainingRun,
    files: Sequence[str],
    candidates: Candidates,
    *,
    json_file: Path | None,
    csv_file: Path | None,
    **options: Any,
) -> int:
    """`predict_to_files` by all processes of a run; the files are those of one process.

    Args:
      run, files, candidates: as there, the same in all processes.
      json_file, csv_file: as there, in a bucket or a folder that all processes share; not standard
        output.
      options: the rest, as there.

    Returns:
      How many pictures were skipped, by the process that skipped most.

    Raises:
      InputError: as there; or processes that do not agree, or standard output as a file.
    """
    process, count = processes.process()
    if count == 1:
        return predict_to_files(
            run, files, candidates, json_file=json_file, csv_file=csv_file, **options
        )
    if STDOUT in (json_file, csv_file):
        raise InputError("--json=- or --csv=-: several processes write to a file; name one")
    names = hashlib.sha256(b"\0".join(os.fsencode(file) for file in files)).hexdigest()
    pictures = {"pictures": len(files), "their names": names, "candidates": candidates.names}
    common = agreed_fields(run.config, run.outline.fingerprint())
    places = {"--json": _place(json_file), "--csv": _place(csv_file)}
    check_agreement("what they predict", common | pictures | places | options)
    for file in (json_file, csv_file):
        if file and not output_address(file):
            check_shared(file.parent)
    outputs = [_Parts(file, count) if file else None for file in (json_file, csv_file)]
    own = [parts.of(process) if parts else None for parts in outputs]
    share = files[len(files) * process // count : len(files) * (process + 1) // count]
    skipped = predict_to_files(run, share, candidates, json_file=own[0], csv_file=own[1], **options)
    for file in own:
        if file and process:
            send_part(file)
    # A share may take hours longer than another; the first collective operation of CPUs, however,
    # gives the others 30 s to come.
    processes.barrier("all shares are predicted", LONGEST_TIMEOUT)
    skipped = processes.max_over_processes(skipped)
    if processes.is_main():
        for parts, join in zip(outputs, (_join_json, _join_csv), strict=True):
            if parts:
                with parts.joined() as (whole, files_of_parts):
                    join(whole, files_of_parts)
    processes.barrier("the predictions are joined")
    return skipped


def _place(file: Path | None) -> str:
    """Where an output goes, as far as it is the same for all processes."""
    return output_address(file) or "a folder, not a bucket" if file else "none"


def _join_csv(whole: BinaryIO, parts: list[BinaryIO]) -> None:
    for number, part in enumerate(parts):
        head = part.readline()
        if number == 0:
            whole.write(head)
        whole.writelines(part)


def _join_json(whole: BinaryIO, parts: list[BinaryIO]) -> None:
    skipped: list[Any] = []
    start = b""
    for number, part in enumerate(parts):
        head = part.readline()
        if number == 0:
            whole.write(head.rstrip(b"\n"))
        for line in part:
            if line.startswith(JSON_END):
                skipped += json.loads(line[len(JSON_END) :].rstrip(b"}\n"))
                break
            whole.write(start + b"\n" + line.rstrip(b",\n"))
            start = b","
    whole.write(b"\n" + JSON_END + json.dumps(skipped).encode() + b"}\n")
