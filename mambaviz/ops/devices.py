"""Where kernels start."""

import contextlib

import torch


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Kernels start on the current device: make it the tensors' own."""
    if device.type == "cuda":
        return torch.cuda.device(device)
    return contextlib.nullcontext()
