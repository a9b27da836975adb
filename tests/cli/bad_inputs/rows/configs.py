"""Configs and work directories."""

from __future__ import annotations

from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.published import published_fields


def _recipe(world: World, text: str, name: str = "recipe.py") -> list[str]:
    path = world.root / name
    path.write_text(text)
    return world.train(config=path)


def _base_with(line: str) -> str:
    return (
        "from dedn_jax.config import base_config\n"
        f"def get_config():\n    c = base_config()\n    {line}\n    return c\n"
    )


def _another_run(world: World) -> list[str]:
    path = world.run()
    return world.train_on(path, "--config.seed=3")


def _another_set(world: World) -> list[str]:
    path = world.run()
    world.hdf5(att=published_fields()["att"] * 2)
    return world.train_on(path)


def unfinished(world: World, *command: str) -> list[str]:
    world.run()
    return [*command, f"--workdir={world.root}/run"]


def _foreign(world: World) -> list[str]:
    (world.root / "run").mkdir()
    (world.root / "run" / "thesis.tex").write_text("x")
    return world.train_on(world.hdf5())


def _damaged_config(world: World) -> list[str]:
    world.run()
    (world.root / "run" / "config.json").write_text('{"seed": 0,')
    return ["evaluate", f"--workdir={world.root}/run"]


CONFIGS = [
    Bad(
        "recipe that ends the program",
        lambda w: _recipe(w, "import sys\ndef get_config():\n    sys.exit(0)\n", "ends.py"),
        "ends.py",
        "get_config() raised SystemExit: 0",
        "a ConfigDict",
    ),
    Bad(
        "recipe that ends the program when it is read",
        lambda w: _recipe(w, "raise SystemExit", "quits.py"),
        "quits.py",
        "running it raised SystemExit",
        "write it like configs/base.py",
    ),
    Bad(
        "steps to profile that end before they start",
        lambda w: w.train("--profile=20:10"),
        "--profile=20:10",
        "expected START:STOP",
        "such as 101:110",
    ),
    Bad(
        "steps of a sweep to profile that are no numbers",
        lambda w: ["sweep", *w.train("--profile=all", "--seeds=2")[1:]],
        "--profile=all",
        "expected START:STOP",
        "such as 101:110",
    ),
    Bad(
        "unknown field in a recipe",
        lambda w: _recipe(w, _base_with("c.train.epoch = 3")),
        "recipe.py",
        'Key "epoch" does not exist',
        'Did you mean "epochs"',
    ),
    Bad(
        "unknown field in a flag",
        lambda w: w.train("--config.train.epoch=3"),
        "recipe base: ",
        "unknown field config.train.epoch",
        "known fields: train.epochs",
    ),
    Bad(
        "field of another type",
        lambda w: _recipe(
            w,
            _base_with("c.unlock(); del c.train['epochs']; c.train.epochs = 'many'"),
        ),
        "recipe.py",
        "config.train.epochs='many'",
        "expected int",
    ),
    Bad(
        "value out of range",
        lambda w: w.train("--config.train.batch_size=0"),
        "recipe base: ",
        "config.train.batch_size=0",
        "expected at least 1",
    ),
    Bad(
        "optimiser that is not there",
        lambda w: w.train("--config.optimizer.name=adam"),
        "recipe base: ",
        "config.optimizer.name='adam'",
        "expected one of rmsprop, adamw, sgd, lion",
    ),
    Bad(
        "warm-up longer than the training",
        lambda w: w.train("--config.train.epochs=3", "--config.optimizer.warmup_epochs=3"),
        "recipe base: ",
        "config.optimizer.warmup_epochs=3.0",
        "expected 0 to below config.train.epochs=3",
    ),
    Bad(
        "trained on at a learning rate of 0",
        lambda w: w.train(
            "--config.optimizer.schedule=cosine", "--config.selection.refit=continue"
        ),
        "recipe base: ",
        "config.optimizer.final_fraction=0.0",
        "expected more than 0 with config.optimizer.schedule=cosine",
    ),
    Bad(
        "pictures from a file of features",
        lambda w: w.train_on(w.hdf5(), "--config.data.source=images"),
        "recipe base: ",
        "config.data.source='images'",
        "expected features with config.data.format=published_hdf5",
    ),
    Bad(
        "recipe that is no Python",
        lambda w: _recipe(w, "train:\n  epochs: 3\n"),
        "recipe.py",
        "running it raised SyntaxError",
        "write it like configs/base.py, with a function get_config()",
    ),
    Bad(
        "recipe of another kind",
        lambda w: _recipe(w, "train:\n  epochs: 3\n", "recipe.yaml"),
        "recipe.yaml",
        "not a Python file",
        "write it like configs/base.py, with a function get_config()",
    ),
    Bad(
        "recipe without get_config",
        lambda w: _recipe(w, "x = 1\n"),
        "recipe.py",
        "no function get_config()",
        "write it like configs/base.py, with a function get_config()",
    ),
    Bad(
        "no such recipe",
        lambda w: w.train(config="cup_gzsl"),
        "no recipe 'cup_gzsl'",
        "give a Python file, the config.json of a run, or one of",
        "cub_gzsl",
    ),
    Bad(
        "groups past the last attribute",
        lambda w: w.train_on(w.hdf5(), "--config.data.groups=0-2;3-9"),
        "config.data.groups",
        "'0-2;3-9': attribute 9, but the data have only 5 (0-based)",
        "list each of them once",
    ),
    Bad(
        "work directory of another run",
        _another_run,
        "/run",
        "seed=0 there, 3 now",
        "choose another directory, remove this one, or give the same command",
    ),
    Bad("work directory of other data", _another_set, "/run", "class_embeddings", "choose another"),
    Bad("work directory with files", _foreign, "/run", "is not empty", "choose another"),
    Bad(
        "evaluation before training",
        lambda w: unfinished(w, "evaluate"),
        "/run",
        "result.json: missing, the run is not finished",
        "train again with the same config and directory to resume it",
    ),
    Bad(
        "evaluation under another config",
        lambda w: unfinished(w, "evaluate", "--config.seed=4"),
        "config.json: config.seed",
        "is fixed for this run",
        "can be set: backbone.class_token, backbone.dtype, backbone.name, backbone.weights,",
    ),
    Bad(
        "evaluation of no run",
        lambda w: ["evaluate", f"--workdir={w.root}/run"],
        "/run",
        "holds no run (no config.json)",
        "give the directory of a `dedn train`",
    ),
    Bad("damaged config of a run", _damaged_config, "config.json", "JSON", "restore or remove it"),
    Bad(
        "export to another kind of file",
        lambda w: unfinished(w, "export", f"--out={w.root}/model.npz"),
        "model.npz",
        "model.npz: expected",
        "a name that ends in .pt",
    ),
]
