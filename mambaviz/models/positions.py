"""Where a token stands, in three ways: turned, faded, or added.

    theta_i = 10000^(-2i / width),    i = 0 ... width/2 - 1

Features go in pairs, and pair i turns by theta_i with each token. RoPE turns
queries and keys; xPos also fades their scores with distance; sinusoids are
added to the token itself.

See: the chapter ``transformer-cost``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Wavelengths run from 2 pi to 2 pi times this, in tokens.
MAX_WAVELENGTH = 10000
XPOS_GAMMA = 0.4  # keeps the fastest pair from fading at once
XPOS_SCALE_BASE = 512  # tokens over which pair i loses the factor zeta_i


def rotate_pairs(
    x: Float[Tensor, "batch n_heads length d_head"],
    positions: Int[Tensor, "#batch length"],
) -> Float[Tensor, "batch n_heads length d_head"]:
    """RoPE: turn each pair of features by an angle that grows with position.

        theta_i = 10000^(-2i / d_head),    i = 0 ... d_head/2 - 1

        [x_2i  ]  <-  [cos a  -sin a] [x_2i  ]      a = position theta_i
        [x_2i+1]      [sin a   cos a] [x_2i+1]

    A turned query times a turned key depends on the difference of their
    positions alone, and lengths do not change.

    Args:
        x: queries or keys, d_head even.
        positions: of each token.

    Source: Su et al. 2021 (arXiv 2104.09864), eq. 34.
    """
    return turn_pairs(x, *turns(positions, x.shape[-1], x.dtype))


def turns(
    positions: Int[Tensor, "#batch length"], d_head: int, dtype: torch.dtype
) -> tuple[
    Float[Tensor, "#batch 1 length pairs"],
    Float[Tensor, "#batch 1 length pairs"],
]:
    """cos a and sin a of ``rotate_pairs``, the same in every layer."""
    angle = _angles(positions, d_head)[:, None]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def turn_pairs(
    x: Float[Tensor, "batch n_heads length d_head"],
    cos: Float[Tensor, "#batch 1 length pairs"],
    sin: Float[Tensor, "#batch 1 length pairs"],
) -> Float[Tensor, "batch n_heads length d_head"]:
    """``rotate_pairs``, by given turns."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = even * cos - odd * sin, even * sin + odd * cos
    return torch.stack(turned, dim=-1).flatten(-2)


def xpos_decay(
    distances: Float[Tensor, "*batch length"], d_head: int
) -> Float[Tensor, "*batch length d_head"]:
    """XPos: the factor by which a score fades with distance, pair by pair.

        zeta_i = (2i / d_head + 0.4) / 1.4
        decay_i(n) = zeta_i^(n / 512)

    Queries are multiplied by decay(m), keys by decay(-n), so that a score
    has the factor decay(m - n) on top of RoPE. Pairs that turn fast, i small,
    fade fast; those that turn slowly reach far.

    Args:
        distances: n, in tokens; may be negative.
        d_head: of the queries and keys, even.

    Returns:
        One factor for each feature, the same for both of a pair.

    Source: Sun et al. 2022 (arXiv 2212.10554), algorithm 1; the divisor 512
        is that of the authors' code, torchscale.
    """
    pair = torch.arange(0, d_head, 2).to(distances)
    zeta = (pair / d_head + XPOS_GAMMA) / (1 + XPOS_GAMMA)
    decay = zeta ** (distances[..., None] / XPOS_SCALE_BASE)
    return decay.repeat_interleave(2, dim=-1)


def sinusoids(
    positions: Int[Tensor, "*batch length"], d_model: int
) -> Float[Tensor, "*batch length d_model"]:
    """A vector for each position, of sines and cosines of falling frequency.

        p_2i = sin(position theta_i),   p_2i+1 = cos(position theta_i)

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.

    Example:
        >>> sinusoids(torch.tensor([0, 1]), 2).round(decimals=4)
        tensor([[0.0000, 1.0000],
                [0.8415, 0.5403]], dtype=torch.float64)
    """
    angle = _angles(positions, d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def _angles(positions: Tensor, width: int) -> Tensor:
    """position theta_i, for each pair; in float32, it would turn too coarse.

    At position 10^6 a float32 angle is off by up to 0.06.
    """
    pair = torch.arange(0, width, 2, device=positions.device)
    theta = MAX_WAVELENGTH ** (-pair.double() / width)
    return positions[..., None] * theta
