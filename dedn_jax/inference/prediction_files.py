"""Predictions as text: a table to read, CSV and JSON; written as they come."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.errors import InputError
from dedn_jax.files import atomic_file, check_output
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.picture_progress import PictureProgress
from dedn_jax.inference.predict import predict
from dedn_jax.inference.predictions import Predictions
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.run import TrainingRun

STDOUT = Path("-")
JSON_END = b'], "skipped": '
_LEGEND = """
Of each picture the best classes, with probability and score; below them what attributes add to the
score of the first, over the mean of all classes, in each expert."""


def predict_to_files(
    run: TrainingRun,
    files: Sequence[str],
    candidates: Candidates,
    *,
    top: int,
    batch_size: int | None = None,
    json_file: Path | None = None,
    csv_file: Path | None = None,
    strict: bool = False,
) -> int:
    """Predicts pictures and writes what is found batch by batch.

    A table goes to standard output, unless JSON or CSV does. Pictures that cannot be used are named
    on standard error and skipped.

    Args:
      run: a finished run.
      files: pictures.
      candidates: the classes.
      top: how many classes a picture.
      batch_size: pictures computed at a time; None: `config.evaluate.batch_size`.
      json_file, csv_file: where to write as well; `STDOUT`, or None for nowhere.
      strict: end at the first picture that cannot be used.

    Returns:
      How many pictures were skipped.

    Raises:
      InputError: the run or its backbone cannot be used, or a picture with `strict`.
    """
    scorer = PictureScorer(run, batch_size)
    mixing = run.mixing()
    with ExitStack() as stack:
        outputs: list[Output] = []
        if json_file:
            about = {"run": with_addresses(str(run.workdir.path)), "mixing": mixing.to_json()}
            outputs.append(Json(stack.enter_context(output_file(json_file)), about))
        if csv_file:
            outputs.append(Csv(stack.enter_context(output_file(csv_file))))
        bar = stack.enter_context(PictureProgress(len(files), "predicting", strict=strict))
        if STDOUT not in (json_file, csv_file):
            outputs.append(Table(bar.say))
        for predictions in predict(scorer, files, candidates, mixing, top=top, skip=bar.skip):
            for output in outputs:
                output.write(predictions)
            bar.update(len(predictions))
        for output in outputs:
            output.end(bar.skipped)
    return len(bar.skipped)


class Output(Protocol):
    """Where predictions are written."""

    def write(self, predictions: Predictions) -> None:
        """Writes those of a batch."""

    def end(self, skipped: list[tuple[str, str]]) -> None:
        """Called once, with the pictures that were left out and why."""


class Table:
    """Blocks of lines, one for each picture."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        """`write` prints lines."""
        self._write, self._written = write, False

    def write(self, predictions: Predictions) -> None:
        self._write(str(predictions))
        self._written = True

    def end(self, skipped: list[tuple[str, str]]) -> None:
        """Says how to read it."""
        if self._written:
            self._write(_LEGEND)


class Csv:
    """A row for each of a picture's best classes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rows([["picture", "rank", "class", "seen", "score", "probability"]])

    def write(self, predictions: Predictions) -> None:
        p = predictions
        self._rows(
            [
                name,
                rank + 1,
                p.class_names[k],
                bool(p.seen[k]),
                p.scores[i, rank],
                p.probabilities[i, rank],
            ]
            for i, name in enumerate(p.pictures)
            for rank, k in enumerate(p.classes[i])
        )

    def end(self, skipped: list[tuple[str, str]]) -> None:
        """Pictures that were left out have no row."""

    def _rows(self, rows: Iterable[list[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        # A name that is not text is written as the bytes it has.
        self._file.write(text.getvalue().encode(errors="surrogateescape"))


class Json:
    """An object: what is given at first, then `pictures`, one a line, then `skipped`."""

    def __init__(self, file: BinaryIO, about: dict[str, Any]) -> None:
        self._file, self._first = file, True
        head = json.dumps(about)[1:-1]
        self._file.write(f'{{{head}, "pictures": ['.encode())

    def write(self, predictions: Predictions) -> None:
        for picture in predictions.to_json()["pictures"]:
            start = "\n" if self._first else ",\n"
            self._file.write(f"{start}{json.dumps(picture)}".encode())
            self._first = False

    def end(self, skipped: list[tuple[str, str]]) -> None:
        left_out = [{"picture": name, "reason": reason} for name, reason in skipped]
        self._file.write(b"\n" + JSON_END + f"{json.dumps(left_out)}}}\n".encode())


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears when it is complete, or standard output."""
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_file(path) as file:
        yield file


def check_outputs(json_file: Path | None, csv_file: Path | None) -> None:
    """Checks where predictions are to be written before there are any.

    Raises:
      InputError: as `check_output`; both are standard output, or it is closed.
    """
    if json_file == STDOUT and csv_file == STDOUT:
        raise InputError("--json=- and --csv=-: standard output takes one of them; name a file")
    if STDOUT in (json_file, csv_file) and sys.stdout is None:
        raise InputError("--json=- or --csv=-: standard output is closed; name a file")
    for path, suffix in ((json_file, ".json"), (csv_file, ".csv")):
        if path is not None and path != STDOUT:
            check_output(path, suffix)
