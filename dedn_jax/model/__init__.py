"""The paper's mathematics, without data or training.

attention.py: region and channel attention, pure functions. experts.py: the modules that hold the
parameters. groups.py: which attributes a subnetwork of the fine expert has. losses.py: the losses,
put together in training/objective.py. backbones/: from pictures to feature maps. kernels/: fused
attention pooling.
"""
