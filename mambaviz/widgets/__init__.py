"""The explorables: a Python class and a JavaScript module side by side."""

from mambaviz.widgets.break_lti import BreakLTI
from mambaviz.widgets.five_rules import FiveRules
from mambaviz.widgets.hold_it import HoldIt
from mambaviz.widgets.kernel_builder import KernelBuilder
from mambaviz.widgets.kernel_slides import KernelSlides
from mambaviz.widgets.memory_decay import MemoryDecay

__all__ = [
    "BreakLTI",
    "FiveRules",
    "HoldIt",
    "KernelBuilder",
    "KernelSlides",
    "MemoryDecay",
]
