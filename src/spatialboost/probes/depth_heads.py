"""Heads for depth that are trained by gradient descent: a linear one and that of DPT, both over bins of depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.heads import LinearHead, as_maps, enlarge
from spatialboost.probes.windows import FINE

# Shape legend: B views of a batch, N patches, D width of the tokens, K bins, h and w cells of the predicted map.

_ROUND = 0.1  # added to each weight, so that no bin is without any
_EPS = 0.001  # metres


class BinnedDepth(nn.Module):
    """Depth as the mean of bins, uniform from the nearest to the farthest depth, weighted by positive outputs.

    Example:
        >>> bins = BinnedDepth(num=3, nearest=1.0, farthest=5.0)
        >>> round(bins(torch.tensor([0.0, 0.0, 9.9]).view(1, 3, 1, 1)).item(), 3)  # weights 0.1, 0.1 and 10
        4.941

    Source: AdaBins (arXiv 2011.14141) with fixed bins, as in the linear depth probe of DINOv2 (arXiv 2304.07193).

    Args:
        num: number K of bins.
        nearest: depth of the first bin in metres.
        farthest: depth of the last bin.
    """

    bins_K: Tensor

    def __init__(self, num: int, nearest: float, farthest: float) -> None:
        super().__init__()
        self.register_buffer("bins_K", torch.linspace(nearest, farthest, num))

    def forward(self, outputs_BKhw: Tensor) -> Tensor:
        """Depth ``(B, h, w)`` in metres."""
        weights_BKhw = outputs_BKhw.relu() + _ROUND
        return torch.einsum("bkhw,k->bhw", weights_BKhw / weights_BKhw.sum(1, keepdim=True), self.bins_K)


class LinearDepth(nn.Module):
    """Batch normalisation and a linear map from patch tokens to bins; outputs are enlarged four times before the mean.

    Args:
        width: width D of the tokens.
        grid: rows and columns of patches.
        bins: the bins.
    """

    def __init__(self, width: int, grid: tuple[int, int], bins: BinnedDepth) -> None:
        super().__init__()
        self.linear = LinearHead(width, len(bins.bins_K))
        self.bins = bins
        self.grid = grid

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Depth ``(B, FINE * rows, FINE * columns)`` in metres."""
        rows, columns = self.grid
        return self.bins(enlarge(as_maps(self.linear(tokens_BND), self.grid), (FINE * rows, FINE * columns)))


class DPTDepth(nn.Module):
    """The head of DPT (arXiv 2103.13413): four layers are reassembled at four resolutions and fused, then bins.

    The reassembling and fusing parts are those of transformers. Class tokens are not used.

    Args:
        width: width D of the joined tokens of the four layers.
        grid: rows and columns of patches.
        bins: the bins.
        channels: width of the fusing layers.

    Raises:
        SpatialBoostError: the tokens cannot be those of four layers.
    """

    def __init__(self, width: int, grid: tuple[int, int], bins: BinnedDepth, channels: int) -> None:
        from transformers import DPTConfig
        from transformers.models.dpt.modeling_dpt import DPTNeck

        super().__init__()
        if width % 32:
            raise SpatialBoostError(f"the joined tokens of four layers are {width} wide; expected a multiple of 32")
        each = width // 4
        config = DPTConfig(
            hidden_size=each,
            neck_hidden_sizes=[each // 8, each // 4, each // 2, each],
            reassemble_factors=[4, 2, 1, 0.5],
            fusion_hidden_size=channels,
            readout_type="ignore",
            neck_ignore_stages=[],
        )
        self.neck = DPTNeck(config)
        self.outputs = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(channels // 2, len(bins.bins_K), 1)
        )
        self.bins = bins
        self.grid = grid

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Depth ``(B, 8 * rows, 8 * columns)`` in metres, a little finer where the grid has odd numbers."""
        # transformers' neck skips a first token, the class token
        layers = [nn.functional.pad(each, (0, 0, 1, 0)) for each in tokens_BND.chunk(4, dim=-1)]
        return self.bins(self.outputs(self.neck(layers, *self.grid)[-1]))


def sig_loss(depth_BHW: Tensor, truth_BHW: Tensor) -> Tensor:
    """The scale-invariant error of log depth, over the places of known depth of a batch.

    Example:
        >>> truth = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> round(sig_loss(1.1 * truth, truth).item(), 3), round(sig_loss(truth + 1, truth).item(), 3)
        (0.037, 0.292)

    It is the square root of ``var(g) + 0.15 mean(g)^2``, with g the difference of the logarithms. A factor common to
    all depths counts little. Source: AdaBins (arXiv 2011.14141), after Eigen et al. (arXiv 1406.2283).

    Args:
        depth_BHW: predicted depth in metres, above zero.
        truth_BHW: true depth in metres, NaN where it is not known.
    """
    known = truth_BHW.isfinite()
    if int(known.sum()) < 2:
        return depth_BHW.sum() * 0  # a batch without readings
    g = (depth_BHW[known] + _EPS).log() - (truth_BHW[known] + _EPS).log()
    return (g.var() + 0.15 * g.mean().square()).clamp(min=1e-12).sqrt()
