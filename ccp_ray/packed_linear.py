"""Linear layers of a CPU model that only infers: oneDNN's products with weights laid out for them once.

torch computes fp32 products with MKL and lays bf16 weights out anew in every call. On an AMD EPYC (Zen 4, one core,
6 x 384 encoder, 512 to 2,048 tokens) oneDNN with packed weights makes 92 to 103 GFLOP/s where MKL makes 73 to 86, and
184 to 201 in bf16 where plain layers make 154 to 181. `torch.compile` packs them as well, after 85 s of compiling.
A packed model cannot be trained or saved. The two operators are torch's own, but private: `ccp-ray` pins torch, and
`tests/test_packed_linear.py` compares them with plain layers.
"""

from __future__ import annotations

from typing import Any

import torch

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


@torch.no_grad()
def pack_linear_layers(model: Any) -> None:
    """Put a packed layer in the place of each plain one, where the model is on a CPU that oneDNN knows.

    Layers that are no plain `torch.nn.Linear` (quantised, adapted) stay as they are.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    plain = [
        (parent, name, layer)
        for parent in list(model.modules())
        for name, layer in parent.named_children()
        if type(layer) is torch.nn.Linear
    ]
    for parent, name, layer in plain:
        setattr(parent, name, PackedLinear(layer))
