"""CUB, conventional zero-shot: the published recipe."""

from ml_collections import ConfigDict

from dedn_jax.config import base_config


def get_config() -> ConfigDict:
    """The published CUB ZSL constants over `base.py`."""
    config = base_config()
    config.data.path = "data/CUB/feature_map_ResNet_101_CUB.hdf5"
    config.data.groups = "cub"
    config.loss.margin = 3.0
    config.loss.calibration_weight = 0.18
    config.selection.metric = "t1"
    config.predict.region_mix = 0.6
    config.predict.expert_mix = 0.9
    return config
