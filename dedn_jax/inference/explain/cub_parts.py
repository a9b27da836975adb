"""CUB's parts: which of its attributes and which of its annotated points belong to which.

Source: `attri_groups_8_layer.json` and `CAM_utils.get_IoU_Image` of the code of the Attribute
Prototype Network (Xu et al., arXiv 2008.08290, wenjiaXu/APN-ZSL). Attributes on size, shape and
primary colour belong to no part.
"""

from __future__ import annotations

# Points of `parts.txt` by part.
POINTS = {
    "head": ("beak", "crown", "forehead", "left eye", "nape", "right eye"),
    "breast": ("breast", "throat"),
    "belly": ("belly",),
    "back": ("back",),
    "wing": ("left wing", "right wing"),
    "tail": ("tail",),
    "leg": ("left leg", "right leg"),
}

# What stands before `::` in the names of a part's attributes.
ATTRIBUTES = {
    "head": (
        "has_bill_shape",
        "has_bill_length",
        "has_bill_color",
        "has_head_pattern",
        "has_eye_color",
        "has_forehead_color",
        "has_crown_color",
        "has_nape_color",
    ),
    "breast": ("has_breast_pattern", "has_breast_color", "has_throat_color"),
    "belly": ("has_belly_pattern", "has_belly_color", "has_underparts_color"),
    "back": ("has_back_pattern", "has_back_color", "has_upperparts_color"),
    "wing": ("has_wing_pattern", "has_wing_color", "has_wing_shape"),
    "tail": (
        "has_tail_shape",
        "has_tail_pattern",
        "has_upper_tail_color",
        "has_under_tail_color",
    ),
    "leg": ("has_leg_color",),
}

# The published mean leaves this one out.
NOT_IN_MEAN = "tail"
