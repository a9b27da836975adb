"""What `dedn predict` is given; what it reads of classes is in tests/inference/test_predict.py."""

from __future__ import annotations

from tests.cli.bad_inputs.making import jpeg
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.published import ATTRIBUTES


def predict(world: World, *flags: str, picture: bytes | None = None) -> list[str]:
    """On a published file; no model is needed for what is refused before."""
    world.run()
    (world.root / "new.jpg").write_bytes(jpeg() if picture is None else picture)
    return ["predict", f"--workdir={world.root}/run", f"{world.root}/new.jpg", *flags]


def _classes(world: World, text: str, *flags: str) -> list[str]:
    """`--classes` with this file; ATTRIBUTES stands for the run's."""
    command = predict(world)
    attributes = ",".join(f"attribute {a}" for a in range(ATTRIBUTES))
    (world.root / "new.csv").write_text(text.replace("ATTRIBUTES", attributes))
    return [*command, f"--classes={world.root}/new.csv", *flags]


def _empty_folder(world: World) -> list[str]:
    (world.root / "pictures").mkdir()
    return [*predict(world), f"{world.root}/pictures"]


def _write(world: World, name: str) -> list[str]:
    return [*predict(world)[:2], f"--write-classes={world.root}/{name}"]


def _closed_output(world: World) -> list[str]:
    world.monkeypatch.setattr("sys.stdout", None)  # what `>&-` comes to
    return predict(world, "--json=-")


PREDICTIONS = [
    Bad(
        "prediction without pictures",
        lambda w: predict(w)[:2],
        "pictures",
        "no pictures: give files or folders",
        "--write-classes",
    ),
    Bad(
        "no such picture",
        lambda w: [*predict(w), f"{w.root}/none.jpg"],
        "none.jpg",
        "no such picture or folder",
        "see to its name",
    ),
    Bad(
        "folder without pictures",
        _empty_folder,
        "/pictures",
        "no pictures in it",
        "expected files that end in .jpg",
    ),
    Bad(
        "backbone that made other features",
        predict,
        "config.backbone.name=resnet101",
        "2048 channels and 196 regions, but the run was trained on 8 channels and 6 regions",
        "give what its features were made with: --config.backbone.name",
    ),
    Bad(
        "prediction by a backbone of no such name",
        lambda w: predict(w, "--config.backbone.name=vgg19"),
        "config.backbone.name='vgg19' is no backbone",
        "expected one of",
        "resnet18",
    ),
    Bad("no top class", lambda w: predict(w, "--top=0"), "--top", "0", "expected at least 1"),
    Bad(
        "both on standard output",
        lambda w: predict(w, "--json=-", "--csv=-"),
        "--csv=-",
        "standard output takes one of them",
        "name a file",
    ),
    Bad(
        "a standard output that is closed",
        _closed_output,
        "--json=-",
        "standard output is closed",
        "name a file",
    ),
    Bad(
        "JSON under another name",
        lambda w: predict(w, f"--json={w.root}/out.txt"),
        "out.txt",
        "expected a name",
        "ends in .json",
    ),
    Bad(
        "only the new classes, of which there are none",
        lambda w: predict(w, "--only"),
        "--only",
        "there are no new classes",
        "--classes=FILE.csv",
    ),
    Bad(
        "classes to write, and pictures",
        lambda w: predict(w, f"--write-classes={w.root}/c.csv"),
        "c.csv",
        "given with pictures",
        "give one or the other",
    ),
    Bad(
        "classes written under another name",
        lambda w: _write(w, "classes.txt"),
        "classes.txt",
        "expected a name",
        "ends in .csv",
    ),
    Bad(
        "no file of classes",
        lambda w: predict(w, f"--classes={w.root}/none.csv"),
        "none.csv",
        "no such file",
        "create it with a header name,<attribute>",
    ),
    Bad(
        "a device for a file of classes",
        lambda w: predict(w, "--classes=/dev/zero"),
        "/dev/zero",
        "expected a regular file",
        "a header name,<attribute>",
    ),
    Bad(
        "an attribute that is missing",
        lambda w: _classes(w, "name,attribute 0,attribute 4\nroc,1,1\n"),
        "new.csv",
        "3 of 5 attributes are missing: 'attribute 1', 'attribute 2', 'attribute 3'",
        "add a number for each",
    ),
    Bad(
        "an attribute that is unknown",
        lambda w: _classes(w, "name,ATTRIBUTES,crest\nroc,1,1,1,1,1,1\n"),
        "new.csv",
        "unknown attributes: 'crest'",
        "see to their spelling",
    ),
    Bad(
        "a class that is there already",
        lambda w: _classes(w, "name,ATTRIBUTES\nclass 3,1,1,1,1,1\n"),
        "new.csv",
        "class 'class 3' is one of the run's classes already",
        "give the new one another name",
    ),
    Bad(
        "a class of no attribute",
        lambda w: _classes(w, "name,ATTRIBUTES\nroc,0,0,0,0,0\n"),
        "new.csv",
        "class 'roc': all attributes are 0",
        "expected finite numbers",
    ),
    Bad(
        "a class with NaN",
        lambda w: _classes(w, "name,ATTRIBUTES\nroc,0,nan,0,0,1\n"),
        "new.csv",
        "line 2, column 'attribute 1': 'nan'",
        "write it like 0.5",
    ),
    Bad(
        "classes that are all seen",
        lambda w: _classes(w, "name,ATTRIBUTES\nroc,0,1,0,0,1\n", "--only", "--among=seen"),
        "among=seen",
        "none of the 1 classes is seen",
        "choose among all",
    ),
]
