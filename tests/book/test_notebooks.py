"""The chapters as notebooks: downloads, the lab, and a run elsewhere."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from sphinx.application import Sphinx

import mambaviz
from mambaviz.book import notebooks
from mambaviz.book.wheel import write_wheel
from tests.book.conftest import NOTEBOOK

ROOT = Path(__file__).parents[2]
IN_CI = os.environ.get("CI") == "true"

FIRST = (
    NOTEBOOK
    + """\
# First

With $A$, see [the other](second.md) and [its end](second.md#the-end).

```{note}
Mind the step.
```

```{code-cell} ipython3
:tags: [hide-input]
1 + 1
```

+++ {"a": 1}

More text.

```{code-cell} ipython3
print("two")
```
"""
)
SECOND = "# Second\n\nNo code here.\n\n## The end\n"
SETTINGS = "parse:\n  myst_enable_extensions: [dollarmath, colon_fence]\n"


@pytest.fixture
def house(tmp_path):
    """A repository with two chapters, one of which has code."""
    root = tmp_path / "house"
    (root / "chapters").mkdir(parents=True)
    (root / "_config.yml").write_text(SETTINGS)
    (root / "chapters" / "first.md").write_text(FIRST)
    (root / "chapters" / "second.md").write_text(SECOND)
    return root


def build(house, outdir, root="first", **settings):
    """Write the downloads of a house as the extension does."""
    app = Sphinx(
        house,
        None,
        outdir,
        house / "_build" / "doctrees",
        "html",
        confoverrides={
            "extensions": ["myst_nb"],
            "root_doc": f"chapters/{root}",
            "nb_execution_mode": "off",
            "exclude_patterns": ["_build", "lab"],
            "myst_enable_extensions": ["dollarmath", "colon_fence"],
        },
        status=None,
        warning=None,
    )
    notebooks.setup_notebooks(app)
    for name, value in settings.items():
        setattr(app.config, name, value)
    app.build()
    return notebooks.write_downloads(app)


@pytest.fixture
def download(house, tmp_path):
    (path,) = build(house, tmp_path / "out")
    return path


def sources(path, kind):
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == kind]


# ---- Downloads -------------------------------------------------------------


def test_chapters_with_code_can_be_downloaded(download, tmp_path):
    assert download == tmp_path / "out" / "notebooks" / "first.ipynb"
    assert [p.name for p in download.parent.iterdir()] == ["first.ipynb"]
    nbformat.validate(nbformat.read(download, as_version=4))


def test_they_hold_the_code_and_no_outputs(download):
    notebook = nbformat.read(download, as_version=4)
    assert sources(download, "code")[1:] == ["1 + 1", 'print("two")']
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"
    assert "jupytext" not in notebook.metadata  # or Lab would pair them


def test_their_text_is_plain(download):
    text = "\n".join(sources(download, "markdown"))
    assert "> **Note**\n>\n> Mind the step." in text
    assert r"\color{" in text
    assert "{note}" not in text
    assert "+++" not in text


def test_hidden_code_is_folded_in_jupyter_too(download):
    cells = nbformat.read(download, as_version=4).cells
    (folded,) = [cell for cell in cells if cell.source == "1 + 1"]
    assert folded.metadata.jupyter.source_hidden is True


def test_cell_ids_and_bytes_are_always_the_same(house, download, tmp_path):
    ids = [cell.id for cell in nbformat.read(download, as_version=4).cells]
    assert ids == [f"first-{number}" for number in range(len(ids))]
    (again,) = build(house, tmp_path / "again")
    assert again.read_bytes() == download.read_bytes()


def test_links_lead_to_the_books_pages(download):
    text = "\n".join(sources(download, "markdown"))
    assert "[the other](../chapters/second.html)" in text
    assert "[its end](../chapters/second.html#the-end)" in text


def test_one_setting_says_where_the_book_is(house, tmp_path):
    (path,) = build(
        house, tmp_path / "out", mambaviz_book_url="https://example.org/book/"
    )
    text = "\n".join(sources(path, "markdown"))
    assert "(https://example.org/book/chapters/second.html)" in text
    assert "https://example.org/book/" in sources(path, "code")[0]


# ---- The first cell --------------------------------------------------------


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Run the first cell; gives what it asked pip for."""
    monkeypatch.setitem(sys.modules, "mambaviz", mambaviz)  # put back after
    monkeypatch.delenv("MAMBAVIZ_BOOK_URL", raising=False)
    folder = tmp_path / "book" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)

    def install(version, url=""):
        asked = []

        def run(command, check):
            assert check
            asked.append(command)

        monkeypatch.setattr(subprocess, "run", run)
        cell = notebooks.INSTALL.format(version=version, url=url)
        exec(compile(cell, "first cell", "exec"), {})
        return [command[-1] for command in asked]

    return install


def test_the_same_version_is_not_installed_again(install):
    assert install(mambaviz.__version__) == []


def test_another_version_is_taken_from_beside_the_notebook(install, tmp_path):
    wheel = tmp_path / "book/wheels/mambaviz-9.9.9-py3-none-any.whl"
    assert install("9.9.9") == [f"mambaviz[notebook] @ {wheel.as_uri()}"]


def test_or_from_where_the_book_is(install, monkeypatch):
    wheel = "wheels/mambaviz-9.9.9-py3-none-any.whl"
    assert install("9.9.9", "https://example.org/b/") == [
        f"mambaviz[notebook] @ https://example.org/b/{wheel}"
    ]
    monkeypatch.setenv("MAMBAVIZ_BOOK_URL", "https://example.net")
    assert install("9.9.9", "https://example.org/b/") == [
        f"mambaviz[notebook] @ https://example.net/{wheel}"
    ]


def test_a_machine_without_the_package_installs_it(install, monkeypatch):
    monkeypatch.setitem(sys.modules, "mambaviz", None)  # import fails
    assert len(install(mambaviz.__version__)) == 1


def test_the_cell_is_short_and_explains_itself():
    lines = notebooks.INSTALL.strip().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert len(comments) >= 2
    assert len(lines) - len(comments) <= 16
    assert max(map(len, lines)) <= 79


# ---- The lab ---------------------------------------------------------------


def said_by_lab(house):
    said = []
    written = notebooks.write_lab(house, said.append)
    return [path.name for path in written], said


def edit(path, cell, source):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[cell].source = source
    nbformat.write(notebook, path)


def test_the_lab_gets_a_copy_of_every_chapter(house):
    names, said = said_by_lab(house)
    assert names == ["first.ipynb", "second.ipynb"]
    assert said == []
    text = "\n".join(sources(house / "lab" / "first.ipynb", "markdown"))
    assert "[its end](second.ipynb#The-end)" in text
    assert sources(house / "lab" / "first.ipynb", "code")[0] == "1 + 1"


def test_a_second_start_writes_nothing(house):
    said_by_lab(house)
    before = {p: p.stat().st_mtime_ns for p in (house / "lab").iterdir()}
    assert said_by_lab(house) == ([], [])
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_chapters_new_text_arrives(house):
    said_by_lab(house)
    chapter = house / "chapters" / "first.md"
    chapter.write_text(chapter.read_text() + "\nNew words.\n")
    assert said_by_lab(house) == (["first.ipynb"], [])
    text = sources(house / "lab" / "first.ipynb", "markdown")
    assert "New words." in text[-1]


def test_a_run_is_no_change(house):
    said_by_lab(house)
    path = house / "lab" / "first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = next(c for c in notebook.cells if c.cell_type == "code")
    code.execution_count = 1
    code.outputs = [nbformat.v4.new_output("stream", text="2")]
    notebook.metadata.language_info.version = "3.11.7"  # as Lab saves it
    nbformat.write(notebook, path)
    chapter = house / "chapters" / "first.md"
    chapter.write_text(chapter.read_text() + "\nNew words.\n")
    assert said_by_lab(house) == (["first.ipynb"], [])


def test_a_learners_change_is_never_overwritten(house):
    said_by_lab(house)
    lab, chapter = house / "lab", house / "chapters" / "first.md"
    edit(lab / "first.ipynb", 1, "my own work")
    mine = (lab / "first.ipynb").read_bytes()
    assert said_by_lab(house) == ([], [])  # the chapter is as it was

    chapter.write_text(chapter.read_text() + "\nNew words.\n")
    names, said = said_by_lab(house)
    assert names == ["first.new.ipynb"]
    assert "lab/first.ipynb" in said[0]
    assert "lab/first.new.ipynb" in said[0]
    assert (lab / "first.ipynb").read_bytes() == mine
    assert said_by_lab(house) == ([], [])

    edit(lab / "first.new.ipynb", 1, "more work")  # and a third edition
    chapter.write_text(chapter.read_text() + "\nNewest words.\n")
    assert said_by_lab(house)[0] == ["first.new2.ipynb"]
    assert (lab / "first.ipynb").read_bytes() == mine
    assert "more work" in sources(lab / "first.new.ipynb", "code")


def test_what_is_no_notebook_any_more_is_left_alone(house):
    said_by_lab(house)
    path = house / "lab" / "first.ipynb"
    path.write_text("half a")
    chapter = house / "chapters" / "first.md"
    chapter.write_text(chapter.read_text() + "\nNew words.\n")
    assert said_by_lab(house)[0] == ["first.new.ipynb"]
    assert path.read_text() == "half a"


def test_without_our_notes_everything_counts_as_changed(house):
    said_by_lab(house)
    edit(house / "lab" / "first.ipynb", 1, "my own work")
    (house / "lab" / notebooks.MANIFEST).unlink()
    assert said_by_lab(house)[0] == ["first.new.ipynb", "second.new.ipynb"]


def test_a_deleted_copy_comes_back(house):
    said_by_lab(house)
    (house / "lab" / "second.ipynb").unlink()
    assert said_by_lab(house) == (["second.ipynb"], [])


def test_chapters_themselves_are_never_touched(house):
    def digest():
        files = sorted((house / "chapters").iterdir())
        return [(p.name, hashlib.sha256(p.read_bytes())) for p in files]

    before = [(name, d.hexdigest()) for name, d in digest()]
    said_by_lab(house)
    assert [(name, d.hexdigest()) for name, d in digest()] == before


# ---- A run on a machine that has never seen the repository -----------------

EXECUTE = """\
import sys, nbclient, nbformat
notebook = nbformat.read("zero-order-hold.ipynb", as_version=4)
nbclient.NotebookClient(
    notebook, timeout=120, resources={"metadata": {"path": "."}}
).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def pip(python, *arguments):
    """Let a fresh environment's pip run; skip or fail without a network."""
    done = subprocess.run(
        [python, "-m", "pip", *arguments],
        env=FRESH,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = "pip could not install: " + done.stdout + done.stderr[-2000:]
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason.splitlines()[0] + " (no network?)")
    return done.stdout


FRESH = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MAMBAVIZ_", "PYTHON", "JUPYTER_"))
} | {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONNOUSERSITE": "1"}


def brings_cuda(python, torch):
    """Whether the index would send gigabytes with this torch."""
    plan = pip(python, "install", "--dry-run", "--quiet", "--no-deps",
               "--report", "-", torch)  # fmt: skip
    (found,) = json.loads(plan)["install"]
    needs = found["metadata"].get("requires_dist", [])
    return any(need.startswith("nvidia") for need in needs)


@pytest.mark.build
@pytest.mark.timeout(900)
def test_a_downloaded_chapter_runs_in_a_fresh_environment(tmp_path):
    pins = (ROOT / "requirements.txt").read_text().split()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "v"], check=True)
    python = tmp_path / "v" / "bin" / "python"
    if not IN_CI and brings_cuda(python, torch):
        pytest.skip(f"{torch} would bring gigabytes of CUDA; CI=true runs it")
    pip(python, "install", "--quiet", torch)
    pip(python, "install", "--quiet", "ipykernel", "nbclient")

    book = tmp_path / "book"
    write_wheel(ROOT, book / "wheels")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "chapters", source / "chapters")
    (source / "mambaviz").symlink_to(ROOT / "mambaviz")
    works = ["chapters/references.bib"]
    written = build(source, book, "index", bibtex_bibfiles=works)
    folder = book / "notebooks"
    assert folder / "zero-order-hold.ipynb" in written

    done = subprocess.run(
        [python, "-c", EXECUTE],
        cwd=folder,
        env=FRESH,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    notebook = nbformat.read(folder / "executed.ipynb", as_version=4)
    outputs = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error"]
    bundles = [o.data for o in outputs if "data" in o]
    view = "application/vnd.jupyter.widget-view+json"
    assert len([data for data in bundles if view in data]) >= 3
    html = "".join(data.get("text/html", "") for data in bundles)
    assert "MambaViz.mount" not in html
    imported = subprocess.check_output(
        [python, "-c", "import mambaviz; print(mambaviz.__file__)"],
        cwd=tmp_path,
        env=FRESH,
        text=True,
    )
    assert Path(imported.strip()).is_relative_to(tmp_path / "v")
