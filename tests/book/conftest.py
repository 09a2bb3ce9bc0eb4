"""Small books, built by the real command with this tree's package."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NOTEBOOK = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""
LIBRARY = """\
@misc{gu2023,
  author = {Gu, Albert and Dao, Tri},
  title = {Mamba},
  year = {2023},
}
"""


def cell(code: str) -> str:
    """A code cell as a chapter writes it."""
    return f"\n```{{code-cell}} ipython3\n{code}\n```\n"


def copy_package(repository: Path) -> Path:
    """This tree's package, as in another checkout."""
    shutil.copytree(
        ROOT / "mambaviz",
        repository / "mambaviz",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, repository)
    return repository


@dataclass
class Book:
    """A small book with the settings of the real one.

    Attributes:
        folder: where its sources are.
        repository: where the package is that builds it.
    """

    folder: Path
    repository: Path = ROOT

    @property
    def html(self) -> Path:
        return self.folder / "_build" / "html"

    def write(self, chapters: dict[str, str], toc: list[str] = ()) -> None:
        """Write chapters; ``index`` comes first, the rest in this order."""
        room = self.folder / "chapters"
        room.mkdir(parents=True, exist_ok=True)
        for name, text in chapters.items():
            (room / f"{name}.md").write_text(text, encoding="utf-8")
        (room / "references.bib").write_text(LIBRARY, encoding="utf-8")
        config = (ROOT / "_config.yml").read_text(encoding="utf-8")
        (self.folder / "_config.yml").write_text(config, encoding="utf-8")
        names = [n for n in toc or chapters if n != "index"]
        lines = ["format: jb-book", "root: chapters/index", "chapters:"]
        lines += [f"  - file: chapters/{name}" for name in names]
        (self.folder / "_toc.yml").write_text("\n".join(lines) + "\n")

    def build(self, **environment: str) -> subprocess.CompletedProcess:
        """Run ``jupyter-book build .`` as a reader does."""
        path = os.environ.get("PYTHONPATH", "")
        return subprocess.run(
            [Path(sys.executable).with_name("jupyter-book"), "build", "."],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=os.environ
            | {"PYTHONPATH": f"{self.repository}{os.pathsep}{path}"}
            | environment,
        )

    def build_well(self, **environment: str) -> str:
        """Build, insist that it went well, and give what it printed."""
        result = self.build(**environment)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def page(self, name: str) -> str:
        """The HTML of a built page."""
        return (self.html / name).read_text(encoding="utf-8")


CLEAN = {
    "index": "# A small book\n\nOnly words, and a "
    "[half-life](explorable.md#the-half-life).\n\n"
    ":::{tip}\nA tip.\n:::\n",
    "explorable": NOTEBOOK
    + "# An explorable\n\n## The half-life\n\n"
    + r"It is $\ln 2 / (\Delta |A|)$, see {cite}`gu2023`."
    + "\n\n"
    + r"$$ \bar A = e^{\Delta A} $$"
    + "\n\n"
    + "\\begin{align}\nh &= \\bar A h \\\\\ny &= C h\n\\end{align}\n"
    + cell("from mambaviz.widgets import MemoryDecay\n\nMemoryDecay()")
    + cell(
        "print(sorted({'some', 'set'}), {'another', 'set', 'of', 'words'})"
    ),
    "plate": NOTEBOOK
    + "# A plate\n"
    + cell(
        "import plotly.graph_objects as go\n"
        "from mambaviz.figures.plate import interactive_plate\n\n"
        "interactive_plate(go.Figure(go.Scatter(y=[1, 2])), alt='A line')"
    )
    + cell("import matplotlib.pyplot as plt\n\n_ = plt.plot([1, 2])"),
    "works": "# Works\n\n```{bibliography}\n```\n",
}


@pytest.fixture(scope="session")
def clean_book(tmp_path_factory) -> Book:
    """A built book without a defect, in a checkout. For reading only."""
    checkout = copy_package(tmp_path_factory.mktemp("clean") / "checkout")
    book = Book(checkout, checkout)
    book.write(CLEAN)
    book.build_well(PYTHONHASHSEED="1")
    return book
