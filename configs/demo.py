"""The built-in demo set: drawn creatures, a small backbone trained with the experts."""

from ml_collections import ConfigDict

from dedn_jax.config import base_config


def get_config() -> ConfigDict:
    """A recipe for a small set and a backbone without stored weights, over `base.py`.

    Few images make few steps, so the learning rate is ten times the published one.
    """
    config = base_config()
    config.data.format = "demo"
    config.data.source = "images"
    config.data.groups = "data"
    config.picture.resize = 96
    config.picture.crop = 96
    config.backbone.name = "small"
    config.backbone.trained = True
    config.backbone.learning_rate = 3e-5
    config.loss.margin = 2.0
    config.loss.calibration_weight = 0.1
    config.optimizer.learning_rate = 1e-3
    config.train.epochs = 10  # the best step on validation classes is in the ninth
    config.train.balanced = False
    config.train.checkpoint_every = 100
    config.evaluate.batch_size = 240
    config.predict.region_mix = 0.8
    config.predict.expert_mix = 0.5
    return config
