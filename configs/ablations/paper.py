"""The ablations of the paper: what each expert, branch and group, and the distillation, adds."""


def get_points() -> dict[str, dict[str, object]]:
    """The fields that each row of the table changes, by its name."""
    experts, branches, distilled = "model.experts", "model.branches", "loss.distillation.name"
    return {
        "coarse expert alone": {experts: "coarse"},
        "fine expert alone": {experts: "fine"},
        "both, no distillation": {distilled: "none"},
        "both, agreement (published)": {distilled: "agreement"},
        "both, bidirectional KL": {distilled: "kl"},
        "region branches alone": {branches: "region"},
        "channel branches alone": {branches: "channel"},
        "fine expert of one group": {"data.groups": "single"},
    }
