"""Outputs that would be written over a part of a run, a store or a prepared set."""

from __future__ import annotations

from pathlib import Path

from tests.cli.bad_inputs.rows.configs import unfinished
from tests.cli.bad_inputs.rows.predictions import predict
from tests.cli.bad_inputs.rows.word_vectors import glove
from tests.cli.bad_inputs.world import Bad, World


def _vectors(world: World, out: Path) -> list[str]:
    command = glove(world, b"blue 1 2\nwing 3 4\n")
    return [f"--out={out}" if a.startswith("--out=") else a for a in command]


def _sweep_json(world: World) -> list[str]:
    (world.root / "sweep").mkdir()
    (world.root / "sweep" / "sweep.json").write_text("{}")
    return unfinished(world, "evaluate", f"--json={world.root}/sweep/result.json")


def _run_row(name: str, job: str, flag: str, file: str) -> Bad:
    return Bad(
        f"{name} over a part of a run",
        lambda w: unfinished(w, *job.split(), f"{flag}={w.root}/run/{file}"),
        f"run/{file}",
        "belongs to the run in",
        "choose another name",
    )


OUTPUTS = [
    _run_row("evaluate --json", "evaluate", "--json", "config.json"),
    _run_row("evaluate --scores", "evaluate", "--scores", "final/scores.npz"),
    _run_row("predict --write-classes", "predict", "--write-classes", "validation/classes.csv"),
    _run_row("export", "export", "--out", "tensorboard/model.pt"),
    Bad(
        "prediction over a run's result",
        lambda w: predict(w, f"--json={w.root}/run/result.json"),
        "run/result.json",
        "belongs to the run in",
        "choose another name",
    ),
    Bad(
        "plan over a run's environment",
        lambda w: ["plan", "--config=cub_gzsl", f"--json={w.run().parent}/run/environment.json"],
        "run/environment.json",
        "belongs to the run in",
        "choose another name",
    ),
    Bad(
        "comparison over a run's data set",
        lambda w: ["compare", "--reference-dir=x", f"--json={w.run().parent}/run/dataset.json"],
        "run/dataset.json",
        "belongs to the run in",
        "choose another name",
    ),
    Bad(
        "numbers over a sweep's result",
        _sweep_json,
        "sweep/result.json",
        "belongs to the sweep in",
        "choose another name",
    ),
    Bad(
        "word vectors in a store",
        lambda w: _vectors(w, w.store() / "vectors.npy"),
        "store/vectors.npy",
        "belongs to the feature store in",
        "choose another name",
    ),
    Bad(
        "contact sheets in a prepared set",
        lambda w: ["data", "show", str(w.prepared()), f"--out={w.root}/prepared"],
        "page-1.png",
        "belongs to the prepared set in",
        "choose another name",
    ),
]
