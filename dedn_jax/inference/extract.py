"""From pictures to a feature store, shard by shard, on all devices and processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool
from ml_collections import ConfigDict

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.features.store.manifest import SHARD_BYTES, StorePlan
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import load_prepared, open_pictures
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.data.pipeline import Reading, evaluation_batches
from dedn_jax.data.prepared.reader import SPLITS
from dedn_jax.errors import InputError
from dedn_jax.model.backbones import Backbone
from dedn_jax.model.picture_model import backbone_maps
from dedn_jax.parallel import processes
from dedn_jax.parallel.agreement import check_agreement, check_shared
from dedn_jax.parallel.limits import LONGEST_TIMEOUT
from dedn_jax.parallel.mesh import local_layout
from dedn_jax.progress import progress
from dedn_jax.training.compilation_cache import compilation_cache
from dedn_jax.training.interrupt import Interrupted, StopRequest
from dedn_jax.training.network import feature_shape, load_backbone
from dedn_jax.version import code_fields


def extract_features(
    config: ConfigDict,
    out: Path,
    *,
    dtype: str,
    normalized: bool,
    shard_images: int = 0,
    stop: StopRequest | None = None,
) -> Path:
    """Runs the frozen backbone of `config.backbone` over all pictures of `config.data`.

    An interrupted extraction goes on with the shards that are missing. A shard is made of the same
    batches however often the work was interrupted, so that the store is the same to the byte.

    Args:
      config: which pictures, transform and backbone; `config.evaluate.batch_size` pictures are
        computed at a time.
      out: the store's folder; it has zeros for images in no split, whose pictures are not kept.
      dtype: of the stored values: float16, bfloat16 or float32.
      normalized: whether they are stored L2-normalised over channels.
      shard_images: pictures in a shard, what an interruption can cost each process; 0 for as many
        as about 64 MB hold, in whole batches, so that a device computes no padding.
      stop: ends the extraction after the batch in hand, with whole shards kept; None: nothing does.

    Returns:
      `out`.

    Raises:
      InputError: pictures, weights or folder that cannot be used, or a folder with another store.
      Interrupted: `stop` asked for it; whole shards are kept.
    """
    if not config.backbone.weights:
        raise InputError(
            "config.backbone.weights is empty; set it to a .pth, .safetensors or .npz file of "
            f"{config.backbone.name}"
        )
    prepared = load_prepared(config)
    pictures = open_pictures(prepared, config)
    backbone, weights = load_backbone(config)
    assert weights is not None
    plan = _plan(config, pictures, backbone, weights.sha256, dtype, normalized, shard_images)
    process, _ = processes.process()
    check_agreement("what they extract", code_fields() | dataclasses.asdict(plan))
    with (
        StoreWriter(out, plan, prepared.annotations, process) as writer,
        stop or StopRequest() as stop,
        compilation_cache(config),
    ):
        check_shared(out)
        _write_shards(writer, pictures, _kept(prepared.annotations), backbone, config, stop)
        processes.barrier("all shards are written", LONGEST_TIMEOUT)
        if process == 0:
            writer.finish()
    return out


def _plan(
    config: ConfigDict,
    pictures: Pictures,
    backbone: Backbone,
    sha256: str,
    dtype: str,
    normalized: bool,
    shard_images: int,
) -> StorePlan:
    """What the store is to hold; arguments as of `extract_features`, and the weights' hash."""
    shape = feature_shape(backbone, pictures.size)
    batch_size = min(config.evaluate.batch_size, len(pictures))
    image_bytes = shape.channels * shape.regions * np.dtype("float16").itemsize
    return StorePlan(
        images=len(pictures),
        channels=shape.channels,
        grid=shape.grid,
        dtype=dtype,
        normalized=normalized,
        shard_images=shard_images or batch_size * max(1, SHARD_BYTES // image_bytes // batch_size),
        pictures=pictures.digest,
        transform=pictures.transform.fixed(),
        backbone={
            "name": config.backbone.name,
            "sha256": sha256,
            "dtype": config.backbone.dtype,
        }
        | ({"class_token": True} if shape.class_token else {}),
        origin="extracted",
    )


def _kept(annotations: Annotations) -> Bool[np.ndarray, " images"]:
    """Whether an image is in a split: a prepared set stores the pictures of no others."""
    kept = np.zeros(len(annotations.labels), bool)
    kept[np.concatenate([getattr(annotations, split) for split in SPLITS])] = True
    return kept


def _write_shards(
    writer: StoreWriter,
    pictures: Pictures,
    kept: np.ndarray,
    backbone: Backbone,
    config: ConfigDict,
    stop: StopRequest,
) -> None:
    process, num_processes = processes.process()
    own = range(process, writer.plan.num_shards, num_processes)
    missing = writer.missing(process, num_processes)
    total = sum(len(writer.image_range(shard)) for shard in own)
    left = sum(len(writer.image_range(shard)) for shard in missing)
    bar = progress(total, "extracting", "picture", initial=total - left)
    stored = total - left
    ranges = [writer.image_range(shard) for shard in missing]
    maps = _computed(pictures, kept, backbone, config, ranges)
    with bar:
        for shard, images in zip(missing, ranges, strict=True):
            features = np.empty(writer.plan.shard_shape(shard), np.float32)
            done = 0
            while done < len(features) and not stop.signal_number:
                part = next(maps)
                features[done : done + len(part)] = part
                done += len(part)
                bar.update(len(part))
            if done == len(features):
                features[~kept[images.start : images.stop]] = 0
                writer.write(shard, features)
                stored += done
            if stop.signal_number:
                raise Interrupted(
                    stop.signal_number,
                    f"stopped; {stored} of {total} pictures are stored: give the same command to "
                    "resume",
                )


def _computed(
    pictures: Pictures,
    kept: np.ndarray,
    backbone: Backbone,
    config: ConfigDict,
    ranges: list[range],
) -> Iterator[np.ndarray]:
    """Feature maps of all images of `ranges`, in batches none of which spans two ranges.

    Of images that are not `kept` those of another.
    """
    definition, values = nnx.split(backbone)
    # Processes divide the shards: each works on its own devices.
    layout = local_layout()
    values = layout.replicate(values)

    @jax.jit
    def compute(values: nnx.State, images: jax.Array) -> jax.Array:
        return backbone_maps(nnx.merge(definition, values), images)

    largest = max((len(r) for r in ranges), default=1)
    size, reading = min(config.evaluate.batch_size, largest), Reading(config.data.workers)
    counts = [min(size, len(r) - start) for r in ranges for start in range(0, len(r), size)]
    # Every range is padded to whole batches; the padding is dropped below.
    ends = [r.start + -(-len(r) // size) * size for r in ranges]
    filled = [np.arange(r.start, end).clip(max=r[-1]) for r, end in zip(ranges, ends, strict=True)]
    images = np.concatenate(filled) if filled else np.zeros(0, np.int64)
    images = np.where(kept[images], images, np.argmax(kept))
    waiting: tuple[jax.Array, int] | None = None
    batches = evaluation_batches(pictures, images, size, reading)
    for (inputs, _), count in zip(batches, counts, strict=True):
        # One batch is computed while the one before it is fetched and written.
        computed = compute(values, layout.shard_batch(inputs, size)), count
        if waiting:
            yield np.asarray(waiting[0])[: waiting[1]]
        waiting = computed
    if waiting:
        yield np.asarray(waiting[0])[: waiting[1]]
