"""Files of features in the published layout."""

from __future__ import annotations

import h5py
import numpy as np

from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.published import published_fields


def _plus_one(world: World) -> list[str]:
    fields = published_fields()
    names = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
    return world.train_on(world.hdf5(**{n: fields[n] + 1 for n in names}))


def _overlap(world: World) -> list[str]:
    fields = published_fields()
    both = np.append(fields["test_seen_loc"], fields["trainval_loc"][:2])
    return world.train_on(world.hdf5(test_seen_loc=both))


def _unseen_trained(world: World) -> list[str]:
    fields = published_fields()
    unseen = fields["test_unseen_loc"]
    return world.train_on(
        world.hdf5(
            trainval_loc=np.append(fields["trainval_loc"], unseen[:1]), test_unseen_loc=unseen[1:]
        )
    )


def _nan_att(world: World) -> list[str]:
    att = published_fields()["att"]
    att[2, 1] = np.nan
    return world.train_on(world.hdf5(att=att))


def _nan_feature(world: World) -> list[str]:
    maps = published_fields()["feature_map"]
    maps[5, 0, 0, 0] = np.nan
    return ["features", "import", str(world.hdf5(feature_map=maps)), f"--out={world.root}/store"]


def _truncated_hdf5(world: World) -> list[str]:
    path = world.hdf5()
    path.write_bytes(path.read_bytes()[:3000])
    return world.train_on(path)


def _external(world: World) -> list[str]:
    path = world.hdf5(labels=None)
    with h5py.File(path, "a") as file:
        file["labels"] = h5py.ExternalLink("/etc/passwd", "labels")
    return world.train_on(path)


def _channels_last(world: World) -> list[str]:
    maps = np.moveaxis(published_fields()["feature_map"], 1, 3)
    path = world.hdf5(feature_map=np.concatenate([maps] * 4, axis=3))
    return ["features", "import", str(path), f"--out={world.root}/store"]


HDF5 = [
    Bad(
        "maps with channels last",
        _channels_last,
        "maps.hdf5: feature_map",
        "looks like channels last",
        "store them as .transpose(0, 3, 1, 2)",
    ),
    Bad(
        "att transposed",
        lambda w: w.train_on(w.hdf5(att=published_fields()["att"].T)),
        "maps.hdf5",
        "att looks transposed",
        "store it as [classes, attributes]",
    ),
    Bad(
        "feature_map without width",
        lambda w: w.train_on(w.hdf5(feature_map=published_fields()["feature_map"][..., 0])),
        "maps.hdf5",
        "feature_map has shape (24, 8, 3)",
        "expected [images, channels, height, width]",
    ),
    Bad(
        "labels from 1",
        lambda w: w.train_on(w.hdf5(labels=published_fields()["labels"] + 1)),
        "maps.hdf5",
        "labels run from 1 to 6, expected 0 to 5",
        "they look 1-based: subtract 1",
    ),
    Bad("locations from 1", _plus_one, "maps.hdf5", "test_unseen_loc runs from", "subtract 1"),
    Bad(
        "no labels",
        lambda w: w.train_on(w.hdf5(labels=None)),
        "maps.hdf5",
        "labels is missing; the file holds att, feature_map",
        "see docs/reference/files.md for the layout",
    ),
    Bad(
        "no test_unseen_loc",
        lambda w: ["features", "import", str(w.hdf5(test_unseen_loc=None)), f"--out={w.root}/s"],
        "maps.hdf5",
        "test_unseen_loc is missing",
        "see docs/reference/files.md for the layout",
    ),
    Bad("HDF5 cut short", _truncated_hdf5, "maps.hdf5", "cannot be opened", "shorter than it says"),
    Bad(
        "text named .hdf5",
        lambda w: w.train_on(w.words("maps.hdf5", b"<html>404</html>\n")),
        "maps.hdf5",
        "not an HDF5 file: it is a web page",
        "set --config.data.path to the file with feature_map",
    ),
    Bad(
        "no such HDF5",
        lambda w: w.train_on(w.root / "none.hdf5"),
        "none.hdf5",
        "no such file",
        "set --config.data.path to the HDF5 file",
    ),
    Bad(
        "fewer feature maps than labels",
        lambda w: w.train_on(w.hdf5(feature_map=published_fields()["feature_map"][:-1])),
        "maps.hdf5",
        "feature_map has 23 images, labels has 24",
        "build the file again",
    ),
    Bad("NaN in att", _nan_att, "maps.hdf5", "att holds NaN", "build it again"),
    Bad("NaN in feature_map", _nan_feature, "maps.hdf5", "image 5", "again"),
    Bad("splits overlap", _overlap, "maps.hdf5", "2 images are in both", "must not overlap"),
    Bad(
        "unseen class trained on",
        _unseen_trained,
        "maps.hdf5",
        "class 3 has images in both trainval_loc and test_unseen_loc",
        "must not be trained on",
    ),
    Bad(
        "labels of fractions",
        lambda w: w.train_on(w.hdf5(labels=published_fields()["labels"] + 0.5)),
        "maps.hdf5",
        "labels holds values that are not whole numbers",
        "build it again",
    ),
    Bad("external link", _external, "maps.hdf5", "labels is a link", "copy it in"),
]
