"""What the page is about: a run's model, its classes, and the pictures it looked at lately."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.explain.look import Look, look
from dedn_jax.inference.predictions import Predictions, best_classes
from dedn_jax.inference.run import Run
from dedn_jax.serve.designs import Designs
from dedn_jax.serve.examples import example_pictures

_EXAMPLES = 12
_RECENT = 16  # pictures; attention over a large feature map takes 6 MB each


class Studio:
    """A finished run to look at pictures with; safe to share between threads.

    Args:
      run: the run.
      candidates: its classes; None: `run.candidates`.

    Attributes:
      run: the run.
      candidates: as given.
      mixing: how its attribute scores become class scores.
      examples: pictures to try.

    Raises:
      InputError: the run is not finished, or its model cannot be given pictures; see
        `dedn_jax.inference.model.from_pictures`.
    """

    def __init__(self, run: Run, candidates: Candidates | None = None) -> None:
        self.run = run
        self.mixing = run.mixing()
        self.candidates = run.candidates if candidates is None else candidates
        self._scorer = run.picture_scorer
        self.examples = example_pictures(run, _EXAMPLES)
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Compiles the program, so that the first picture need not wait for it."""
        side = self._scorer.transform.crop
        look(self._scorer, np.zeros((side, side, 3), np.uint8))

    def look(self, encoded: bytes) -> str:
        """Looks at a picture file's content; what it saw is kept for a while, in memory alone.

        Returns:
          What to `recall` it by. Nobody can guess it.

        Raises:
          InputError: not a picture, or one that cannot be used.
        """
        looked = look(self._scorer, encoded)
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._looks[token] = looked
            while len(self._looks) > _RECENT:
                self._looks.popitem(last=False)
        return token

    def recall(self, token: str) -> Look:
        """What was seen in a picture.

        Raises:
          InputError: it was forgotten for newer pictures.
        """
        with self._lock:
            if token not in self._looks:
                raise InputError("this picture is no longer in memory; drop it again")
            self._looks.move_to_end(token)
            return self._looks[token]

    def ranking(self, looked: Look, designs: Designs) -> Predictions:
        """All classes and the designed ones, best first.

        Raises:
          InputError: a designed class describes nothing.
        """
        candidates = designs.among(self.candidates)
        scores = looked.scores(candidates)
        return best_classes(scores, ["picture"], candidates, self.mixing, len(candidates.names))
