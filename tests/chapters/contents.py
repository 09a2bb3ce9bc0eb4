"""What each chapter holds, in the order in which it stands there."""

from dataclasses import dataclass

LONGEST_CELL = 15  # lines


@dataclass(frozen=True)
class Contents:
    """What ``test_every_chapter`` expects of a chapter.

    Args:
        sections: the claims that the book owes its source and errata, by
            number, and the section that holds them.
        misconceptions: the titles of the boxes.
        explorables: the modules of ``mambaviz.widgets`` that stand in it.
        plates: how many pictures it has.
        measured: the functions of plates, and the explorables, that show
            times of a machine.
        asked: its exercises, where it asks them in an order of its own.
        elsewhere: where its explorables' "How is this computed" leads, if
            not into this chapter.
        longest_imports: lines of the first cell, which is a list.
        longest_plate: lines of a cell that draws, words for the eye included.
    """

    sections: dict[str, str]
    misconceptions: tuple[str, ...]
    explorables: tuple[str, ...]
    plates: int = 5
    measured: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    longest_imports: int = LONGEST_CELL
    longest_plate: int = LONGEST_CELL


CONTENTS = {
    "transformer-cost": Contents(
        sections={
            "S005": "a-text-is-a-sequence-of-tokens",
            "S006, S007, S010": "who-may-look-at-whom",
            "S008, S009, S012": "one-token-at-a-time",
            "S013, S014": "training-the-matrix-in-one-go",
            "S015, S016, E1": "writing-the-same-again-and-again",
            "S011, S017": "the-cache-and-what-it-costs",
            "S018": "two-ways-to-remember",
        },
        misconceptions=(
            '"generating L tokens takes about L² computations, because all '
            'is recomputed"',
        ),
        explorables=(
            "decoder_block",
            "one_go_or_row_by_row",
            "three_odometers",
            "memory_meter",
        ),
        measured=("draw_times",),
        longest_imports=21,
        longest_plate=22,
    ),
    "recurrent-networks": Contents(
        sections={
            "S019, S020": "one-cell-used-again-and-again",
            "S021": "only-the-last-state-is-needed",
            "S022, S023": "the-price-of-a-word",
            "S024, S025": "what-the-state-holds",
            "S026, S027, E2": "why-the-first-word-fades",
            "S028, E3": "training-waits",
            "S029, S030": "what-each-of-them-costs",
        },
        misconceptions=(
            '"it forgets because it has only one previous state"',
            '"a recurrent network cannot be trained in parallel"',
        ),
        explorables=("fold_unfold", "still_knows_hello", "comparison_table"),
        measured=("draw_times", "comparison_table"),
    ),
    "state-space-models": Contents(
        sections={
            "S033 to S036, S038, S040": "where-you-are-and-what-comes-next",
            "S037": "a-state-is-a-list-of-numbers",
            "S032": "a-mass-on-a-spring",
            "S042, S046, S048, S059": "the-two-equations",
            "S051": "along-the-wires",
            "S052": "b-lets-the-input-in",
            "S047, S053, S054, E5": "a-connects-the-states",
            "S049, S055": "c-reads-the-state",
            "S056 to S058": "d-goes-past-it",
            "S031, S041": "a-signal-in-a-signal-out",
            "S039, S043": "predict-where-a-body-will-be",
            "S044, S045, S050": "learn-the-matrices-from-data",
            "E4": "not-the-only-description",
        },
        misconceptions=(
            '"A is updated as the state moves"',
            '"the state is the smallest list there is"',
        ),
        explorables=("maze", "wires", "draw_a_signal"),
        elsewhere=("chapters/zero-order-hold.html#recurrence-code",),
        longest_imports=20,
    ),
    "zero-order-hold": Contents(
        sections={
            "S060": "why-the-samples-are-not-enough",
            "S061, S063": "hold-each-value",
            "S062": "the-step-is-learned",
            "S064, S066": "from-the-equation-to-the-step",
            "S065": "a-sequence-in-a-sequence-out",
            "E25": "which-state-goes-with-which-token",
            "S067": "the-model-stores-a-not-its-bar",
            "S086": "how-long-a-state-remembers",
            "E11": "where-the-released-code-differs",
        },
        misconceptions=(
            '"the index is off by one"',
            '"Mamba discretises with ZOH"',
        ),
        explorables=("hold_it", "memory_decay", "five_rules"),
        asked=(
            "zoh/which-state",
            "zoh/half-life",
            "zoh/ratio",
            "zoh/euler-limit",
            "zoh/which-rule",
            "zoh/b-bar",
        ),
    ),
    "three-representations": Contents(
        sections={
            "S068 to S070": "the-recurrence-step-by-step",
            "S071, S078, S079": "what-each-way-costs",
            "S072, S073, S075": "a-filter-that-slides",
            "S074, E6": "what-shapes-a-kernel",
            "S076, E7": "padding",
            "S077": "training-in-parallel-the-fft",
            "S080 to S082": "train-one-way-deploy-the-other",
            "S083": "what-had-to-stay-fixed",
            "S084": "the-same-for-every-text",
        },
        misconceptions=(
            '"the kernel has a fixed, small size"',
            '"padding at the end is harmless"',
        ),
        explorables=("kernel_slides", "kernel_builder", "break_lti"),
        plates=8,
        measured=("draw_times",),
        longest_imports=20,
    ),
    "hippo": Contents(
        sections={
            "S085, S086": "what-a-decides",
            "S087, S092": "compress-a-signal-into-coefficients",
            "S088, S091, E9": "which-ages-survive",
            "S089, E8": "the-matrix",
            "S090, E10": "four-matrices-one-judge",
            "S093": "a-window-the-legendre-memory-unit",
            "S094, S096": "from-hippo-to-s4-and-s4d",
            "S095": "a-tune-long-ago",
        },
        misconceptions=(
            '"the HiPPO matrix, as printed"',
            '"HiPPO keeps the recent past better"',
            '"Mamba uses the HiPPO matrix"',
        ),
        explorables=("draw_and_remember", "sign_flip", "four_as"),
    ),
}
