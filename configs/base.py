"""What every recipe shares: the constants all six published recipes agree on, and our defaults.

Every field a command reads is here with its type; `--config.section.field=value` overrides it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The base of all recipes."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.source = "features"  # or "images": a backbone runs in the graph
    # published_hdf5; prepared (`dedn data build`); store (`dedn features`); demo, the drawn set.
    config.data.format = "published_hdf5"
    config.data.path = ""  # the file or folder; demo: a cache folder, "" for the usual one
    config.data.features = ""  # prepared, source "features": the store made from these pictures
    config.data.on_device = "auto"  # feature maps resident: auto, replicated, sharded, never
    config.data.workers = 0  # processes that decode pictures; 0: threads of this one
    config.data.word_vectors = ""  # .npy or pickled array; "" takes the data set's own
    config.data.dtype = "float32"  # of feature maps: float32, bfloat16, float16
    config.data.memory_map = False  # leave the features on disk and read each batch from there
    config.data.clip_negative_embeddings = False  # negative class-by-attribute entries become 0
    config.data.groups = (
        "single"  # cub, awa2, sun, sun_released, single, data, clusters:N, or 0-8,9-11;12-20
    )

    config.distribution = ConfigDict()
    config.distribution.strategy = "jit"  # over a mesh of all devices; or "pmap"
    config.distribution.attribute_shards = 1  # devices that share out the rows of attributes

    config.picture = ConfigDict()
    config.picture.resize = 448  # pixels, short side
    config.picture.crop = 448  # pixels, a square from the middle
    config.picture.augment = False  # while training: random part, mirrored at random
    config.picture.smallest_area = 0.08  # of the picture, for a random part
    config.picture.flip_probability = 0.5

    config.backbone = ConfigDict()
    config.backbone.name = "resnet101"  # resnet18 to 152, mobilenet_v1, small
    config.backbone.weights = ""  # .pth, .safetensors (torchvision's names) or .npz (Keras's)
    config.backbone.dtype = "float32"  # of its products: float32 or bfloat16
    config.backbone.trained = False  # fine-tuned with the experts, or frozen
    config.backbone.learning_rate = 1e-6  # its own, when trained

    config.model = ConfigDict()
    config.model.rank = 0  # h of a low-rank region score matrix; 0: full rank
    config.model.kernel = "auto"  # of attention pooling: xla, pallas (fused), or what wins here
    config.model.precision = "float32"  # of matrix products: float32, tensorfloat32, bfloat16

    config.loss = ConfigDict()
    config.loss.bias = 1.0  # d: added to unseen, taken from seen class scores
    config.loss.margin_aware = True
    config.loss.margin = 3.0  # t: taken off the true class
    config.loss.seen_margin = 1.0  # added to every seen class
    config.loss.calibration_weight = 0.0
    config.loss.agreement_weight = 0.1  # between the experts' class scores
    config.loss.alignment_weight = 0.001  # between the region and channel attribute scores
    config.loss.kl_weight = 0.0  # bidirectional KL between the experts' class scores
    config.loss.kl_temperature = 1.0
    config.loss.kl_stop_gradient = False  # hold each teacher side fixed

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.decay = 0.99
    config.optimizer.epsilon = 1e-8
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4

    config.train = ConfigDict()
    config.train.epochs = 80
    config.train.batch_size = 50
    config.train.balanced = True  # class-balanced sampling
    config.train.steps_per_call = 32  # in one program, where the feature maps are on the device
    config.train.compilation_cache = True  # .compilation_cache beside the work directory
    config.train.evaluate_every = 0  # steps; 0: once an epoch
    config.train.log_every = 10  # steps
    config.train.checkpoint_every = 500  # steps
    config.train.checkpoints_kept = 2  # besides the selected one

    config.selection = ConfigDict()
    config.selection.protocol = "validation"  # or "last", "test-best" (the published protocol)
    config.selection.metric = "harmonic_mean"  # or "t1"
    config.selection.refit = "retrain"  # or "continue": what happens on all of trainval
    config.selection.validation_classes = 0.2  # share of seen classes, where the data name none
    config.selection.validation_images = 0.2  # share of each other class's training images
    config.selection.continue_epochs = 0.25  # refit "continue": share of the selected epochs

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 100

    config.predict = ConfigDict()
    config.predict.region_mix = 0.8  # c_mix: the region branch's share of an attribute score
    config.predict.expert_mix = 0.9  # e_mix: the coarse expert's share of a class score
    return config
