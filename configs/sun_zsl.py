"""SUN, conventional zero-shot: the published recipe."""

from ml_collections import ConfigDict

from dedn_jax.config import base_config


def get_config() -> ConfigDict:
    """The published SUN ZSL constants over `base.py`.

    The groups are those the published code really forms (`sun_released`); `sun` are the ones its
    comment means.
    """
    config = base_config()
    config.data.path = "data/SUN/feature_map_ResNet_101_SUN.hdf5"
    config.data.groups = "sun_released"
    config.model.rank = 128
    config.loss.margin = 2.0
    config.train.balanced = False
    config.selection.metric = "t1"
    config.predict.region_mix = 0.95
    config.predict.expert_mix = 0.3
    return config
