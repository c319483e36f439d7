"""The training of depth heads: batches of stored tokens, or of random windows that the encoder reads at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.depth_heads import BinnedDepth, DPTDepth, LinearDepth, sig_loss
from spatialboost.probes.draws import Draw
from spatialboost.probes.heads import enlarge, train_heads
from spatialboost.probes.protocol import ReadSplit
from spatialboost.probes.windows import random_window

if TYPE_CHECKING:
    from spatialboost.probes.depth import DepthProbe

# Shape legend: B views of a batch, N patches, D width of the tokens, H and W pixels of a window, h and w cells of a
# map.

Head = Literal["ridge", "linear", "dpt"]
MapHead = Callable[[Tensor], Tensor]  # depth (B, h, w) in metres, from tokens (B, N, D)


def train_depth_head(probe: DepthProbe, train: ReadSplit, draw: Draw) -> tuple[nn.Module, float]:
    """Train a head on the drawn views; returns the head, and its rate.

    Raises:
        SpatialBoostError: the head is that of DPT, and the features are not those of four layers.
    """
    features = train.features
    width = features.tokens[0].shape[-1]
    layers = 1 if isinstance(features.layer, int) else len(features.layer)
    if probe.head == "dpt" and layers != 4:
        raise SpatialBoostError(
            f"head is 'dpt', which needs four layers, and the features are those of {layers}: give layer 'quarters', "
            "or four numbers"
        )

    def make() -> nn.Module:
        bins = BinnedDepth(probe.bins, probe.min_depth, probe.max_depth)
        linear = probe.head == "linear"
        head = (
            LinearDepth(width, features.grid, bins) if linear else DPTDepth(width, features.grid, bins, probe.channels)
        )
        return head.to(features.device)

    def stored(items: Sequence[int]) -> tuple[Tensor, Tensor]:
        tokens_BND = torch.stack([features.tokens[item] for item in items])
        truth_Bhw = torch.from_numpy(np.stack([train.kept[item] for item in items]))
        return tokens_BND.to(features.device), truth_Bhw.to(features.device)

    def fresh(items: Sequence[int]) -> tuple[Tensor, Tensor]:
        assert train.read is not None
        images, depths = [], []
        for item in items:
            view = train.items[item]
            image_HW3, depth_HW = probe.image(view, features.image_size), probe.depth_of(view)
            size = (image_HW3.shape[0], image_HW3.shape[1])
            window, zoom = random_window(size, features.image_size, probe.zoom, squeezed=True)
            images.append(window.of_image(image_HW3))
            depths.append(window.of_map(depth_HW).astype(np.float32) / zoom)  # what is larger is nearer
        return train.read(images), torch.from_numpy(np.stack(depths)).to(features.device)

    def loss(head: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        tokens_BND, truth_BHW = given
        depth_Bhw = head(tokens_BND)
        size = (truth_BHW.shape[1], truth_BHW.shape[2])
        return sig_loss(enlarge(depth_Bhw[:, None], size)[:, 0], truth_BHW)

    batch = stored if probe.features == "stored" else fresh
    return train_heads(make, batch, loss, draw.items.tolist(), probe, seed=draw.seed or 0)
