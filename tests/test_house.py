"""The house itself: its rooms, its doors, its pins and its papers."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mambaviz

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mambaviz"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

EXTRAS = PROJECT["optional-dependencies"]

NOT_OURS = {
    ".git",
    ".hypothesis",
    ".import_linter_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "_build",
    "dist",
    "lab",
}
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
# What torch brings along on Linux, in versions that it names itself.
OF_TORCH = re.compile(r"nvidia-|cuda-|triton$")


def own_files() -> list[Path]:
    """Every file of the repository that someone wrote."""
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file()
        and not NOT_OURS.intersection(path.relative_to(ROOT).parts)
        and not path.parent.name.endswith(".egg-info")
    ]


def python_files(*folders: str) -> list[Path]:
    return [
        path
        for path in own_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]


def pins() -> tuple[list[Requirement], list[Requirement], list[str]]:
    """The direct and the transitive requirements, and the other lines."""
    text = (ROOT / "requirements.txt").read_text()
    direct, _, rest = text.partition("# What those need")
    assert rest, "requirements.txt has lost the line that parts it"
    bare = [
        [line.partition(" #")[0].strip() for line in part.splitlines()]
        for part in (direct, f"#{rest}")
    ]
    direct, transitive = (
        [Requirement(line) for line in lines if line[:1].isalpha()]
        for lines in bare
    )
    other = [line for line in bare[1] if line.startswith("-")]
    return direct, transitive, other


IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
CELL = re.compile(r"^```\{code-cell\}.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "chapter", sorted((ROOT / "chapters").glob("*.md")), ids=lambda p: p.stem
)
def test_a_chapter_imports_what_the_book_installs(chapter):
    direct, transitive, _ = pins()
    installed = names([*direct, *transitive])
    homes = metadata.packages_distributions()
    for cell in CELL.findall(chapter.read_text(encoding="utf-8")):
        for module in IMPORT.findall(cell):
            if module == "mambaviz" or module in sys.stdlib_module_names:
                continue
            found = {canonicalize_name(n) for n in homes.get(module, [])}
            assert found & (installed | {"torch"}), f"{module}: {found}"


def names(requirements) -> set[str]:
    return {
        canonicalize_name(requirement.name) for requirement in requirements
    }


def extra(name: str) -> list[Requirement]:
    return [Requirement(line) for line in EXTRAS[name]]


def third_party_imports(paths) -> dict[str, Path]:
    """The distributions that files import, each with a file that does."""
    providers = metadata.packages_distributions()
    found = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            for module in modules:
                top = module.partition(".")[0]
                if top in sys.stdlib_module_names or (ROOT / top).exists():
                    continue
                for provider in providers.get(top, [top]):
                    found[canonicalize_name(provider)] = path
    return found


# ---- Rooms and doors -------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".ci/run",
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "_config.yml",
        "_toc.yml",
        "benchmarks",
        "chapters",
        "mambaviz",
        "pyproject.toml",
        "requirements.txt",
        "tests",
    ],
)
def test_what_stands_at_the_root(name):
    assert (ROOT / name).exists()


def test_every_chapter_of_the_book_is_in_its_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    below = [part for entry in entries for part in entry.get("sections", [])]
    named = {toc["root"]} | {entry["file"] for entry in [*entries, *below]}
    there = {f"chapters/{p.stem}" for p in (ROOT / "chapters").glob("*.md")}
    assert named == there


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_in_one_line_what_it_is_for(room):
    doc = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert doc, f"{room.name} has no docstring"
    first, *rest = doc.splitlines()
    assert first.endswith(".")
    assert not rest or not rest[0]  # more may follow, after a blank line


def test_a_room_exists_only_when_it_holds_something():
    for room in ROOMS:
        assert len([p for p in room.iterdir() if p.suffix == ".py"]) > 1


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_doors_lead_only_downwards():
    lint = "from importlinter.cli import lint_imports_command as c; c()"
    settings = (ROOT / "pyproject.toml").read_text()
    contracts = settings.count("[[tool.importlinter.contracts]]")
    assert f"{contracts} kept, 0 broken" in run("-c", lint)


def test_style_is_clean():
    run("-m", "ruff", "check", "--no-cache")


def test_layout_is_clean():
    run("-m", "ruff", "format", "--check", "--no-cache")


# What runs on a bare machine, and so may bring nothing that draws.
QUICK = [
    "mambaviz",
    "mambaviz.theory",
    "mambaviz.records.store",
    "mambaviz.theme",
    "mambaviz.ops.selective_scan",
    "mambaviz.ops.selective_scan.official",
    "mambaviz.ops.causal_conv1d",
    "mambaviz.ops.rms_norm",
    "mambaviz.models",
]
DOWNSTAIRS = QUICK
DRAWING = {"anywidget", "ipywidgets", "matplotlib", "plotly"}

# How long each import takes once torch is there, and what it has brought.
IMPORTING = """
import sys, time
import torch, jaxtyping
for name in sys.argv[1:]:
    began = time.perf_counter()
    __import__(name)
    print(time.perf_counter() - began, name)
print(*sys.modules)
"""


def imported(*names: str) -> tuple[dict[str, float], set[str]]:
    *lines, modules = run("-c", IMPORTING, *names).splitlines()
    pairs = [line.split() for line in lines]
    return {name: float(time) for time, name in pairs}, {*modules.split()}


def test_nothing_downstairs_imports_what_draws():
    _, modules = imported(*DOWNSTAIRS)
    assert {*DOWNSTAIRS} <= modules
    assert modules & DRAWING == set()


def test_ops_imports_no_compiler_before_a_scan_asks_for_it():
    _, modules = imported(*QUICK)
    assert modules & {"numba", "triton", "torch._dynamo"} == set()


def test_the_package_itself_imports_none_of_its_rooms():
    _, modules = imported("mambaviz")
    assert {m for m in modules if m.startswith("mambaviz")} == {"mambaviz"}


def test_the_package_is_imported_in_a_moment():
    # The fastest, since others may be at work on the machine.
    seconds = [sum(imported(*QUICK)[0].values()) for _ in range(5)]
    assert min(seconds) < 0.2


# ---- What no file may hold -------------------------------------------------

HOME_OF_SOMEONE = re.compile(r"(?<![\w.])/(?:root|home|Users)/\w")
INDEX_HOST = re.compile(r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX)\b")


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (HOME_OF_SOMEONE, "a path of some machine"),
        (INDEX_HOST, "the host of a package index"),
        (UNFINISHED, "a note to finish it later"),
    ],
)
def test_no_file_names(pattern, what):
    for path in own_files():
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found = pattern.search(text)
        assert not found, f"{path.relative_to(ROOT)} has {what}: {found[0]}"


def test_the_patterns_find_what_they_are_for():
    assert HOME_OF_SOMEONE.search("cd /home/ann/book")
    assert not HOME_OF_SOMEONE.search("https://example.org/home/page")
    assert not HOME_OF_SOMEONE.search("../home/x")
    assert UNFINISHED.search("# TODO: later")


def test_shape_checks_are_not_switched_off():
    for path in python_files("mambaviz"):
        # It turns annotations into strings, which jaxtyping cannot check.
        assert "from __future__ import annotations" not in path.read_text()


# ---- Pins ------------------------------------------------------------------


def test_every_pin_is_exact_and_the_package_comes_last():
    direct, transitive, other = pins()
    for pin in direct + transitive:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
        assert "+" not in specifier.version  # a build of one machine's
    for pin in extra("test"):
        assert str(pin.specifier).startswith("==")
    assert other == ["-e ."]
    lines = (ROOT / "requirements.txt").read_text().split()
    assert lines[-2:] == ["-e", "."]


def test_no_package_is_pinned_twice():
    direct, transitive, _ = pins()
    everything = [canonicalize_name(pin.name) for pin in direct + transitive]
    assert len(everything) == len(set(everything))
    assert not names(direct + transitive) & names(extra("test"))


def test_pins_and_ranges_agree():
    direct, transitive, _ = pins()
    pinned = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in direct + transitive
    }
    ranges = [Requirement(r) for r in PROJECT["dependencies"]]
    extras = [r for name in EXTRAS for r in extra(name)]
    for requirement in [*ranges, *extras]:
        name = canonicalize_name(requirement.name)
        if name in pinned:
            assert pinned[name] in requirement.specifier, requirement


def test_what_the_pinned_packages_need_is_pinned_too():
    direct, transitive, _ = pins()
    pinned = names(direct + transitive)
    waiting, seen = list(direct), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        asked = (name, *sorted(requirement.extras))
        if asked in seen or OF_TORCH.match(name):
            continue
        seen.add(asked)
        assert name in pinned, f"{name} is needed but not pinned"
        for line in metadata.requires(name) or []:
            need = Requirement(line)
            extras = requirement.extras or {""}
            if need.marker is None or any(
                need.marker.evaluate({"extra": one}) for one in extras
            ):
                waiting.append(need)
    needed = {name for name, *_ in seen}
    here = {
        canonicalize_name(pin.name)
        for pin in direct + transitive
        if pin.marker is None or pin.marker.evaluate()
    }
    assert here == needed, "pinned but not needed by anything"


def test_a_notebook_elsewhere_gets_all_that_the_package_imports():
    offered = names(
        [*map(Requirement, PROJECT["dependencies"]), *extra("notebook")]
    )
    faster = names([*extra("fast"), *extra("gpu")])
    rooms = {}  # whether it is ops, which may ask for those -> its files
    for path in python_files("mambaviz"):
        room = path.relative_to(PACKAGE).parts[0]
        if room != "book":  # which stays where it is built
            rooms.setdefault(room == "ops", []).append(path)
    for is_ops, paths in rooms.items():
        allowed = offered | faster if is_ops else offered
        for name, path in third_party_imports(paths).items():
            assert name in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_what_is_imported_is_pinned():
    direct, transitive, _ = pins()
    pinned = names(direct + transitive) | {"mambaviz"}
    for name, path in third_party_imports(python_files("mambaviz")).items():
        known = name in pinned or OF_TORCH.match(name)
        assert known, f"{path.relative_to(ROOT)} imports {name}"
    tools = pinned | names(extra("test"))
    for name, path in third_party_imports(
        python_files("tests", "benchmarks")
    ).items():
        assert name in tools, f"{path.relative_to(ROOT)} imports {name}"


# ---- Papers ----------------------------------------------------------------


def test_each_direct_dependency_has_its_reason():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    direct, _, _ = pins()
    ranges = [Requirement(r) for r in PROJECT["dependencies"]]
    extras = [r for name in EXTRAS for r in extra(name)]
    for requirement in [*direct, *ranges, *extras]:
        assert f"`{requirement.name}`" in text, requirement.name


def test_every_room_is_on_the_map():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for room in ROOMS:
        assert f"`{room.name}`" in text


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mambaviz.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest[1] == mambaviz.__version__


def test_the_licence_is_the_one_we_name():
    assert PROJECT["license"] == "MIT"
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License")
    assert "2026 The mambaviz authors" in licence


def test_ci_is_a_script_that_bash_accepts():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text()
