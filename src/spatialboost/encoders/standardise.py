"""Features with mean 0 and variance 1 in each channel: single channels of a vision transformer are very large."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Shape legend: I images, N patches, D width of the features.

_LEAST_SPREAD = 1e-3  # of the largest: channels that vary less are divided by this much


class Standardise(nn.Module):
    """Subtracts a fixed mean from each channel and divides it by a fixed standard deviation.

    Example:
        >>> standardise = Standardise(2)
        >>> standardise.measure(torch.tensor([[[1.0, 10.0], [3.0, 50.0]]]))
        >>> standardise(torch.tensor([[[3.0, 50.0]]])).tolist()
        [[[1.0, 1.0]]]
    """

    mean_D: Tensor
    spread_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("spread_D", torch.ones(width))

    @torch.no_grad()
    def measure(self, features_IND: Tensor) -> None:
        """Take over the mean and the standard deviation of these features."""
        features_MD = features_IND.flatten(0, -2).float()
        spread_D = features_MD.std(0, unbiased=False)
        self.mean_D.copy_(features_MD.mean(0))
        self.spread_D.copy_(spread_D.clamp_min(max(_LEAST_SPREAD * float(spread_D.max()), 1e-12)))

    def forward(self, features_IND: Tensor) -> Tensor:
        """The features with mean 0 and standard deviation 1, as far as they are like the measured ones."""
        return (features_IND - self.mean_D.to(features_IND.dtype)) / self.spread_D.to(features_IND.dtype)

    def undo(self, standardised_IND: Tensor) -> Tensor:
        """The features that would have been standardised to these."""
        return standardised_IND * self.spread_D.to(standardised_IND.dtype) + self.mean_D.to(standardised_IND.dtype)
