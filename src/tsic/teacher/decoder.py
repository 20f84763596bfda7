"""SAM's mask decoder for many prompts of an image: the same answer, fewer passes over memory."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic.teacher.attend import attend
from tsic.teacher.recompute import recomputed


def decode_masks(
    decoder: Any,
    image: Tensor,
    positions: Tensor,
    dense: Tensor,
    sparse: Tensor | None,
    fine: tuple[Tensor, ...],
    owners: Tensor | None,
    *,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Answer as transformers' mask decoder does.

    Sums of the image and its positions are never formed: what is projected of each is added. The
    three projections of the image in a block are one product, an image's maps are not copied for
    its prompts, and only the masks asked for are drawn.

    Args:
        decoder: Mask decoder of SAM, SAM 2 or EdgeTAM, as transformers builds it.
        image: Image embedding ``(B, D, h, w)``.
        positions: Positional encoding of its cells ``(1, D, h, w)``.
        dense: Embedded mask prompts ``(P, D, h, w)``.
        sparse: Prompt tokens ``(P, T, D)`` or ``None``.
        fine: SAM 2's maps of each image at strides 4 and 8, else empty.
        owners: Image of each prompt, int64 ``(P,)``; by default equally many per image, all of the
            first image first.
        multimask: Answer with the outputs for an ambiguous prompt instead of the single one.

    Returns:
        Mask logits ``(P, M, 4h, 4w)``, ``M`` 1 or the model's number of multimask outputs, and the
        IoU that the model expects of each, ``(P, M)``.

    Source:
        Kirillov et al., arXiv:2304.02643, appendix A.
    """
    outputs = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    if hasattr(decoder, "obj_score_token"):
        outputs.insert(0, decoder.obj_score_token.weight)
    tokens = torch.cat(outputs).expand(len(dense), -1, -1)
    if sparse is not None:
        tokens = torch.cat([tokens, sparse], 1)
    size = image.shape[-2:]
    seen = _add(dense, image, owners).flatten(2).mT
    tokens, seen = _two_way(decoder.transformer, tokens, seen, positions[0].flatten(1).mT)

    first = len(outputs) - 2
    wanted = range(1, decoder.num_mask_tokens) if multimask else range(1)
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([heads[i](tokens[:, first + 1 + i]) for i in wanted], 2)
    seen = seen.mT.unflatten(2, size)
    drawn = recomputed(_draw, decoder, seen, weights, fine, owners)
    ious = decoder.iou_prediction_head(tokens[:, first])[:, wanted.start : wanted.stop]
    return drawn, ious


def _two_way(
    transformer: Any, tokens: Tensor, image: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Let tokens ``(P, T, D)`` and image cells ``(P, hw, D)``, at ``(hw, D)``, see each other."""
    first = tokens
    for layer in transformer.layers:
        asked = tokens if layer.skip_first_layer_pe else tokens + first
        among = layer.self_attn
        heard = _attend(among, among.q_proj(asked), among.k_proj(asked), among.v_proj(tokens))
        tokens = layer.layer_norm1(heard if layer.skip_first_layer_pe else tokens + heard)

        into, back = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        key, query, value = _project(image, positions, [into.k_proj, back.q_proj], [into.v_proj])
        heard = _attend(into, into.q_proj(tokens + first), key, value)
        tokens = layer.layer_norm2(tokens + heard)
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        heard = _attend(back, query, back.k_proj(tokens + first), back.v_proj(tokens))
        image = layer.layer_norm4(image + heard)
    last = transformer.final_attn_token_to_image
    key, value = _project(image, positions, [last.k_proj], [last.v_proj])
    heard = _attend(last, last.q_proj(tokens + first), key, value)
    return transformer.layer_norm_final_attn(tokens + heard), image


def _project(
    image: Tensor, positions: Tensor, placed: list[nn.Linear], plain: list[nn.Linear]
) -> tuple[Tensor, ...]:
    """Project the image, with its positions and without, by one product."""
    layers = [*placed, *plain]
    weight = torch.cat([layer.weight for layer in layers])
    offset = [layer(positions) for layer in placed]
    offset += [layer.bias.to(offset[0].dtype).expand(len(positions), -1) for layer in plain]
    answer = F.linear(image, weight).add_(torch.cat(offset, 1))
    return answer.split([layer.out_features for layer in layers], 2)


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with what is projected already, and project the answer back."""
    operands = partial(_operands, attention.num_attention_heads)
    answer = attend(operands, attention.scaling, query, key, value).transpose(1, 2).flatten(2)
    back = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
    return back(answer)


def _operands(heads: int, *projected: Tensor) -> list[Tensor]:
    return [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in projected]


def _draw(
    decoder: Any,
    maps: Tensor,
    weights: Tensor,
    fine: tuple[Tensor, ...],
    owners: Tensor | None,
) -> Tensor:
    """Bring ``(P, D, h, w)`` to ``(P, D / 8, 4h, 4w)``, with the image's fine maps; weigh them."""
    maps = decoder.upscale_conv1(maps)
    if fine:
        maps = _add(maps, fine[1], owners)
    maps = decoder.upscale_conv2(decoder.activation(decoder.upscale_layer_norm(maps)))
    if fine:
        maps = _add(maps, fine[0], owners)
    maps = decoder.activation(maps)
    drawn = maps.permute(0, 2, 3, 1).flatten(1, 2) @ weights  # (P, 4h * 4w, M)
    return drawn.mT.unflatten(2, maps.shape[-2:])


def _add(maps: Tensor, shared: Tensor, owners: Tensor | None) -> Tensor:
    """Add to each prompt's maps ``(P, ...)`` those of its image ``(B, ...)``."""
    if owners is not None:
        return maps + shared[owners]
    return (maps.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)
