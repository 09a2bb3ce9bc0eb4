"""The exercises of the chapter ``three-representations``."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Mistake
from mambaviz.exercises.judges import Function, Number
from mambaviz.theory.lti import (
    causal_convolution,
    fft_convolution,
    simulate_recurrence,
    wrapped_fft_convolution,
)

_f64 = functools.partial(torch.tensor, dtype=torch.float64)

_KERNELS = [_f64([1.0, 0.5, 0.25]), _f64([0.3, -0.7, 0.2, 0.9])]
# Arguments (K_bar, before, x); the last has a kernel of one tap.
_PIECES = [
    (_KERNELS[0], _f64([2.0, -1.0]), _f64([1.0, 2.0, -1.0])),
    (_KERNELS[1], _f64([0.5, 0.0, 3.0]), _f64([0.0, 1.0, 0.0, 2.0])),
    (_KERNELS[0], _f64([1.0, 4.0]), _f64([1.0, -2.0, 0.5, 3.0, 4.0])),
    (_f64([2.0]), _f64([]), _f64([3.0])),
]


def solve_no_wrap(K_bar: Tensor, before: Tensor, x: Tensor) -> Tensor:
    """The end comes round to old outputs alone, and these are dropped."""
    y = wrapped_fft_convolution(K_bar, torch.cat([before, x]))
    return y[len(before) :]


def _spoiled(K_bar: Tensor, before: Tensor, x: Tensor) -> Tensor:
    """The outputs that the end has come round to."""
    return wrapped_fft_convolution(K_bar, torch.cat([before, x]))[: len(x)]


NO_WRAP = Exercise(
    name="three/no-wrap",
    question=(
        "A long text comes in pieces. Write `convolve(K_bar, before, x)`: "
        "the outputs of the causal convolution for the piece x, as long as "
        "x. `before` holds the len(`K_bar`) − 1 inputs just before the "
        "piece; all are real float64 tensors with one axis. No zeros are "
        "needed: on a circle of len(before) + len(x) places, which outputs "
        "does the end come round to? Try it with "
        "`wrapped_fft_convolution`, or with `torch.fft`."
    ),
    solution=solve_no_wrap,
    judge=Function(
        "convolve(K_bar, before, x)",
        _PIECES,
        lambda K_bar, before, x: tuple(x.shape),
    ),
    mistakes=[
        Mistake(
            lambda K_bar, before, x: wrapped_fft_convolution(K_bar, x),
            "The end has come round to the start: your first outputs hold "
            "the last inputs. Put the inputs of before at the start of the "
            "circle, and let it come round to their outputs.",
        ),
        Mistake(
            lambda K_bar, before, x: fft_convolution(K_bar, x),
            "Nothing comes round, but you let the piece begin in silence. "
            "Its first outputs also hold the inputs of before.",
        ),
        Mistake(
            _spoiled,
            "You keep the first outputs of the circle. They are those of "
            "the inputs of before, and just those are spoiled by the end.",
        ),
        Mistake(
            lambda K_bar, before, x: fft_convolution(
                K_bar.flip(0), torch.cat([before, x])
            )[len(before) :],
            "The kernel is turned round. A product of Fourier transforms "
            "does the turning by itself: give it `K_bar` as it is, with the "
            "newest input's tap first.",
        ),
    ],
    nudge=(
        "Put before and x in a row and convolve them on a circle of that "
        "length. The kernel reaches len(`K_bar`) − 1 places past the end, so "
        "as many outputs at the start are spoiled. You do not need them."
    ),
)


def _causal_filter(x: Tensor) -> Tensor:
    return causal_convolution(_f64([0.5, 0.3, 0.2]), x)


def _centred_filter(x: Tensor) -> Tensor:
    ahead = torch.cat([x[1:], x[:1] * 0])
    behind = torch.cat([x[:1] * 0, x[:-1]])
    return (ahead + x + behind) / 3


def _wrapped_filter(x: Tensor) -> Tensor:
    return wrapped_fft_convolution(_f64([0.5, 0.3, 0.2]), x)


def _square(x: Tensor) -> Tensor:
    return x * x


def _next_times_this(x: Tensor) -> Tensor:
    """Looks one step ahead, which an input of zeros does not show."""
    return x * torch.cat([x[1:], x[:1]])


def _running_sum(x: Tensor) -> Tensor:
    return x.cumsum(dim=0)


def _minus_mean(x: Tensor) -> Tensor:
    return x - x.mean()


def _peeks_late(x: Tensor) -> Tensor:
    """Only the last but one output looks ahead."""
    y = x.clone()
    y[-2] = y[-2] + x[-1]
    return y


_SYSTEMS = [
    (_causal_filter,),
    (_square,),
    (_centred_filter,),
    (_wrapped_filter,),
    (_minus_mean,),
    (_next_times_this,),
    (_peeks_late,),
    (_running_sum,),
]


def solve_causality(system: Callable[[Tensor], Tensor]) -> bool:
    """Change the input from step k on: outputs before k must stay."""
    x = torch.linspace(0.3, 1.7, 8, dtype=torch.float64)
    for k in range(1, len(x)):
        other = x.clone()
        other[k:] = other[k:] + 1
        if (system(other) - system(x))[:k].abs().max() > 1e-9:
            return False
    return True


def _first_output_alone(system: Callable[[Tensor], Tensor]) -> bool:
    x = torch.linspace(0.3, 1.7, 8, dtype=torch.float64)
    other = x.clone()
    other[1:] = other[1:] + 1
    return bool((system(other) - system(x))[0].abs() < 1e-9)


def _last_input_alone(system: Callable[[Tensor], Tensor]) -> bool:
    """An impulse at the end, on a silent input."""
    x = torch.zeros(8, dtype=torch.float64)
    x[-1] = 1
    return bool(system(x)[:-1].abs().max() < 1e-9)


def _exactly(system: Callable[[Tensor], Tensor]) -> bool:
    """Rounding is taken for knowledge of the future, and the present too."""
    x = torch.linspace(0.3, 1.7, 8, dtype=torch.float64)
    other = x.clone()
    other[4:] = other[4:] + 1
    return torch.equal(system(other)[:5], system(x)[:5])


CAUSALITY = Exercise(
    name="three/causality",
    question=(
        "Write `is_causal(system)`. The system is a function from 8 numbers, "
        "a float64 tensor, to 8 numbers, and need not be linear. Return True "
        "if no output changes with a later input, else False; differences "
        "below 10⁻⁹ are rounding."
    ),
    solution=solve_causality,
    judge=Function("is_causal(system)", _SYSTEMS, lambda system: ()),
    mistakes=[
        Mistake(
            _first_output_alone,
            "You watch the first output alone. A system may look ahead "
            "later on: change the input from every step k on, and watch all "
            "the outputs before k.",
        ),
        Mistake(
            _last_input_alone,
            "A silent input hides some of it: a system that is not linear "
            "may multiply the future by the present, and 0 times anything "
            "is 0. Start from an input without zeros, and change it.",
        ),
        Mistake(
            _exactly,
            "The output at the step that you change may change: y_k knows "
            "x_k. Only outputs before that step must stay.",
        ),
        Mistake(
            lambda system: not solve_causality(system),
            "True and False have changed places.",
        ),
    ],
    nudge=(
        "Take any input, change it from step k on, and compare the outputs "
        "before k. Do so for every k."
    ),
)


def _layers() -> list[tuple]:
    """Arguments (A_bar, B_bar, C, D, past, x)."""
    return [
        (
            _f64([0.9, 0.5]),
            _f64([1.0, -0.5]),
            _f64([0.7, 2.0]),
            0.3,
            _f64([2.0, -1.0, 0.5]),
            _f64([1.0, 0.0, -2.0, 0.5]),
        ),
        (
            _f64([0.8]),
            _f64([0.2]),
            _f64([1.0]),
            -1.0,
            _f64([1.0, 3.0]),
            _f64([1.0, 1.0, 3.0]),
        ),
        (_f64([0.5]), _f64([1.0]), _f64([1.0]), 0.0, _f64([2]), _f64([4.0])),
    ]


def _after(A_bar: Tensor, B_bar: Tensor, prompt: Tensor) -> Tensor:
    h = torch.zeros_like(B_bar)
    for x_k in prompt:
        h = A_bar * h + B_bar * x_k
    return h


def solve_deploy(
    A_bar: Tensor, B_bar: Tensor, C: Tensor, D: float, past: Tensor, x: Tensor
) -> Tensor:
    """The state after the prompt, all at once, then one step a token."""
    age = torch.arange(len(past) - 1, -1, -1)
    h = (A_bar[:, None] ** age * B_bar[:, None]) @ past
    y = []
    for x_k in x:
        h = A_bar * h + B_bar * x_k
        y.append(C @ h + D * x_k)
    return torch.stack(y)


def _read_before_write(
    A_bar: Tensor, B_bar: Tensor, C: Tensor, D: float, past: Tensor, x: Tensor
) -> Tensor:
    h, y = _after(A_bar, B_bar, past), []
    for x_k in x:
        y.append(C @ h + D * x_k)
        h = A_bar * h + B_bar * x_k
    return torch.stack(y)


DEPLOY = Exercise(
    name="three/deploy",
    question=(
        "A layer was trained as `y = fft_convolution(K_bar, x) + D * x`, "
        "where `K_bar` = (C `B_bar`, C `A_bar` `B_bar`, ...). A prompt has "
        "been read in this way, and now tokens follow one by one. Write "
        "`deploy(A_bar, B_bar, C, D, past, x)`: the outputs for the tokens "
        "x that follow the prompt, `past`, by a recurrence that keeps only "
        "its state. `A_bar` is the diagonal; `A_bar`, `B_bar` and C have one "
        "number for each state, D is a number, past and x have one axis."
    ),
    solution=solve_deploy,
    judge=Function(
        "deploy(A_bar, B_bar, C, D, past, x)",
        _layers(),
        lambda A_bar, B_bar, C, D, past, x: tuple(x.shape),
    ),
    mistakes=[
        Mistake(
            _read_before_write,
            "You read the state before x_k has entered it: the part C h "
            "comes one token late. Move the state first, then read it.",
        ),
        Mistake(
            lambda A_bar, B_bar, C, D, past, x: simulate_recurrence(
                A_bar, B_bar, C, D, x
            ),
            "Your state begins at 0, as if there had been no prompt. What "
            "has the prompt left in it?",
        ),
        Mistake(
            lambda A_bar, B_bar, C, D, past, x: simulate_recurrence(
                A_bar, B_bar, C, 0.0, x, _after(A_bar, B_bar, past)
            ),
            "The direct path D x is missing. The kernel does not hold it.",
        ),
        Mistake(
            lambda A_bar, B_bar, C, D, past, x: simulate_recurrence(
                A_bar, B_bar, C, D, x, A_bar * _after(A_bar, B_bar, past)
            ),
            "The prompt has faded by one step too many: its last token has "
            "just come in, with the power 0 of `A_bar`.",
        ),
        Mistake(
            lambda A_bar, B_bar, C, D, past, x: C @ B_bar * x + D * x,
            "Each output knows only its own token: the state is not "
            "carried on. Keep h from one turn of the loop to the next.",
        ),
    ],
    nudge=(
        "First the state: run the recurrence over the prompt and keep only "
        "h. Then one loop over x: move the state with `A_bar` and `B_bar`, "
        "read it with C, and add D times the token."
    ),
)


_DELTA_A, _PADS = -0.1, 7


def solve_carried_state(delta_A: float = _DELTA_A, pads: int = _PADS) -> float:
    """Every step multiplies the state by e^(delta A), a pad's step too."""
    one = torch.ones(1, dtype=torch.float64)
    A_bar = torch.exp(delta_A * one)
    silence = torch.zeros(pads, dtype=torch.float64)
    y = simulate_recurrence(A_bar, one, one, 0.0, silence, initial_state=one)
    return y[-1].item()  # e^-0.7 = 0.497


_LEFT = solve_carried_state()

CARRIED_STATE = Exercise(
    name="three/carried-state",
    question=(
        "A state is 1 after the last token of a prompt, and Δ A = "
        f"−{-_DELTA_A:g}. The prompt was filled up with {_PADS} pads at the "
        "end, whose input is 0. What is the state that generation starts "
        "from, if nobody masks the pads? Within 1 %."
    ),
    solution=_LEFT,
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            1.0,
            "So it should be, and so it is with Δ set to 0 on the pads. "
            "Unmasked, a pad writes nothing, but its step still makes the "
            "old state decay.",
        ),
        Mistake(
            solve_carried_state(pads=1),
            "That is what one pad leaves. There are more.",
        ),
        Mistake(
            1 - _LEFT,
            "That is what was lost. The question is what is left.",
        ),
        Mistake(
            solve_carried_state(pads=_PADS - 1),
            "One step too few: each of the pads takes a step.",
        ),
        Mistake(
            1 + _PADS * _DELTA_A,
            "The loss is not the same in every step: each multiplies what "
            "is left by e^(Δ A).",
        ),
    ],
    nudge="Each pad multiplies the state by `A_bar` = e^(Δ A).",
)


EXERCISES = (NO_WRAP, CAUSALITY, DEPLOY, CARRIED_STATE)
