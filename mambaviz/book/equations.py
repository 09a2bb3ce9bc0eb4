r"""The palette's colours in equations.

A chapter writes plain LaTeX. The colours are put in where an equation is
written as HTML, not into the document: so titles, the search index and the
notebook stay plain.
"""

from collections.abc import Callable

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from mambaviz.theme import colour_symbols


def setup(app: Sphinx) -> None:
    """Let inline and displayed equations be written in colour."""
    for node, method in (
        (nodes.math, "visit_math"),
        (nodes.math_block, "visit_math_block"),
    ):
        app.add_node(node, override=True, html=(_in_colour(method), None))


def colour(latex: str) -> str:
    r"""Give every symbol of an equation the class of its colour.

    Args:
        latex: the equation's source.

    Returns:
        The source with each symbol in a ``\class{mv-NAME}{...}``, which
        MathJax turns into a class of the HTML it makes.
    """
    return colour_symbols(
        latex, lambda name, tex: rf"\class{{mv-{name}}}{{{tex}}}"
    )


def _in_colour(method: str) -> Callable[[HTML5Translator, nodes.Node], None]:
    def visit(translator: HTML5Translator, node: nodes.Element) -> None:
        coloured = node.deepcopy()
        coloured.clear()
        coloured += nodes.Text(colour(node.astext()))
        # The translator's own method, which this function stands in front of.
        getattr(type(translator), method)(translator, coloured)

    return visit
