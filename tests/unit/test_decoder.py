"""The mask decoder against transformers' own."""

import pytest
import torch
from transformers.models.sam.modeling_sam import SamMaskDecoder

from tsic.teacher.sam import load_foundation
from tsic.teacher.small import TINY


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("uneven", [True, False])
@pytest.mark.parametrize("multimask", [True, False])
def test_answer_and_gradients_are_those_of_transformers(
    name: str, tokens: int, uneven: bool, multimask: bool
) -> None:
    torch.manual_seed(0)
    foundation = load_foundation(name).double()
    decoder = foundation.model.mask_decoder
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    decoder.dynamic_multimask_via_stability = False
    owners = torch.tensor([0, 1, 1, 1]) if uneven else torch.tensor([0, 0, 1, 1])

    def maps(count: int, channels: int, scale: int) -> torch.Tensor:
        shape = (count, channels, 3 * scale, 5 * scale)
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    dim = foundation.dim
    image, dense = maps(2, dim, 1), maps(4, dim, 1)
    fine = (
        () if isinstance(decoder, SamMaskDecoder) else (maps(2, dim // 8, 4), maps(2, dim // 4, 2))
    )
    sparse = None
    if tokens:
        sparse = torch.randn(4, tokens, dim, dtype=torch.float64, requires_grad=True)

    ours = foundation.decode(
        image, dense, sparse, fine, owners if uneven else None, multimask=multimask
    )
    empty = foundation.blank_token().expand(4, 1, 2, -1) if fine else None
    theirs = decoder(
        image_embeddings=image[owners],
        image_positional_embeddings=foundation.positions(3, 5),
        sparse_prompt_embeddings=empty if sparse is None else sparse[:, None],
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        **({"high_resolution_features": [each[owners] for each in fine]} if fine else {}),
    )
    found = []
    inputs = [x for x in (image, dense, sparse, *fine, *decoder.parameters()) if x is not None]
    for answer in (ours, [each[:, 0] for each in theirs[:2]]):
        total = torch.stack([each.sin().sum() for each in answer]).sum()
        gradients = torch.autograd.grad(total, inputs, materialize_grads=True, allow_unused=True)
        found.append((*answer, *gradients))
    assert ours[0].shape == (4, 3 if multimask else 1, 12, 20)
    torch.testing.assert_close(*found)
