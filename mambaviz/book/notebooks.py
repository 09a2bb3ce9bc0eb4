"""The chapters as notebooks: to download from the book, and for JupyterLab.

A chapter is a MyST text file. Programs that open notebooks do not read MyST,
so each chapter is written as plain Markdown and code, without outputs, and
with the same bytes every time.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
import yaml
from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx

import mambaviz
from mambaviz.book.plain import Book, Link, PlainMarkdown, read_book

MANIFEST = ".written.json"  # in lab/: what we wrote, to know it again
HIDING_TAGS = {"hide-input", "hide-cell", "remove-input", "remove-cell"}

# The first cell of a downloaded notebook. It runs on machines that have never
# seen the repository, so it explains itself.
INSTALL = """\
# This notebook runs on the book's package, mambaviz. Where it is missing, or
# of another version, this cell installs it; otherwise it does nothing.
import os, pathlib, subprocess, sys

book = os.environ.get("MAMBAVIZ_BOOK_URL", "{url}")  # where the book is
wheel = "wheels/mambaviz-{version}-py3-none-any.whl"
try:
    from mambaviz import __version__ as found
except ImportError:
    found = None
if found != "{version}":
    sys.modules.pop("mambaviz", None)
    local = pathlib.Path("..", wheel).resolve().as_uri()
    source = f"{{book.rstrip('/')}}/{{wheel}}" if book else local
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet",
                    f"mambaviz[notebook] @ {{source}}"], check=True)
"""


def setup_notebooks(app: Sphinx) -> None:
    """Register the setting ``mambaviz_book_url``.

    Args:
        app: the Sphinx application. Its setting is the address at which the
            built book can be reached, such as the root of a static host;
            empty where downloaded notebooks find the wheel beside them.
    """
    app.add_config_value("mambaviz_book_url", "", "html", str)


def read_chapter(path: Path) -> NotebookNode:
    """Read a chapter's cells.

    Args:
        path: a MyST text notebook.

    Returns:
        The notebook, its Markdown still MyST.
    """
    return jupytext.reads(path.read_text(encoding="utf-8"), fmt="md:myst")


def markdown_cells(path: Path) -> list[str]:
    """The sources of a chapter's Markdown cells.

    Args:
        path: a MyST text notebook.

    Returns:
        Their sources, as MyST.
    """
    cells = read_chapter(path).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def make_notebook(
    book: Book, chapter: str, link: Link, first: str = ""
) -> NotebookNode:
    """Turn a chapter into a notebook that any program can open.

    Args:
        book: what the chapter may refer to.
        chapter: the chapter's name.
        link: gives the address of a chapter or of a heading in it.
        first: the source of a code cell to put in front, if any.

    Returns:
        A notebook without outputs and with cell ids that depend on nothing
        but the chapter's name and the order of the cells.
    """
    plain = PlainMarkdown(book, chapter, link)
    cells = [nbformat.v4.new_code_cell(first.rstrip())] if first else []
    for cell in read_chapter(book.paths[chapter]).cells:
        if cell.cell_type == "markdown":
            source = plain.cell(cell.source)
            if not source:
                continue
            new = nbformat.v4.new_markdown_cell(source)
            if plain.attachments:
                new.attachments = plain.attachments
        else:
            new = nbformat.v4.new_code_cell(cell.source)
            new.metadata = cell.metadata
            if HIDING_TAGS & set(cell.metadata.get("tags", [])):
                jupyter = new.metadata.setdefault("jupyter", {})
                jupyter["source_hidden"] = True
        cells.append(new)
    for number, cell in enumerate(cells):
        cell.id = f"{chapter[:50]}-{number}"
    return nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        },
    )


def has_code(book: Book, chapter: str) -> bool:
    """Whether a chapter has anything to run.

    Args:
        book: the book.
        chapter: the chapter's name.

    Returns:
        ``True`` if it has a code cell.
    """
    cells = read_chapter(book.paths[chapter]).cells
    return any(cell.cell_type == "code" for cell in cells)


def write_downloads(app: Sphinx) -> list[Path]:
    """Write ``notebooks/<chapter>.ipynb`` into the built book.

    Args:
        app: the Sphinx application, after it has read the chapters.

    Returns:
        The notebooks, one for each chapter with code.
    """
    settings = app.config
    url = getattr(settings, "mambaviz_book_url", "")
    works = getattr(settings, "bibtex_bibfiles", [])
    documents = {
        Path(document).name: document
        for document in sorted(app.env.found_docs)
        if app.env.doc2path(document).endswith(".md")
    }
    book = read_book(
        [Path(app.env.doc2path(document)) for document in documents.values()],
        [Path(app.srcdir, name) for name in works],
        settings.myst_enable_extensions,
        markdown_cells,
    )

    def address(chapter: str, heading: str | None) -> str:
        root = url.rstrip("/") if url else ".."
        anchor = f"#{nodes.make_id(heading)}" if heading else ""
        page = app.builder.get_target_uri(documents[chapter])
        return f"{root}/{page}{anchor}"

    first = INSTALL.format(url=url, version=mambaviz.__version__)
    folder = Path(app.outdir, "notebooks")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chapter in documents:
        if has_code(book, chapter):
            path = folder / f"{chapter}.ipynb"
            _write(path, make_notebook(book, chapter, address, first))
            written.append(path)
    return written


def write_lab(root: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Write a copy of every chapter as a notebook into ``lab/``.

    A copy that the reader has changed is never overwritten: the new one is
    then put beside it as ``<chapter>.new.ipynb``.

    Args:
        root: the repository.
        say: called with a line for each copy that was not overwritten.

    Returns:
        The notebooks that were written now.
    """
    folder = root / "lab"
    folder.mkdir(exist_ok=True)
    manifest = folder / MANIFEST
    try:
        hashes = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        hashes = {}  # then every notebook there counts as changed
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    book = read_book(
        sorted((root / "chapters").glob("*.md")),
        [root / name for name in config.get("bibtex_bibfiles", [])],
        config.get("parse", {}).get("myst_enable_extensions", ["dollarmath"]),
        markdown_cells,
    )
    written = []
    for chapter in book.paths:

        def link(to: str, heading: str | None, here: str = chapter) -> str:
            anchor = f"#{heading.replace(' ', '-')}" if heading else ""
            return anchor if to == here and anchor else f"{to}.ipynb{anchor}"

        notebook = make_notebook(book, chapter, link)
        path = _place(folder, chapter, _sources(notebook), hashes)
        if path is None:
            continue
        if path.name != f"{chapter}.ipynb":
            say(
                f"You have changed lab/{chapter}.ipynb: it stays as it is, "
                f"and the chapter's new text is in lab/{path.name}."
            )
        _write(path, notebook)
        written.append(path)
        hashes[path.name] = _sources(notebook)
        manifest.write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    return written


def _place(
    folder: Path, chapter: str, new: str, hashes: dict[str, str]
) -> Path | None:
    """Where a copy goes; ``None`` if the reader has this text already.

    Args:
        folder: where the copies are.
        chapter: the chapter's name.
        new: the hash of what is to be written.
        hashes: the hash of what was written last, by file name.
    """
    number = 0
    while True:
        suffix = "" if not number else f".new{number if number > 1 else ''}"
        path = folder / f"{chapter}{suffix}.ipynb"
        number += 1
        if not path.exists():
            return path
        if hashes.get(path.name) == new:
            return None
        try:
            found = _sources(nbformat.read(path, as_version=4))
        except (ValueError, AttributeError, nbformat.ValidationError):
            continue  # not a notebook any more, so it is the reader's
        if found in hashes.values():
            return path


def _sources(notebook: NotebookNode) -> str:
    """A hash of what a reader can change by hand: not outputs, not ids."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _write(path: Path, notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, indent=1, sort_keys=True)
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def main() -> None:
    """Write the copies for ``make lab``, and say what is where."""
    written = write_lab(Path.cwd())
    print(f"lab/ has the chapters as notebooks ({len(written)} new).")
    print(
        "The chapters' own .md files open as notebooks too, once you have "
        "run\n  .venv/bin/jupytext-config set-default-viewer markdown\n"
        "and started .venv/bin/jupyter-lab in this folder. Saving there "
        "rewrites their\nheaders."
    )
