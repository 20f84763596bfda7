"""Encoder-decoders of segmentation_models_pytorch, with its own encoders or timm's."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from tsic.errors import CheckpointError, ConfigError, nearest
from tsic.networks import IMAGENET_MEAN, IMAGENET_STD, REFUSALS, Maps, Network, not_fetched


@dataclass(frozen=True)
class _Decoder:
    """What one decoder of segmentation_models_pytorch accepts."""

    strides: tuple[int, ...]
    """Output strides of the encoder that it works with; the first is our default."""
    stride_key: str = "output_stride"
    minimum_cells: int = 1
    """Smallest side of the coarsest feature map."""


# FPN, Linknet, MAnet and U-Net++ double each map, so their encoder must halve it every time.
_DECODERS: Mapping[str, _Decoder] = {
    "deeplabv3": _Decoder((8, 16), "encoder_output_stride"),
    "deeplabv3plus": _Decoder((16, 8), "encoder_output_stride"),
    "fpn": _Decoder((32,)),
    "linknet": _Decoder((32,)),
    "manet": _Decoder((32,)),
    "pan": _Decoder((16, 32), "encoder_output_stride", minimum_cells=8),
    "pspnet": _Decoder((8, 16, 32)),
    "segformer": _Decoder((32, 16, 8)),
    "unet": _Decoder((32, 16, 8)),
    "unetplusplus": _Decoder((32,)),
    "upernet": _Decoder((32, 16, 8)),
}
SMP_NAMES = tuple(_DECODERS)
_RESERVED = {"encoder_name", "encoder_weights", "in_channels", "classes", "upsampling"}
_RESERVED |= {"activation", "aux_params", "encoder_output_stride", "output_stride", "kwargs"}


def build_smp(
    name: str,
    *,
    num_classes: int,
    encoder: str,
    weights: str,
    output_stride: int | None,
    options: Mapping[str, object],
) -> Network:
    """Build an encoder-decoder of segmentation_models_pytorch whose logits stay at native stride.

    Args:
        name: One of `SMP_NAMES`.
        num_classes: Classes ``K``.
        encoder: An encoder of the library or any timm network (``tu-`` is added where needed).
        weights: ``imagenet`` or ``none``.
        output_stride: Stride of the encoder's last stage; None for the architecture's usual one.
        options: Further arguments of the library's class, such as ``decoder_channels``.

    Returns:
        The network; its features are the encoder's stages from stride 4 on.

    Raises:
        ConfigError: If encoder, stride or an option does not go with the architecture.
        CheckpointError: If the ImageNet weights cannot be fetched.
    """
    import segmentation_models_pytorch as smp

    decoder = _DECODERS[name]
    stride = _check_stride(name, output_stride)
    encoder = _resolve_encoder(encoder)
    model_class = smp.MODEL_ARCHITECTURES_MAPPING[name]
    parameters = inspect.signature(model_class.__init__).parameters
    _check_options(name, encoder, options, set(parameters) - _RESERVED - {"self"})
    arguments: dict[str, object] = {"encoder_name": encoder, "classes": num_classes}
    if "upsampling" in parameters:
        arguments["upsampling"] = 1
    if len(decoder.strides) > 1 and (stride < 32 or decoder.stride_key in parameters):
        arguments[decoder.stride_key] = stride
    if name == "pspnet":  # the library's default stops at ResNet stage 2; the paper's does not
        arguments["encoder_depth"] = 5
    arguments |= options
    try:
        model = model_class(encoder_weights=None, **arguments)
    except REFUSALS as e:
        message = (
            f"student '{name}' cannot be built on encoder '{encoder}': {e or type(e).__name__}"
        )
        raise ConfigError(f"{message}; {_other_strides(name, stride)}") from e
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if weights == "imagenet":
        # It warns of the classifier, which no student takes.
        logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
        try:
            fetched = True if encoder.startswith("tu-") else "imagenet"
            model = model_class(encoder_weights=fetched, **arguments)
            pretrained = smp.encoders.get_preprocessing_params(encoder)
        except Exception as e:
            message = not_fetched(f"ImageNet weights of '{encoder}'", e)
            way_out = "or set student.weights to none to train from scratch"
            raise CheckpointError(f"{message}, {way_out}") from e
        mean, std = tuple(pretrained["mean"]), tuple(pretrained["std"])
    coarsest = model.encoder.output_stride
    return Network(
        model,
        _read_smp,
        size_multiple=coarsest,
        minimum_px=coarsest * decoder.minimum_cells,
        mean=mean,
        std=std,
        options=options,
    )


def _read_smp(model: Any, images: Tensor) -> Maps:
    """Run encoder, decoder and head; keep the encoder's stages from stride 4 on."""
    stages = model.encoder(images)
    logits = model.segmentation_head(model.decoder(list(stages)))
    return logits, tuple(stages[2:])


def _check_stride(name: str, output_stride: int | None) -> int:
    """Return the encoder stride to use, or say which ones the architecture has."""
    strides = _DECODERS[name].strides
    if output_stride is None:
        return strides[0]
    if output_stride not in strides:
        possible = ", ".join(map(str, sorted(strides)))
        raise ConfigError(
            f"student.output_stride of '{name}' must be one of {possible}, got {output_stride}"
        )
    return output_stride


def _other_strides(name: str, stride: int) -> str:
    """Say which way out is left when an encoder refuses."""
    if stride == 32:
        return "choose another encoder or correct student.options"
    strides = ", ".join(map(str, sorted(_DECODERS[name].strides)))
    return (
        f"output_stride was {stride}, '{name}' works at {strides}, and at 32 any encoder works "
        "(fpn, segformer, unet, upernet); otherwise choose another encoder, such as a ResNet"
    )


def _resolve_encoder(encoder: str) -> str:
    """Return the library's name of an encoder, adding ``tu-`` to timm's own names."""
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if encoder in encoders:
        return encoder
    timm_name = encoder.removeprefix("tu-")
    if timm.is_model(timm_name):
        return f"tu-{timm_name}"
    known = [*encoders, *timm.list_models()]
    near = get_close_matches(encoder, known, n=3) or ["resnet18", "mobilenet_v2"]
    raise ConfigError(
        f"student.encoder '{encoder}' is neither an encoder of segmentation_models_pytorch nor "
        f"a timm network; {nearest(encoder, near)}"
    )


def _check_options(name: str, encoder: str, options: Mapping[str, object], known: set[str]) -> None:
    """Refuse options that the architecture would silently drop."""
    for key in options:
        reserved = key in _RESERVED
        if reserved or (key not in known and not encoder.startswith("tu-")):
            raise ConfigError(
                f"student.options.{key} is not an option of '{name}'; {nearest(key, known)}"
            )
