"""Training into a run, and finished runs: what `dedn_jax.train` and `dedn_jax.open_run` give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config import Overrides
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import InputError, check_type
from dedn_jax.inference.candidates import Among, Candidates, NewClasses
from dedn_jax.inference.explain.explanation import Explanation, explain
from dedn_jax.inference.explain.look import look
from dedn_jax.inference.new_classes import metrics_among
from dedn_jax.inference.picture_files import PictureSource, as_sources
from dedn_jax.inference.predict import predict
from dedn_jax.inference.predictions import Predictions, joined
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.given import check_place, config_with
from dedn_jax.training.interrupt import StopRequest
from dedn_jax.training.protocol import train_run
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.workdir import Workdir


class Run(TrainingRun):
    """A run in a work directory: its config, data set, model, result, and what to do with them.

    What is not at hand is read when it is first asked for.

    Examples:
      >>> import dedn_jax
      >>> run = dedn_jax.open_run("runs/mine", dataset=dataset)
      >>> run.config.train.epochs, run.result["protocol"]
      (3, 'last')
      >>> run.model(dataset.inputs[dataset.test_unseen[:2]]).coarse.region.shape
      (2, 6)
      >>> run.scores.classes.coarse.region.shape == (len(run.scores.images), 8)
      True
    """

    @cached_property
    def candidates(self) -> Candidates:
        """The classes that predictions choose among; `with_new` adds classes to them.

        Raises:
          InputError: the data set cannot be loaded.
        """
        return Candidates.of_run(self)

    @cached_property
    def picture_scorer(self) -> PictureScorer:
        """The model with the selected parameters, from pictures.

        Raises:
          InputError: the run is not finished, or its features do not say how they were made; see
            `dedn_jax.inference.model.from_pictures`.
        """
        return PictureScorer(self)

    def predict(
        self,
        images: PictureSource | Sequence[PictureSource],
        classes: Candidates | NewClasses | None = None,
        among: Among = "all",
        top: int = 5,
    ) -> Predictions:
        """The most likely classes of pictures, and what both experts say of their attributes.

        Examples:
          >>> found = birds.predict(["jay.jpg"], {"griffin": [1, 0, 0, 1, 1, 0]}, among="unseen")
          >>> sorted(found.class_names[k] for k in found.classes[0])
          ['class 6', 'class 7', 'griffin']

        Args:
          images: a picture or several: paths of files or folders, the content of files, pictures of
            Pillow, or uint8 `[height, width, 3]` arrays of pixels of NumPy or JAX.
          classes: to choose among; or new classes to add to the run's, by their attributes (see
            `Candidates.with_new`); None: the run's.
          among: all of these classes, or only the seen or the unseen ones.
          top: how many classes a picture.

        Raises:
          InputError: the run is not finished, an argument, picture or class cannot be used, or the
            run's features do not say how they were made (see `picture_scorer`).
        """
        candidates = self._candidates(classes).only(among)
        sources = as_sources(images)
        found = predict(self.picture_scorer, sources, candidates, self.mixing(), top=top)
        return joined(list(found))

    def evaluate(
        self,
        params: nnx.State | None = None,
        *,
        classes: Candidates | NewClasses | None = None,
        calibrated: bool = False,
        batch_size: int | None = None,
    ) -> Metrics:
        """U, S, H and T1 in percent and AUSUC on the test sets, of `coarse`, `fine` and `fused`.

        Examples:
          >>> alone = run.evaluate()["fused"]["U"]
          >>> among_more = run.evaluate(classes={"griffin": [1, 0, 0, 1, 1, 0]})["fused"]["U"]
          >>> among_more <= alone
          True

        Args:
          params, calibrated, batch_size: as for `TrainingRun.evaluate`.
          classes: new classes to choose among as well, as for `predict`; they have no images, so
            that U and S can only fall.

        Raises:
          InputError: as there; or a class that cannot be used.
        """
        if classes is None:
            return super().evaluate(params, calibrated=calibrated, batch_size=batch_size)
        candidates = self._candidates(classes)
        calibration = self.calibrated() if calibrated else None
        fixed, scores = self.evaluate_with_scores(params, batch_size=batch_size)
        metrics, scores = metrics_among(self, candidates, scores, fixed)
        return calibration.apply(scores) if calibration else metrics

    def explain(
        self,
        picture: PictureSource,
        *,
        classes: Candidates | NewClasses | None = None,
        explained: str | None = None,
        against: str | None = None,
    ) -> Explanation:
        """Why the model gives a picture a class: the score taken apart, and where it looks.

        Examples:
          >>> found = birds.explain("jay.jpg")
          >>> bool(abs(found.score.total - found.scores[found.explained]) < 1e-5)
          True
          >>> [found.attribute_names[a] for a in found.score.leading(2)]
          ['attribute ...', 'attribute ...']

        Args:
          picture: a file's path or its content, a picture of Pillow, or `[height, width, 3]` uint8
            RGB pixels of NumPy or JAX.
          classes: as for `predict`.
          explained: name of the class to explain; None: the one with the best score.
          against: name of the class to compare it with; None: the best of the others.

        Raises:
          InputError: as `picture_scorer`; or a picture or name that cannot be used.
        """
        return explain(
            look(self.picture_scorer, picture),
            self._candidates(classes),
            self.mixing(),
            explained=explained,
            against=against,
        )

    def _candidates(self, classes: Candidates | NewClasses | None) -> Candidates:
        if isinstance(classes, Candidates):
            given, own = len(classes.attribute_names), self.outline.num_attributes
            if given != own:
                raise InputError(
                    f"classes of {given} attributes, but the run has {own}; take those of its own "
                    "`candidates`"
                )
            return classes
        return self.candidates if classes is None else self.candidates.with_new(classes)


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    dataset: GZSLDataset | None = None,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
) -> Run:
    """Runs or resumes a training.

    Model selection, `config.selection.protocol`:

    - `validation`: validation classes that training never sees act as unseen, a part of the other
      classes' images as seen. The best step there sets how long the final phase trains on all of
      trainval: from scratch for as many epochs (`refit=retrain`), or on from the selected
      parameters for a share of them (`refit=continue`). With the selected parameters, gamma and
      the mixes are calibrated there too (`calibrate`). The test sets are read once, at the end.
    - `last`: all of trainval for the whole recipe; the test sets are read once, at the end.
    - `test-best`: the published protocol: evaluates on the test sets all along and reports the
      best. Not a fair estimate; labelled as such wherever its numbers appear.

    Examples:
      >>> run = train(config, "runs/mine", dataset=dataset)
      >>> sorted(run.result["test"]["fused"])
      ['AUSUC', 'H', 'S', 'T1', 'U']

    Args:
      config: a checked config, see `dedn_jax.config.load_config`.
      workdir: directory of the run; an interrupted run in it goes on.
      dataset: to train on; None: the one that `config.data` names. Of one from arrays the run keeps
        no path: `open_run` is given it again.
      callbacks: see steps, evaluations and phases, in the main process alone.
      stop: makes the training save and raise `Interrupted`; None: nothing does, and Ctrl-C is a
        KeyboardInterrupt, after which the run goes on from its last checkpoint.

    Returns:
      The finished run.

    Raises:
      InputError: an argument of a wrong type, bad data, or a work directory of another run.
      Interrupted: `stop` asked for it; everything is saved.
    """
    check_type("config", config, ConfigDict, "what dedn_jax.load_config gives")
    check_type("callbacks", callbacks, Iterable, "a list of callbacks")
    callbacks = tuple(callbacks)
    for number, callback in enumerate(callbacks):
        expected = "an object of a class derived from dedn_jax.Callback"
        check_type(f"callbacks[{number}]", callback, Callback, expected)
    check_type("stop", stop, StopRequest | None, "a dedn_jax.StopRequest or None")
    check_place("workdir", workdir, dataset)
    run = Run(Workdir(workdir), config_with(config, dataset), dataset=dataset)
    train_run(run, callbacks=callbacks, stop=stop)
    return run


def open_run(
    path: str | Path,
    overrides: Overrides = (),
    *,
    dataset: GZSLDataset | None = None,
    predicting: bool = False,
) -> Run:
    """The run in a work directory.

    Examples:
      >>> run = open_run("runs/mine", dataset=dataset)
      >>> run.evaluate() == run.result["test"]
      True

    Args:
      path: the work directory.
      overrides: of fields that change no number, such as `data.path`; see `load_config`.
      dataset: the data set it was trained on, where it came from arrays; None: the one that its
        config names.
      predicting: overrides may also be of the fixed bias, the fixed mixes and the precision, to
        `evaluate` with; a calibration that the run has is left as it is.

    Raises:
      InputError: an argument of a wrong type, no run there, or an override that would make it
        another run.
    """
    check_place("path", path, dataset)
    workdir = Workdir(path)
    return Run(workdir, workdir.load_config(overrides, predicting=predicting), dataset=dataset)
