"""The residual cross-attention adapter of Spa3-VLM: visual tokens read the latents of their scene."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from spatialboost.encoders.build import seeded
from spatialboost.encoders.standardise import Standardise

# Shape legend: B rows (samples), L tokens of a row, K latents of a scene, H width of the language model, D width of a
# latent, A heads, E width of a head.

STD = 0.02  # of new weights: that of the paper's transformers and of most language models


class SceneAdapter(nn.Module):
    """Add to each token what it finds in the latents of its scene; at the start it adds zero.

    Example:
        >>> adapter = SceneAdapter(width=64, latent_width=48, heads=4)
        >>> tokens, latents = torch.randn(2, 10, 64), torch.randn(2, 256, 48)
        >>> torch.equal(adapter(tokens, latents), tokens)
        True

    Each row of a batch is one sample: its tokens read only the latents of the same row. So samples with other numbers
    of frames or other image sizes do not see each other.

    The names of the layers are not those that LoRA configurations usually name.

    Args:
        width: Width H of the language model.
        latent_width: Width D of the latents.
        heads: Attention heads. A number that does not divide the width is replaced by the largest common divisor.
        dtype: Dtype of the weights.
        device: Device of the weights.
        seed: Seed of the new weights; None draws them from torch's generator.

    Source: Spa3R (arXiv 2602.21186), the adapter of Spa3-VLM. The paper writes ``F + MLP(CrossAttn(F, z, z))`` with a
    last layer of zeros; the norms, the bottleneck and the gate are in its released code only. How the other weights
    start is not said: ours are normal with a standard deviation of 0.02, and biases of zero. Ours, too: latents get
    mean 0 and variance 1 in each channel, as measured before the training. Without that, tokens of an encoder, whose
    channels have means far from zero, taught nothing (docs/multimodal.md).
    """

    def __init__(
        self,
        width: int,
        latent_width: int,
        heads: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        self.width, self.latent_width, self.heads = width, latent_width, gcd(width, heads)
        self.standard = Standardise(latent_width)  # changes nothing before it has measured
        self.lift = nn.Sequential(nn.Linear(latent_width, width), nn.GELU(), nn.Linear(width, width))
        self.attend_q, self.attend_k, self.attend_v, self.attend_o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (nn.LayerNorm(width // self.heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.narrow, self.widen = nn.Linear(width, max(width // 4, 1)), nn.Linear(max(width // 4, 1), width)
        self.opening = nn.Linear(width, width)
        with seeded(seed):
            self.reset()
        self.to(device=device, dtype=dtype)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights again, from torch's generator; the adapter then adds zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.zeros_(self.widen.weight)

    def forward(self, tokens_BLH: Tensor, latents_BKD: Tensor) -> Tensor:
        """The tokens ``(B, L, H)`` with what they found in the latents ``(B, K, D)``, in the dtype of the tokens."""
        x_BLH = tokens_BLH.to(self.norm.weight.dtype)
        scene_BKH = self.lift(self.standard(latents_BKD.to(x_BLH)))
        q_BALE = self.norm_q(self._heads(self.attend_q(x_BLH)))
        k_BAKE = self.norm_k(self._heads(self.attend_k(scene_BKH)))
        v_BAKE = self._heads(self.attend_v(scene_BKH))
        found_BALE = nn.functional.scaled_dot_product_attention(q_BALE.to(v_BAKE), k_BAKE.to(v_BAKE), v_BAKE)
        x_BLH = self.norm(self.attend_o(found_BALE.transpose(1, 2).flatten(2)))
        added_BLH = self.widen(nn.functional.gelu(self.narrow(x_BLH))) * self.opening(x_BLH).sigmoid()
        return tokens_BLH + added_BLH.to(tokens_BLH.dtype)

    def _heads(self, x_BLH: Tensor) -> Tensor:
        return x_BLH.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def adds_zero(self) -> bool:
        """Whether the adapter leaves every token as it is, because its last layer is zero."""
        return not (self.widen.weight.any() or self.widen.bias.any())

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"width={self.width}, latent_width={self.latent_width}, heads={self.heads}"
