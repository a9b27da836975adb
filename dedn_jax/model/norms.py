"""The least norm by which vectors are divided to normalise them."""

# As published, of `torch.nn.functional.normalize`: what is all 0 stays 0.
MIN_NORM = 1e-12
