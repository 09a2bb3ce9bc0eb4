"""Scripts, styles and fonts of the book: all local, each where it is needed.

The pages work from ``file://``, where a page may load classic scripts and
nothing else. They stand in ``<head>`` and block: an explorable is drawn while
its page is parsed, so that its first picture is there before the first paint.
"""

import filecmp
import hashlib
import re
import shutil
from importlib import metadata
from pathlib import Path, PurePosixPath

import plotly
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.logging import getLogger

from mambaviz import exercises, theme
from mambaviz.figures import plate
from mambaviz.widgets import modules

STATIC = Path(__file__).parent / "static"
OWN = "mambaviz"  # the folder below _static/ that is all ours
OWN_SCRIPTS = ("host.js", "plotly_plates.js", "search.js")

PLOTLY = "vendor/plotly.min.js"
MATHJAX = "vendor/mathjax"
MATHJAX_PACKAGE = "sphinx-mathjax-offline"
MATHJAX_FILES = ("tex-chtml-full.js", "output/chtml/fonts/woff-v2/*.woff")

_EXPLORABLE = re.compile(r'data-explorable="([^"]*)"')
_EQUATION = re.compile(r'class="[^"]*\bmath\b')
_LOGGER = getLogger(__name__)

# A page is printed in its light colours, whatever the screen shows.
LIGHT_ON_PAPER = """(({ dataset }) => {
  let shown;
  addEventListener("beforeprint", () => {
    shown = dataset.theme;
    dataset.theme = "light";
  });
  addEventListener("afterprint", () => (dataset.theme = shown));
})(document.documentElement);"""


def setup(app: Sphinx) -> None:
    """Connect the book's own files and those it takes from packages."""
    app.add_config_value("mambaviz_assets", "", "html", str)
    app.add_css_file(f"{OWN}/book.css", priority=900)
    app.add_js_file(None, body=LIGHT_ON_PAPER)
    app.connect("config-inited", note_own_files)
    app.connect("builder-inited", write_own_files)
    app.connect("builder-inited", copy_mathjax)
    app.connect("html-page-context", add_scripts, priority=900)
    app.connect("html-page-context", drop_mathjax, priority=901)


def own_files() -> dict[str, str]:
    """The book's own scripts and styles: file name to content."""
    files = {
        name: (STATIC / name).read_text(encoding="utf-8")
        for name in OWN_SCRIPTS
    }
    for name in ("lib", *modules.names()):
        files[f"{name}.js"] = modules.classic(name)
    files["book.css"] = "\n".join(
        (
            theme.css_variables(),
            modules.stylesheet(),
            plate.stylesheet(),
            exercises.stylesheet(),
            (STATIC / "book.css").read_text(encoding="utf-8"),
        )
    )
    return files


def note_own_files(app: Sphinx, config: Config) -> None:
    """Let Sphinx write all pages again when one of our files has changed.

    A page names each file with a checksum, so that no browser shows a page
    with a script that it kept from before.
    """
    content = "\0".join(text for _, text in sorted(own_files().items()))
    config.mambaviz_assets = hashlib.sha256(content.encode()).hexdigest()


def write_own_files(app: Sphinx) -> None:
    """Write our scripts and styles, and none that are no longer ours."""
    if app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / OWN
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in own_files().items():
        (folder / name).write_text(text, encoding="utf-8")


def copy_mathjax(app: Sphinx) -> None:
    """Copy the one script of MathJax that we use, and its fonts."""
    if app.builder.format != "html":
        return
    for file in metadata.files(MATHJAX_PACKAGE) or ():
        _, found, inner = file.as_posix().partition("/static/mathjax/")
        if found and any(PurePosixPath(inner).match(m) for m in MATHJAX_FILES):
            _copy(Path(file.locate()), app, f"{MATHJAX}/{inner}")


def copy_plotly(app: Sphinx) -> None:
    """Copy plotly's own script out of its Python package."""
    source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    _copy(source, app, PLOTLY)


def add_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Load what the explorables and plotly plates of this page need.

    Args:
        app: the Sphinx application.
        pagename: the page, without suffix.
        templatename: its template.
        context: what the template is filled with.
        doctree: the page's document, if it comes from one.
    """
    body = context.get("body") or ""
    names = sorted(set(_EXPLORABLE.findall(body)))
    if unknown := [name for name in names if name not in modules.names()]:
        _LOGGER.warning(
            "no such explorable: %s; there are %s",
            ", ".join(unknown),
            ", ".join(modules.names()),
            location=pagename,
        )
        return
    scripts = []
    if names:
        scripts = [f"{OWN}/{name}.js" for name in ("host", "lib", *names)]
    if "data-plotly" in body:
        copy_plotly(app)
        scripts += [PLOTLY, f"{OWN}/plotly_plates.js"]
    for order, script in enumerate(scripts):
        app.add_js_file(script, priority=600 + order)


def drop_mathjax(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Leave MathJax out where no equation is.

    Sphinx loads it also on pages that stand above such a page in the table of
    contents, which is the landing page.

    Args:
        app: the Sphinx application.
        pagename: the page, without suffix.
        templatename: its template.
        context: what the template is filled with.
        doctree: the page's document, if it comes from one.
    """
    if _EQUATION.search(context.get("body") or ""):
        return
    if any(title.next_node(nodes.math) for title in app.env.titles.values()):
        return  # it stands in the table of contents, on every page
    context["script_files"][:] = [
        script
        for script in context["script_files"]
        if "mathjax" not in f"{script.filename} {script.attributes}".lower()
    ]


def _copy(source: Path, app: Sphinx, name: str) -> None:
    target = Path(app.outdir) / "_static" / name
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
