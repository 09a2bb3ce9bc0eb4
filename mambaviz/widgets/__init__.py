"""The explorables: a Python class and a JavaScript module side by side."""

from mambaviz.widgets.break_lti import BreakLTI
from mambaviz.widgets.comparison_table import ComparisonTable
from mambaviz.widgets.decoder_block import DecoderBlock
from mambaviz.widgets.draw_a_signal import DrawASignal
from mambaviz.widgets.draw_and_remember import DrawAndRemember
from mambaviz.widgets.five_rules import FiveRules
from mambaviz.widgets.fold_unfold import FoldUnfold
from mambaviz.widgets.four_as import FourAs
from mambaviz.widgets.hold_it import HoldIt
from mambaviz.widgets.kernel_builder import KernelBuilder
from mambaviz.widgets.kernel_slides import KernelSlides
from mambaviz.widgets.maze import Maze
from mambaviz.widgets.memory_decay import MemoryDecay
from mambaviz.widgets.memory_meter import MemoryMeter
from mambaviz.widgets.one_go_or_row_by_row import OneGoOrRowByRow
from mambaviz.widgets.sign_flip import SignFlip
from mambaviz.widgets.still_knows_hello import StillKnowsHello
from mambaviz.widgets.three_odometers import ThreeOdometers
from mambaviz.widgets.wires import Wires

__all__ = [
    "BreakLTI",
    "ComparisonTable",
    "DecoderBlock",
    "DrawASignal",
    "DrawAndRemember",
    "FiveRules",
    "FoldUnfold",
    "FourAs",
    "HoldIt",
    "KernelBuilder",
    "KernelSlides",
    "Maze",
    "MemoryDecay",
    "MemoryMeter",
    "OneGoOrRowByRow",
    "SignFlip",
    "StillKnowsHello",
    "ThreeOdometers",
    "Wires",
]
