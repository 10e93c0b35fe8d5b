"""Linear layers of a CPU model that only infers: oneDNN's products with weights laid out for them once.

torch computes fp32 products with MKL and lays bf16 weights out anew in every call. On an AMD EPYC (Zen 4, one core,
6 x 384 encoder, 512 to 2,048 tokens) oneDNN with packed weights makes 92 to 103 GFLOP/s where MKL makes 73 to 86, and
184 to 201 in bf16 where plain layers make 154 to 181. `torch.compile` packs them as well, after 85 s of compiling.
A packed model can neither be trained nor saved. The two operators are torch's own, but private: `constraints.txt` pins
torch, and `tests/test_packed_linear.py` compares them with plain layers in every family that is packed.
"""

from __future__ import annotations

from typing import Any

import torch

from ccp_ray.hardware import native_bf16

# Whose layers are only called. Others read the weights of theirs within a pass (T5, DeBERTa), and stay as they are.
FAMILIES = frozenset(
    ("bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "distilbert", "electra", "mpnet", "modernbert")
)
# The rows of a product that the layout is chosen for: a batch's padded tokens. Others are right, too, only slower.
_ROWS = 1024


class PackedLinear(torch.nn.Module):
    """A linear layer [..., I] -> [..., O] whose weights only oneDNN reads."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
        return product

    def _save_to_state_dict(self, *_: Any) -> None:
        raise RuntimeError("a packed encoder has no weights to save; load it again")

    def train(self, mode: bool = True) -> PackedLinear:
        if mode:
            raise RuntimeError("a packed encoder cannot be trained; load it again")
        super().train(mode)
        return self


@torch.no_grad()
def pack_linear_layers(model: Any) -> None:
    """Put a packed layer in the place of each plain one, one after the other: the plain one's memory is free at once.

    Nothing happens on a GPU, to other families, where torch has no oneDNN, and in bf16 that the CPU lacks; layers that
    are no plain `torch.nn.Linear` (quantised, adapted) stay as they are.
    """
    known = model.device.type == "cpu" and model.config.model_type in FAMILIES
    if not known or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    if model.dtype == torch.bfloat16 and not native_bf16(model.device):
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is torch.nn.Linear:
                setattr(parent, name, PackedLinear(layer))
