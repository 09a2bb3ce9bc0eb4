"""Looking into a selective scan: its step, weights, states and attention.

    alpha[t, s] = C_t . (prod over s < r <= t of A_bar_r) B_bar_s

``recorded_scans`` keeps what each scan of a model is given; everything else
follows from it by the scan itself.

Source: Ali, Zimerman and Wolf 2024 (arXiv 2403.01590), section 3.
See: the chapter ``selection``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambaviz.models.mamba import (
    S6,
    Inner,
    Mask,
    ScanState,
    SelectiveScan,
    Weights,
)
from mambaviz.ops.selective_scan import selective_scan
from mambaviz.ops.selective_scan.reference import (
    accumulation_dtype,
    discrete_step,
)


@dataclass(frozen=True)
class RecordedScan:
    """What one scan was given and returned, and what follows from it.

    Everything is computed by the scan itself, run once more with another
    C, x or z: there is no second formula for y. Tensors keep their graph
    unless they were recorded under ``torch.no_grad``.

    Attributes:
        x: the input of the SSM, in a block the output of the convolution.
        delta: the step, after bias and softplus; 0 at padding.
        A: negative, one for all steps.
        B: input weights, at each step or fixed.
        C: output weights, likewise.
        D: weight of the skip.
        gate: silu(z); None where there is no gate.
        output: what the scan returned, after the gate.
        initial_state: the state before the first step; None for zero.
        reset: True where a packed sequence started, if there were any.
    """

    x: Inner
    delta: Inner
    A: Float[Tensor, "d_inner d_state"]
    B: Weights
    C: Weights
    D: Float[Tensor, " d_inner"]
    gate: Inner | None
    output: Inner
    initial_state: ScanState | None
    reset: Mask | None
    backend: str = "auto"

    @property
    def A_bar(self) -> Float[Tensor, "batch length d_inner d_state"]:
        """exp(delta A): what is kept of the state at each step."""
        return torch.exp(self.delta[..., None] * self.A)

    @property
    def B_bar(self) -> Float[Tensor, "batch length d_inner d_state"]:
        """delta B: how each state takes up the input, by Euler's rule."""
        B = self.B if self.B.ndim == 2 else self.B[:, :, None]
        return self.delta[..., None] * B

    @property
    def h(self) -> Float[Tensor, "batch length d_inner d_state"]:
        """Every state: with C_n = 1 and the rest 0, the output is h_n."""
        d_inner, d_state = self.A.shape
        readings = torch.eye(d_state).to(self.A)  # row n reads state n
        h = [
            self._scan(
                self.x.to(self.delta.dtype),
                C=row.expand(d_inner, d_state),
                D=None,
                initial_state=self.initial_state,
            )
            for row in readings
        ]
        return torch.stack(h, -1)

    @property
    def y(self) -> Inner:
        """The output of the SSM, before the gate."""
        return self._scan(self.x, initial_state=self.initial_state)

    def attention(
        self, channels: slice = slice(None)
    ) -> Float[Tensor, "batch _channels length length"]:
        """The hidden attention: how much of x_s is in y_t, per channel.

            alpha[t, s] = C_t . (prod over s < r <= t of A_bar_r) B_bar_s
            alpha[t, t] = C_t . B_bar_t + D

        For the delta, B and C that this input has chosen, the scan is linear
        in x, and y = alpha x. Column s is its answer to a 1 at step s and
        zeros elsewhere. What the initial state adds to y is not in it.

        Args:
            channels: which, of d_inner; each takes length^2 numbers.

        Source: Ali, Zimerman and Wolf 2024 (arXiv 2403.01590), section 3.
        """
        _, length, _ = self.x.shape
        A, D = self.A[channels], self.D[channels]
        fixed = {
            name: weights[channels]
            for name, weights in (("B", self.B), ("C", self.C))
            if weights.ndim == 2
        }
        matrices = []
        for row in range(len(self.x)):
            # One sequence for each impulse: s t d_inner
            delta = self.delta[row, :, channels].expand(length, -1, -1)
            impulses = torch.eye(length).to(delta)[..., None]
            per_step = {
                name: weights[row].expand(length, -1, -1)
                for name, weights in (("B", self.B), ("C", self.C))
                if weights.ndim == 3
            }
            reset = self.reset
            y = self._scan(
                impulses.expand_as(delta),
                delta=delta,
                A=A,
                D=D,
                reset=None if reset is None else reset[row].expand(length, -1),
                **fixed,
                **per_step,
            )
            matrices.append(y.permute(2, 1, 0))  # d_inner t s
        return torch.stack(matrices)

    def _scan(self, x: Tensor, **others: Tensor | None) -> Tensor:
        given = {
            "delta": self.delta,
            "A": self.A,
            "B": self.B,
            "C": self.C,
            "D": self.D,
            "reset": self.reset,
        }
        return selective_scan(x, **given | others, backend=self.backend)


@contextmanager
def recorded_scans(
    model: nn.Module,
) -> Iterator[dict[str, list[RecordedScan]]]:
    """While open, every S6 in the model, in a block or alone, is recorded.

        with recorded_scans(model) as scans:
            model(ids)
        scans["backbone.layers.0.mixer"][0].delta  # batch length d_inner

    Args:
        model: any module. Forward passes are recorded, single steps not.

    Yields:
        For each S6, by its name in the model, one record per forward pass.
    """
    scans: dict[str, list[RecordedScan]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, S6):
            scans[name] = []
            hooks.append(module.scan.register_forward_hook(_keep(scans[name])))
    try:
        yield scans
    finally:
        for hook in hooks:
            hook.remove()


def _keep(records: list[RecordedScan]) -> Callable[..., None]:
    def hook(scan: SelectiveScan, arguments: tuple, returned: tuple) -> None:
        x, delta, A, B, C, D, z, delta_bias, initial_state, reset = arguments
        dtype = accumulation_dtype(x, delta, A)
        records.append(
            RecordedScan(
                x=x,
                delta=discrete_step(delta, delta_bias, True, dtype),
                A=A,
                B=B,
                C=C,
                D=D,
                gate=None if z is None else F.silu(z),
                output=returned[0],
                initial_state=initial_state,
                reset=reset,
                backend=scan.backend,
            )
        )

    return hook
