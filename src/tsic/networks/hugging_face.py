"""Semantic-segmentation models of transformers, by hub id or local folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tsic.errors import CheckpointError, ConfigError, first_line, nearest
from tsic.networks import IMAGENET_MEAN, IMAGENET_STD, REFUSALS, Maps, Network, not_fetched

Channels = tuple[float, float, float]


def build_hugging_face(
    name: str, *, num_classes: int, weights: str, options: Mapping[str, object]
) -> Network:
    """Build a semantic-segmentation model of transformers from a hub id or a local folder.

    Args:
        name: Hub id or folder.
        num_classes: Classes ``K``; a classifier of another size is started afresh.
        weights: ``imagenet`` loads the weights stored under ``name``, ``none`` its architecture.
        options: Changes to the stored configuration; ``config`` replaces it, so that nothing is
            read or fetched.

    Returns:
        The network; its features are the encoder's stages. ``options["config"]`` then describes
        it completely.

    Raises:
        ConfigError: If the model is not for segmentation or gives no feature maps.
        CheckpointError: If it cannot be read or fetched, or its encoder's weights do not fit.
    """
    import transformers

    stored = options.get("config")
    changes = {key: value for key, value in options.items() if key != "config"}
    try:
        if isinstance(stored, Mapping):
            config = transformers.AutoConfig.for_model(**{**stored, **changes})
        else:
            config = transformers.AutoConfig.from_pretrained(name, **changes)
    except Exception as e:
        raise CheckpointError(not_fetched(f"the configuration of '{name}'", e)) from e
    known = {*type(config)().to_dict(), *config.attribute_map, "attn_implementation"}
    for key in changes.keys() - known:
        raise ConfigError(
            f"student.options: '{config.model_type}' has no {key}; {nearest(key, known)}"
        )
    config.num_labels = num_classes
    family = transformers.AutoModelForSemanticSegmentation
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if weights == "imagenet":
        model = _load_hugging_face(name, config, family)
        mean, std = _prepare(name, model)
    else:
        try:
            model = family.from_config(config, dtype=torch.float32)
        except REFUSALS as e:
            if "Unrecognized configuration class" in str(e):
                raise ConfigError(f"'{name}' is no semantic-segmentation model: {e}") from e
            reason = f"{type(e).__name__}: {first_line(e)}"
            raise ConfigError(f"'{name}' cannot be built ({reason}); check student.options") from e
    described = {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in {"transformers_version", "architectures", "id2label", "label2id", "dtype"}
    }
    return Network(
        model,
        _read_hugging_face,
        size_multiple=32,
        mean=mean,
        std=std,
        options={"config": described},
    )


def _load_hugging_face(name: str, config: Any, family: Any) -> Any:
    """Load stored weights; only layers outside the encoder may start afresh."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, report = family.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as e:
        raise CheckpointError(not_fetched(f"the weights of '{name}'", e)) from e
    finally:
        logging.set_verbosity(verbosity)
    fresh = set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}
    encoder = sorted(k for k in fresh if k.split(".")[0] in {model.base_model_prefix, "backbone"})
    if encoder:
        raise CheckpointError(
            f"the weights of '{name}' do not fit its encoder ({encoder[0]} and "
            f"{len(encoder) - 1} more); check student.options"
        )
    return model


def _prepare(name: str, model: Any) -> tuple[Channels, Channels]:
    """Mean and std of the images that stored weights were trained on; the model then takes RGB."""
    import transformers

    try:
        said = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return IMAGENET_MEAN, IMAGENET_STD  # most were; nothing says otherwise
    if getattr(said, "do_flip_channel_order", False):
        first = next(one for one in model.modules() if isinstance(one, nn.Conv2d))
        first.weight.data = first.weight.data.flip(1)
    if not getattr(said, "do_normalize", False):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _channels(said.image_mean or IMAGENET_MEAN), _channels(said.image_std or IMAGENET_STD)


def _channels(said: float | Sequence[float]) -> Channels:
    red, green, blue = [said] * 3 if isinstance(said, int | float) else said
    return float(red), float(green), float(blue)


def _read_hugging_face(model: Any, images: Tensor) -> Maps:
    """Run a transformers model and keep the hidden states that are feature maps."""
    answer = model(images, output_hidden_states=True)
    maps = tuple(state for state in answer.hidden_states or () if state.ndim == 4)
    if len(maps) < 2:
        raise ConfigError(
            f"'{model.config.model_type}' gives no feature maps; use segformer, mobilevit, "
            "mobilenet_v2 or upernet"
        )
    return answer.logits, maps
