"""StillKnowsHello: how much of the first word is left in the last state."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.models import RNN
from mambaviz.theory.forgetting import linear_probe, stretch_by_lag
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.fold_unfold import CHAPTER, WORDS
from mambaviz.widgets.traits import Choice, Quantity

D_STATE = 16
SIGNS = 3  # a word is one of 2^3, given by three signs
TEXTS = 500  # to fit the probe on, and as many to try it on
LAGS = 24  # of the gradient
RUNS = 8  # texts over which the gradient is averaged

Draws = Float[Tensor, "*shape"]


@functools.cache
def draws(count: int, seed: int) -> tuple[float, ...]:
    """Numbers in [0, 1) that Python and JavaScript draw alike.

    Source: the linear congruential generator of Press et al., Numerical
        Recipes in C, 1992, section 7.1.
    """
    found = []
    for _ in range(count):
        seed = (1664525 * seed + 1013904223) % 2**32
        found.append(seed / 2**32)
    return tuple(found)


def spread(shape: tuple[int, ...], seed: int) -> Draws:
    """Numbers in [-1, 1) of a given shape."""
    count = torch.Size(shape).numel()
    flat = torch.tensor(draws(count, seed), dtype=torch.float64)
    return 2 * flat.reshape(shape) - 1


def signs(shape: tuple[int, ...], seed: int) -> Draws:
    """Words: -1 or 1, as often."""
    return torch.where(spread(shape, seed) < 0, -1.0, 1.0).double()


@functools.cache
def network(kind: str, rho: float, d_state: int = D_STATE) -> RNN:
    """A recurrence whose steps, without the tanh, stretch by just rho."""
    activation = "tanh" if kind == "tanh" else "identity"
    with torch.random.fork_rng(devices=[]):
        layer = RNN(SIGNS, d_state, activation=activation).double()
    Q, R = torch.linalg.qr(spread((d_state, d_state), 1))
    with torch.no_grad():
        layer.W_h.copy_(rho * Q * R.diagonal().sign())
        layer.W_x.copy_(spread((d_state, SIGNS), 2) * (3 / d_state) ** 0.5)
        layer.b.zero_()
    return layer


def readable(
    kind: str,
    rho: float,
    error: float,
    d_state: int = D_STATE,
    texts: int = TEXTS,
) -> Float[Tensor, " words"]:
    """Of each word, first to last, how often a linear probe names it."""
    words = signs((2 * texts, len(WORDS), SIGNS), 3)
    with torch.no_grad():
        h = network(kind, rho, d_state).states(words)[:, -1]
    # Errors of reading: uniform, with an rms of `error` times the state's.
    size = error * h.square().mean().sqrt() * 3**0.5
    h = h + size * spread(tuple(h.shape), 4)
    targets = words.flatten(1)
    read = h[texts:] @ linear_probe(h[:texts], targets[:texts])
    right = (read > 0) == (targets[texts:] > 0)
    return right.reshape(texts, len(WORDS), SIGNS).all(-1).double().mean(0)


def stretches(kind: str, rho: float) -> Float[Tensor, " lags"]:
    """The gradient's norm for each lag, from 0 to 24."""
    layer = network(kind, rho)
    with torch.no_grad():
        states = layer.states(signs((RUNS, 2 * LAGS, SIGNS), 5))
        return stretch_by_lag(
            layer.W_h, states[:, LAGS:], is_linear=kind == "linear"
        )


class StillKnowsHello(Explorable):
    r"""Does the last state still know the first word?

    A network of 16 states, :math:`h_t = \tanh(W_h h_{t-1} + W_x x_t)`, or the
    same without the tanh, reads sentences of five words out of eight. W_h is a
    random orthogonal matrix times :math:`\rho`. Two things are measured: how
    often a linear probe, fitted on 500 sentences, names each word from the
    last state of 500 others, and what k steps do to the norm of a gradient.

    Args:
        rho: the spectral radius of W_h, from 0.3 to 1.25.
        error: with what relative error each state is read, from 0 to 0.25.
        kind: ``"tanh"`` or ``"linear"``.

    Example:
        >>> StillKnowsHello(kind="linear", rho=1.0).numbers()["“Hello” read"]
        '100 %'
    """

    _module = "still_knows_hello"
    question = "Does the last state still know the first word?"
    lesson = (
        "That depends on what a step does to the state. With a spectral"
        " radius well below 1 the first of five words is almost a guess, and"
        " a gradient back to it has shrunk like ρ to the power of the lag."
        " Without the tanh and with a radius of 1, the same sixteen numbers"
        " give every word back."
    )
    answer = (
        "Lower ρ: the gradient falls by about the same factor at every step,"
        " and the words sink towards chance, the oldest first. Raise it to 1"
        " with the tanh: the first word comes back in part. The tanh bends"
        " what older words have left, and its slope, never above 1, keeps"
        " the gradient below ρ to the power of the lag."
        " Now take the tanh away: at ρ = 1 all five words are read and the"
        " gradient stays level. One previous state is enough, if its step"
        " keeps lengths. Without the tanh, forgetting is a matter of digits:"
        " at ρ = 0.5 set the reading error to 0, and the word is there again."
        " Above 1 the gradient grows without bound."
    )
    computed = {
        "mambaviz.models.RNN": CHAPTER + "#rnn-states-code",
        "mambaviz.theory.linear_probe": CHAPTER + "#probe-code",
        "mambaviz.theory.stretch_by_lag": CHAPTER + "#stretch-code",
    }

    rho = Quantity(
        0.5,
        low=0.3,
        high=1.25,
        label="ρ",
        symbol="A",
        hint="the spectral radius of W_h; a fresh torch.nn.RNN has about 0.6",
    )
    error = Quantity(
        0.05,
        low=0.0,
        high=0.25,
        label="Error",
        symbol="h",
        hint="with which each of the 16 numbers is read, over their size",
    )
    kind = Choice(
        "tanh",
        options={"tanh": "with tanh", "linear": "without tanh"},
        label="The step",
    )

    def numbers(self) -> dict[str, str]:
        """What is read of each word, and what is left of a gradient."""
        shares = readable(self.kind, self.rho, self.error).tolist()
        left = stretches(self.kind, self.rho).tolist()
        found = {
            f"“{word}” read": f"{100 * share:.3g} %"
            for word, share in zip(WORDS, shares, strict=True)
        }
        return found | {
            "By chance": "12.5 %",
            "Gradient after 4 steps": f"{left[4]:.3g}",
            "Gradient after 24 steps": f"{left[24]:.3g}",
            "ρ⁴": f"{self.rho**4:.3g}",
            "ρ²⁴": f"{self.rho**24:.3g}",
        }
