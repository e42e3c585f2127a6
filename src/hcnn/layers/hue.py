"""A first layer in which hue is a translation by construction."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from hcnn.functional.custom_op import is_recorded
from hcnn.functional.hue import hue_matrices
from hcnn.layers.base import enter
from hcnn.layers.normalization import normalize_elu
from hcnn.layers.plain import AttributeConv, convolve


class HueConv(AttributeConv):
    r"""A convolution of colour images with one filter in K colours: ``x_1(u, v_1) = ρ(x * w R_{v_1}^{-1})``.

    R_v turns colours about the grey axis by 360° v / K, from red towards blue and at equal luminance
    (`hcnn.functional.hue.hue_matrices`). All values of v_1 share one filter and one normalization.

    Law: turning the hue of x by ``360° τ / K`` translates x_1 by τ along v_1, exactly for whole τ and whatever the
    weights, in training and in eval mode. The turn must act on x as it does on pixels, so images are standardized with
    one mean and one deviation for all channels (`hcnn.data.preprocessing.fit_preprocessing` with ``common=True``), and
    changed images must not be clipped. A grey image has no hue: its x_1 is constant along v_1.

    Args:
        filters: K, the number of hues.
        **more: as for `AttributeConv`, without attributes; `channels` is 3.

    Shapes:
        x (b, 3, *u); returns (b, K, *u').

    Raises:
        ValueError: at construction for another number of channels, or attributes.

    Example:
        >>> layer, x = HueConv(8, spatial_support=(3, 3), channels=3), torch.randn(2, 3, 9, 9)
        >>> turned = torch.einsum("ij,njhw->nihw", hue_matrices(torch.tensor([90.0]))[0].float(), x)
        >>> torch.allclose(layer(turned), layer(x).roll(2, 1), atol=1e-5)  # 90° are 2 of 8 values
        True

    """

    def __init__(self, filters: int, **more: Any) -> None:
        label = more.get("label") or type(self).__name__
        if more.get("channels") != 3 or more.get("attribute_support"):
            raise ValueError(
                f"{label}: expected 3 channels, RGB, and no attribute; got channels={more.get('channels')} and "
                f"attribute_support={more.get('attribute_support', ())}"
            )
        super().__init__(filters, **more)
        self.filters = filters
        self.weight = nn.Parameter(self.weight.detach()[:1].clone())  # (1, 3, *ku)
        self.norm = nn.BatchNorm1d(1)

    def compute(self, x: Tensor, average_oldest: bool) -> Tensor:
        """x_1."""
        weight = self.composed_weight()
        y = convolve(enter(x, self.geometry, weight.dtype), weight, self.geometry, self.method)
        # One normalization for all of v_1: v_1 is taken as an older attribute, before a newest one of one value.
        return normalize_elu(self.norm, y.unsqueeze(2), self.geometry.spatial).squeeze(2)

    def composed_weight(self) -> Tensor:
        """The filters w_{v_1}, (K, 3, *ku)."""
        make = _turns.__wrapped__ if is_recorded(self.weight) else _turns  # compilers know nothing of the cache
        return torch.einsum(
            "c...,kci->ki...", self.weight[0], make(self.filters, self.weight.dtype, self.weight.device)
        )


@lru_cache(maxsize=16)
def _turns(filters: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """R_v^{-1} for each value of v_1, (K, 3, 3); kept, because a CUDA graph cannot record how they are made."""
    with torch.inference_mode(False):  # they outlive the mode they are first needed in
        degrees = -torch.arange(filters, dtype=torch.float64, device=device) * (360 / filters)
        return hue_matrices(degrees).to(dtype)
