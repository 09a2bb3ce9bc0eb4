"""What every explorable is: one ES module in two hosts.

In a running kernel an explorable is an ordinary anywidget: its knobs are
traits, and a slider and Python move them alike. While the book is built
(``MAMBAVIZ_STATIC=1``) it opens no connection to a page; it represents itself
as HTML that carries its state, and the book's static host runs the same
module on it.
"""

import html
import json
import os
from collections import Counter
from typing import ClassVar

import anywidget
import traitlets

from mambaviz import theme
from mambaviz.widgets import modules
from mambaviz.widgets.traits import Knob

# Where an explorable points to the code behind it, from the book's root.
ZOH_CHAPTER = "chapters/zero-order-hold.html"

_shown: Counter[str] = Counter()


def is_static() -> bool:
    """Whether this process builds the book instead of serving a reader."""
    return os.environ.get("MAMBAVIZ_STATIC") == "1"


class Explorable(anywidget.AnyWidget):
    """Base of the explorables; a subclass names its module and its words.

    A subclass sets ``_module`` (the JavaScript file beside it), ``question``
    (the title of the card), ``lesson`` (one sentence that says the point to
    a reader who sees no picture), ``answer`` (what there is to find out) and
    ``computed`` (pairs of a page's anchor and the function that the picture's
    numbers are tested against), declares its knobs, and gives the numbers of
    its first picture in :meth:`numbers`.
    """

    _module: ClassVar[str] = ""
    question: ClassVar[str] = ""
    lesson: ClassVar[str] = ""
    answer: ClassVar[str] = ""
    computed: ClassVar[dict[str, str]] = {}

    words = traitlets.Dict(read_only=True).tag(sync=True)
    knobs = traitlets.Dict(read_only=True).tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        """Put the module together where a subclass declares its own."""
        # anywidget derives from a finished class when it adds traits: only a
        # class that names a module itself may read it.
        if cls.__dict__.get("_module"):
            cls._esm = modules.esm(cls._module)
            cls._css = theme.css_variables() + modules.stylesheet()
        super().__init_subclass__(**kwargs)

    def __init__(self, **values):
        """Make the explorable with its knobs at ``values``.

        Raises:
            TypeError: a keyword that is no knob of this explorable.
            traitlets.TraitError: a value that its knob refuses.
        """
        if unknown := sorted(set(values) - set(self.knob_traits())):
            raise TypeError(
                f"{type(self).__name__} has no knob {', '.join(unknown)};"
                f" its knobs are {', '.join(self.knob_traits())}"
            )
        super().__init__(**values)

    @classmethod
    def knob_traits(cls) -> dict[str, Knob]:
        """The knobs by name, in the order in which they were declared."""
        found = {}
        for base in reversed(cls.__mro__):
            for name, trait in vars(base).items():
                if isinstance(trait, Knob):
                    found[name] = trait
        return found

    @traitlets.default("words")
    def _default_words(self) -> dict:
        return {
            "question": self.question,
            "lesson": self.lesson,
            "answer": self.answer,
            "computed": self.computed,
        }

    @traitlets.default("knobs")
    def _default_knobs(self) -> dict:
        return {n: knob.describe() for n, knob in self.knob_traits().items()}

    def numbers(self) -> dict[str, str]:
        """The numbers of the present picture, as text."""
        return {}

    def open(self) -> None:
        """Connect to a page, unless the book is being built."""
        if not is_static():
            super().open()

    def _repr_mimebundle_(self, **kwargs):
        if not is_static():
            return super()._repr_mimebundle_(**kwargs)
        return {"text/plain": repr(self), "text/html": self.static_html()}

    def __repr__(self) -> str:
        """The explorable as Python would write it."""
        values = (f"{n}={getattr(self, n)!r}" for n in self.knob_traits())
        return f"{type(self).__name__}({', '.join(values)})"

    def static_html(self) -> str:
        """The explorable as a piece of a static page.

        Returns:
            HTML with the state as JSON, words and numbers for a reader
            without JavaScript, and the call that mounts the module.
        """
        state = {n: getattr(self, n) for n in self.knob_traits()}
        state |= {"words": self.words, "knobs": self.knobs}
        data = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
        # Neither a tag nor a comment in a word may end the script early.
        data = data.replace("<", "\\u003c")
        rows = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
            for name, value in self.numbers().items()
        )
        anchor = self._module.replace("_", "-")
        _shown[anchor] += 1
        if _shown[anchor] > 1:
            anchor += f"-{_shown[anchor]}"
        return (
            f'<div class="mv-explorable" id="{anchor}"'
            f' data-explorable="{self._module}">'
            f'<script type="application/json">{data}</script>'
            f'<div class="mv-fallback"><p><b>{html.escape(self.question)}</b>'
            f"</p><p>{html.escape(self.lesson)}</p><dl>{rows}</dl></div>"
            "<script>MambaViz.mount(document.currentScript.parentElement)"
            "</script></div>"
        )
