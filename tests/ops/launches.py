"""Launches of Triton kernels, noted instead of made."""

import contextlib
from types import ModuleType

import torch
import triton


class _Noted:
    """In the place of a kernel: notes itself and the device it got."""

    def __init__(
        self, name: str, current: list, started: list, arguments: list
    ):
        self.name, self.current, self.started = name, current, started
        self.arguments = arguments

    def __getitem__(self, grid: tuple):
        def launch(*arguments, **named):
            self.started.append((self.name, *self.current))
            self.arguments.append(named | {"grid": grid})

        return launch


def launches(
    module: ModuleType, monkeypatch, arguments: list[dict] | None = None
) -> list[tuple]:
    """(kernel, device that ``on_device`` stands for) of each launch.

    Args:
        module: one that launches ``module.kernels`` within its ``on_device``.
        arguments: filled with the named arguments and grid of each launch.
    """
    arguments = [] if arguments is None else arguments
    current: list[torch.device] = []
    started: list[tuple] = []

    @contextlib.contextmanager
    def on_device(device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(module, "on_device", on_device)
    kinds = (
        triton.JITFunction,
        triton.runtime.interpreter.InterpretedFunction,
    )
    for name, kernel in vars(module.kernels).items():
        if isinstance(kernel, kinds):
            monkeypatch.setattr(
                module.kernels,
                name,
                _Noted(name, current, started, arguments),
            )
    return started
