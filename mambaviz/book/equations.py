r"""The palette's colours in equations.

A chapter writes plain LaTeX. The colours are put in where an equation is
written as HTML, not into the document: so the search index and the notebook
stay plain. A reader without JavaScript, for whom nothing would set the
equation, reads its plain LaTeX.
"""

from collections.abc import Callable
from contextlib import suppress

from docutils import nodes
from myst_parser.mdit_to_docutils.sphinx_ import SphinxRenderer
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from mambaviz.theme import colour_symbols

Visitor = Callable[[HTML5Translator, nodes.Element], None]


def setup(app: Sphinx) -> None:
    """Let inline and displayed equations be written in colour."""
    SphinxRenderer._random_label = _label_by_place
    inline = _in_colour("visit_math", '<code class="mv-tex">{}</code>')
    display = _in_colour(
        "visit_math_block", '<pre class="mv-tex-display">{}</pre>'
    )
    app.add_node(nodes.math, override=True, html=(inline, None))
    app.add_node(nodes.math_block, override=True, html=(display, None))


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


def _in_colour(method: str, plain: str) -> Visitor:
    def visit(translator: HTML5Translator, node: nodes.Element) -> None:
        tex = node.astext()
        coloured = node.deepcopy()
        coloured.clear()
        coloured += nodes.Text(colour(tex))
        coloured["classes"].append("pst-js-only")  # the theme hides it then
        # The translator's own method, which this one stands in front of.
        with suppress(nodes.SkipNode):
            getattr(type(translator), method)(translator, coloured)
        translator.body.append(
            f"<noscript>{plain.format(translator.encode(tex))}</noscript>"
        )
        raise nodes.SkipNode

    return visit


def _label_by_place(renderer: SphinxRenderer) -> str:
    """A label for an unnamed equation; MyST's own is new in every build."""
    env = renderer.sphinx_env
    return f"{env.docname}-{env.new_serialno('mambaviz-equation') + 1}"
