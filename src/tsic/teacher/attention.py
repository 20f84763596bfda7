"""SAM's attention with relative positions, without ever holding a map of all pairs."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention
from typing_extensions import override


class FusedAttention(SamVisionAttention):
    """The same answer as transformers' class, by a fused kernel.

    SAM adds to each score what the query says of the key's row and of its column. Added as a bias,
    which learns, it forces scores of all pairs into memory, and on a CPU in bfloat16 into slow
    products. Here queries carry these terms as further channels, and keys mark row and column in
    them by ones, so that a plain scaled dot product has them in it:
    ``[s q, q R_h, q R_w] . [k, 1_row, 1_column]``.

    Source:
        Relative positions: Li et al., arXiv:2112.01526, equation 3.
    """

    @override
    def forward(
        self, hidden_states: Tensor, output_attentions: bool | None = None
    ) -> tuple[Tensor, None]:
        """Attend within ``(B, h, w, C)`` maps or windows; weights are never given."""
        batch, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_attention_heads, -1))
        query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # (B, heads, h, w, d)
        channels = query.shape[-1]
        parts, places = [query * self.scale], [key]
        if self.use_rel_pos:
            rows = self.get_rel_pos(height, height, self.rel_pos_h).to(query.dtype)
            columns = self.get_rel_pos(width, width, self.rel_pos_w).to(query.dtype)
            parts += [
                torch.einsum("bnhwc,hkc->bnhwk", query, rows),
                torch.einsum("bnhwc,wkc->bnhwk", query, columns),
            ]
            row = torch.eye(height, dtype=key.dtype, device=key.device)[:, None]
            column = torch.eye(width, dtype=key.dtype, device=key.device)[None]
            places += [mark.expand(*key.shape[:-1], mark.shape[-1]) for mark in (row, column)]
            value = F.pad(value, (0, height + width))  # kernels want one width for all three
        query, key, value = (
            maps.flatten(2, 3) for maps in (torch.cat(parts, -1), torch.cat(places, -1), value)
        )
        answer = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        answer = answer[..., :channels].transpose(1, 2).reshape(batch, height, width, -1)
        return cast(Tensor, self.proj(answer)), None


def fuse_attention(encoder: nn.Module) -> None:
    """Let the attention layers of SAM's encoder answer by the fused kernel; weights stay theirs."""
    for module in encoder.modules():
        if isinstance(module, SamVisionAttention):
            module.__class__ = FusedAttention
