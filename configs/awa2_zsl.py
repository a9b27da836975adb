"""AWA2, conventional zero-shot: the published recipe."""

from ml_collections import ConfigDict

from dedn_jax.config import base_config


def get_config() -> ConfigDict:
    """The published AWA2 ZSL constants over `base.py`."""
    config = base_config()
    config.data.path = "data/AWA2/feature_map_ResNet_101_AWA2.hdf5"
    config.data.groups = "awa2"
    config.data.clip_negative_embeddings = True  # the published loader sets them to zero
    config.loss.margin = 2.0
    config.loss.calibration_weight = 0.11
    config.train.epochs = 20
    config.train.balanced = False
    config.selection.metric = "t1"
    config.predict.region_mix = 0.8
    config.predict.expert_mix = 0.5
    config.picture.resize = 224
    config.picture.crop = 224
    return config
