"""What the tests of Mamba share: small models away from their first values."""

import torch
from torch import Tensor, nn

from mambaviz.models import MambaConfig, MambaLM


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


def perturbed(module: nn.Module, seed: int = 0, size: float = 0.3):
    """Every parameter moved, so that no two are equal by their start."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(
                parameter.shape, dtype=torch.float64, generator=generator
            )
            parameter += size * noise.to(parameter.dtype)
    return module


def small_lm(dtype=torch.float64, seed: int = 0, **settings) -> MambaLM:
    shape = {"d_model": 8, "n_layers": 2, "vocab_size": 13, "d_state": 3}
    torch.manual_seed(seed)
    model = MambaLM(MambaConfig(**shape | settings))
    return perturbed(model, seed).to(dtype)


def some_ids(batch: int, length: int, vocab_size: int = 13, seed: int = 0):
    return torch.randint(
        0, vocab_size, (batch, length), generator=seeded(seed)
    )


def error(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference, in units of the norm of ``theirs``."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-300))


def gradients(y: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Of a fixed functional of y, for every parameter of the module."""
    weights = normal(*y.shape, seed=7).to(y)
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(
        (weights * y).sum(), parameters, retain_graph=True
    )
    return dict(zip(names, found, strict=True))
