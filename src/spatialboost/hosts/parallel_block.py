"""timm blocks without an attention module: attention and MLP run in parallel after one packed input projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from spatialboost.hosts.layers import leaves
from spatialboost.hosts.protocol import Family, Share, Slot
from spatialboost.hosts.slots import split_slots


class _WithoutDropPath:
    """The block (or a view of it) without its drop path."""

    drop_path = staticmethod(lambda x: x)

    def __init__(self, block: Any) -> None:
        self._block = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


class ParallelScaling(Family):
    """`ParallelScalingBlock` and `DiffParallelScalingBlock`, of ViT-22B.

    The whole block is boosted. Attn+ has its own rows of q, k and v, its own norms of q and k, and its own output
    projection. Both channels share the MLP, the input norm and LayerScale: these only add to the attention's output or
    scale it, so merging the outputs of both blocks merges their attention. The drop path runs after the merge, once for
    both channels.
    """

    name = "parallel"
    classes = (
        "timm.models.vision_transformer.ParallelScalingBlock",
        "timm.models.vision_transformer.DiffParallelScalingBlock",
    )

    def share(self, attention: Any, parameter: str) -> Share | None:
        """The attention's part of the packed projections; None for the input norm, the MLP and LayerScale."""
        if parameter.startswith(("in_norm", "mlp", "ls")):
            return None
        if parameter.startswith("in_proj."):
            return Share(0, attention.in_split[0])
        return Share(1, 0, attention.in_split[1]) if parameter == "out_proj.weight" else Share()

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """The slots, within the attention's part of `in_proj` and in the output projection."""
        output = "attn_out_proj" if attention._modules.get("out_proj") is None else "out_proj"
        packed = {
            f"{name}.{leaf}": Slot(f"in_proj.{leaf}", chunk, 3)
            for leaf in leaves(attention, "in_proj")
            for chunk, name in enumerate("qkv")
        }
        return packed | split_slots(attention, o=output, q_norm="q_norm", k_norm="k_norm")

    def runner(self, host_class: type[nn.Module]) -> Callable[..., Any]:
        """The block's forward without its drop path, which `finish` runs."""
        return lambda block, *args, **kwargs: host_class.forward(_WithoutDropPath(block), *args, **kwargs)  # type: ignore[arg-type]

    def finish(self, attention: Any, merged: Tensor, *args: Any) -> Tensor:
        """Run the drop path on the merged output."""
        if isinstance(attention.drop_path, nn.Identity) or not attention.training:
            return merged
        return args[0] + attention.drop_path(merged - args[0])
