"""The three recipes: one code path, three sets of choices."""

from typing import Any

from tsic.options import Objective

# What the authors' public code does (`docs/paper.md`); `paper` differs where it must to work.
_RELEASE: dict[str, Any] = {
    "teacher": {
        "mapping": "uper-released",
        "channels": None,
        "prompt": "index",
        "gradient": "stop",
        "rounds": 1,
        "class_tokens": False,
        "mask_stride": 4,
        "lora_rank": 4,
        "trains_encoder": False,
        "warmup_steps": 501,  # the public code tests `iteration > 500`
        "ramp": 0.0,
        "ema": None,
    },
    "objective": {
        "teacher_weight": 1.0,
        "mask_weight": 0.0,
        "kl_weight": 5.0,
        "ensemble_weight": 1.0,
        "feature_weight": 1.0,
        "temperature": 5.0,
        "kl_where": "everywhere",
        "kl_average": "elements",
        "feature_loss": "mean_mse",
        "detach_teacher": False,
        "detach_ensemble": False,
        "ohem": True,
        "average": "all",
    },
}

RECIPES: dict[str, dict[str, Any]] = {
    "cycle": {},
    "paper": {
        **_RELEASE,
        "teacher": {**_RELEASE["teacher"], "mapping": "uper"},
        "objective": {**_RELEASE["objective"], "detach_teacher": True},
    },
    "release": _RELEASE,
}


def network_of(recipe: str) -> dict[str, Any]:
    """What a recipe tells `build_teacher`, its schedule left out."""
    teacher = RECIPES[recipe].get("teacher", {})
    return {key: teacher[key] for key in teacher.keys() - {"warmup_steps", "ramp", "ema"}}


def objective_of(recipe: str) -> Objective:
    """The loss weights of a recipe, as ``Cycle`` takes them."""
    return Objective(**RECIPES[recipe].get("objective", {}))
