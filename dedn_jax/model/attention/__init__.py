"""Region and channel attention: folded rows, pooled over a feature map."""

from dedn_jax.model.attention.pooling import (
    AttentionWeights,
    attention_pool,
    attention_weights,
    dual_attention,
    dual_attention_weights,
)
from dedn_jax.model.attention.rows import BranchRows, factor_dtype, stack_rows

__all__ = [
    "AttentionWeights",
    "BranchRows",
    "attention_pool",
    "attention_weights",
    "dual_attention",
    "dual_attention_weights",
    "factor_dtype",
    "stack_rows",
]
