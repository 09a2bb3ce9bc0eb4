"""The explorables: a Python class and a JavaScript module side by side."""

from mambaviz.widgets.five_rules import FiveRules
from mambaviz.widgets.hold_it import HoldIt
from mambaviz.widgets.memory_decay import MemoryDecay

__all__ = ["FiveRules", "HoldIt", "MemoryDecay"]
