"""What ``make`` does before there is an environment, and how it fails."""

import ast
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "mambaviz" / "book" / "bootstrap.py"

# Stands in for the environment's Python: notes what pip and Jupyter Book are
# asked for, answers as the test says, and is the real one for all else.
FAKE_PYTHON = """\
#!/bin/sh
here=$(dirname "$0")
case "$*" in
  "-m pip "*)
    echo "pip $*" >> "$here/calls"
    sleep "$(cat "$here/seconds")"
    cat "$here/says"
    exit "$(cat "$here/status")" ;;
  *jupyter_book*)
    echo "book" >> "$here/calls"
    exit 0 ;;
  *book.notebooks*)
    mkdir -p lab ;;
  "-m jupyterlab"*)
    echo "lab in $(basename "$PWD"): $*" >> "$here/calls" ;;
  "-m pytest"*)
    echo "pytest $*" >> "$here/calls"
    exit 5 ;;
  *) exec {python} "$@" ;;
esac
"""

NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, \
status=None)) after connection broken by 'NewConnectionError('<pip._vendor.\
urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a \
new connection: [Errno -3] Temporary failure in name resolution')': /simple/x/
ERROR: Could not find a version that satisfies the requirement x==1 (from \
versions: none)
ERROR: No matching distribution found for x==1
"""
DISK_FULL = (
    "ERROR: Could not install packages due to an OSError: [Errno 28] No "
    "space left on device\n"
)
NO_FILE = """\
ERROR: Ignored the following versions that require a different python \
version: 2.4.6 Requires-Python >=3.11
ERROR: No matching distribution found for numpy==2.4.6
"""
UNTRUSTED = (
    "Could not fetch URL: There was a problem confirming the ssl "
    "certificate: [SSL: CERTIFICATE_VERIFY_FAILED] - skipping\n"
    "ERROR: No matching distribution found for x==1\n"
)


@pytest.fixture
def bootstrap():
    """The file as a module, as ``make`` runs it: apart from the package."""
    spec = importlib.util.spec_from_file_location("bootstrap", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class House:
    """A small repository with a fake environment in it."""

    def __init__(self, root: Path):
        self.root = root
        self.script = root / "mambaviz" / "book" / "bootstrap.py"
        self.script.parent.mkdir(parents=True)
        shutil.copy(SOURCE, self.script)
        self.write("requirements.txt", "x==1\n-e .\n")
        self.write(
            "pyproject.toml",
            '[project]\nname = "x"\ndependencies = ["x"]\n'
            '[project.optional-dependencies]\ntest = ["checker==3"]\n',
        )
        self.bin = root / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        python = self.bin / "python"
        python.write_text(FAKE_PYTHON.format(python=sys.executable))
        python.chmod(0o755)
        packages = root / ".venv" / "lib" / "python3.11" / "site-packages"
        (packages / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
        self.pip_will("")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def pip_will(self, say: str, status: int = 0, seconds: float = 0):
        for name, value in (
            ("says", say),
            ("status", status),
            ("seconds", seconds),
        ):
            (self.bin / name).write_text(str(value))

    def calls(self, what: str) -> list[str]:
        path = self.bin / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(what)]

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(self.script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        started = self.start(*arguments)
        out, err = started.communicate(timeout=60)
        return started.returncode, out, err


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "a house")  # with a space, as people have


def pretend_python(bootstrap, monkeypatch, version):
    pretended = SimpleNamespace(
        version_info=version, executable=sys.executable, stderr=sys.stderr
    )
    monkeypatch.setattr(bootstrap, "sys", pretended)


# ---- The file itself -------------------------------------------------------


def test_python_3_6_can_read_and_define_it():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            hints = [a.annotation for a in node.args.args] + [node.returns]
            for hint in filter(None, hints):  # evaluated by `def`
                assert not isinstance(hint, ast.Subscript | ast.BinOp)
        # ruff's formatter likes parentheses here, which 3.8 cannot read
        assert not (isinstance(node, ast.With) and len(node.items) > 1)
        assert not isinstance(node, ast.Match | ast.NamedExpr)


def test_it_needs_the_standard_library_only():
    tree = ast.parse(SOURCE.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots = {node.module.split(".")[0]}
        else:
            continue
        assert roots <= sys.stdlib_module_names
    at_the_top = {
        n.names[0].name for n in tree.body if isinstance(n, ast.Import)
    }
    assert not at_the_top & {"tomllib", "fcntl"}  # not in every old Python


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_alone_lists_every_verb(bootstrap):
    said = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for verb in [*bootstrap.VERBS, "help"]:
        assert f"make {verb}" in said
    makefile = (ROOT / "Makefile").read_text()
    for verb in bootstrap.VERBS:
        assert f"$(DO) {verb}" in makefile


# ---- What is refused -------------------------------------------------------


def test_an_old_python_is_told_what_to_do(
    bootstrap, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    pretend_python(bootstrap, monkeypatch, (3, 9, 18))
    assert bootstrap.main(["book"]) == 1
    said = capsys.readouterr().err
    assert "Python 3.9" in said
    assert "make PYTHON=python3.12 book" in said
    assert not list(tmp_path.iterdir())


def test_an_old_python_hands_over_to_a_good_environment(
    bootstrap, monkeypatch, house
):
    monkeypatch.setattr(bootstrap, "ROOT", house.root)
    pretend_python(bootstrap, monkeypatch, (3, 9, 18))

    class Replaced(Exception):
        pass

    def execv(program, arguments):
        raise Replaced(program, arguments)

    monkeypatch.setattr(bootstrap.os, "execv", execv)
    with pytest.raises(Replaced) as replaced:
        bootstrap.main(["book"])
    program, arguments = replaced.value.args
    assert program == str(house.bin / "python")
    assert arguments[-1] == "book"


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 2), (4, 0, 0)])
def test_newer_pythons_are_accepted(bootstrap, version):
    bootstrap.require_python(version)


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_module_is_named_with_its_package(
    bootstrap, monkeypatch, missing
):
    monkeypatch.setattr(
        bootstrap.importlib.util,
        "find_spec",
        lambda name: None if name == missing else object(),
    )
    with pytest.raises(
        bootstrap.Stop, match=f"{missing}.*apt install python3"
    ):
        bootstrap.require_venv()


def test_a_small_disk_is_refused_before_anything_is_made(
    bootstrap, monkeypatch, tmp_path
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        bootstrap.shutil, "disk_usage", lambda path: usage(9e9, 8e9, 1.04e9)
    )
    with pytest.raises(bootstrap.Stop, match=r"has 1\.0 GB free") as stop:
        bootstrap.prepare(tmp_path)
    assert "GB" in str(stop.value)
    assert not (tmp_path / ".venv").exists()


def test_a_torch_that_is_there_spares_the_cuda_packages(
    bootstrap, monkeypatch, house, tmp_path
):
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert bootstrap.needed_gb(empty) == bootstrap.NEEDED_GB_CUDA
    assert bootstrap.needed_gb(house.root) == bootstrap.NEEDED_GB_CPU


@pytest.mark.parametrize(
    ("pip_says", "we_say"),
    [
        (NO_NETWORK, "There is no network"),
        (DISK_FULL, "The disk is full"),
        (NO_FILE, "has no file for Python"),
        (UNTRUSTED, "does not trust"),
    ],
)
def test_what_pip_means_is_said_in_one_line(house, pip_says, we_say):
    house.pip_will(pip_says, status=1)
    status, _, said = house.run("book")
    assert status == 1
    assert said.strip().startswith(("There", "The", "Some")) or we_say in said
    assert we_say in said
    assert len(said.strip().splitlines()) == 1
    assert not house.calls("book")


def test_an_unknown_failure_shows_the_end_of_what_pip_said(house):
    house.pip_will("first\n" * 30 + "the reason\n", status=2)
    status, _, said = house.run("book")
    assert status == 1
    assert "the reason" in said
    assert said.count("first") < 20
    assert "the reason" in (house.root / ".venv/install.log").read_text()


def test_a_full_disk_under_our_own_feet(bootstrap, monkeypatch, capsys, house):
    def write(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bootstrap, "ROOT", house.root)
    monkeypatch.setitem(bootstrap.VERBS, "book", write)
    assert bootstrap.main(["book"]) == 1
    assert "The disk is full" in capsys.readouterr().err


def test_other_errors_are_not_mistaken_for_a_full_disk(bootstrap, monkeypatch):
    def fail(*args):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setitem(bootstrap.VERBS, "book", fail)
    with pytest.raises(PermissionError):
        bootstrap.main(["book"])


def test_an_unknown_verb_names_the_known(bootstrap, capsys):
    assert bootstrap.main(["bok"]) == 1
    assert "book, serve" in capsys.readouterr().err


# ---- What is installed, and when -------------------------------------------


def test_the_second_run_installs_nothing(house):
    assert house.run("book")[0] == 0
    assert house.run("book")[0] == 0
    assert len(house.calls("pip")) == 1
    assert len(house.calls("book")) == 2
    assert "-r requirements.txt" in house.calls("pip")[0]


def test_a_changed_pin_is_installed(house):
    house.run("book")
    house.write("requirements.txt", "x==2\n-e .\n")
    house.run("book")
    assert len(house.calls("pip")) == 2


def test_a_changed_dependency_of_the_package_is_installed(house):
    house.run("book")
    project = (house.root / "pyproject.toml").read_text()
    house.write("pyproject.toml", project + "[tool.ruff]\nline-length = 1\n")
    house.run("book")
    assert len(house.calls("pip")) == 1  # of no concern
    house.write("pyproject.toml", project.replace('["x"]', '["x", "y"]'))
    house.run("book")
    assert len(house.calls("pip")) == 2


def test_another_python_is_another_installation(bootstrap, house):
    prints = {
        bootstrap.fingerprint(house.root, version, with_tests)
        for version in ((3, 11, 2), (3, 12, 1))
        for with_tests in (False, True)
    }
    assert len(prints) == 4
    assert bootstrap.fingerprint(
        house.root, (3, 11, 2), False
    ) == bootstrap.fingerprint(house.root, (3, 11, 9), False)


def test_tests_bring_their_own_packages_once(house):
    assert house.run("test", "-k", "one thing")[0] == 5  # pytest's own status
    assert house.run("test")[0] == 5
    assert house.run("book")[0] == 0
    assert len(house.calls("pip")) == 1
    assert house.calls("pip")[0].endswith("checker==3")
    assert house.calls("pytest")[0].endswith("-k one thing")


def test_tests_after_the_book_add_what_is_missing(house):
    house.run("book")
    house.run("test")
    house.run("book")
    assert len(house.calls("pip")) == 2


def test_a_half_finished_installation_is_resumed(house):
    house.pip_will(NO_NETWORK, status=1)
    assert house.run("book")[0] == 1
    house.pip_will("")
    assert house.run("book")[0] == 0
    assert len(house.calls("pip")) == 2


def test_a_stamp_does_not_outlive_a_failed_change(house):
    house.run("book")
    house.write("requirements.txt", "x==2\n-e .\n")
    house.pip_will(DISK_FULL, status=1)
    house.run("book")
    house.write("requirements.txt", "x==1\n-e .\n")  # back, but x may be 2
    house.pip_will("")
    house.run("book")
    assert len(house.calls("pip")) == 3


@pytest.mark.parametrize("rubbish", ["", "{", "[]", '{"book": 3}'])
def test_a_spoilt_stamp_is_not_believed(house, rubbish):
    house.run("book")
    (house.root / ".venv" / "installed.json").write_text(rubbish)
    assert house.run("book")[0] == 0
    assert len(house.calls("pip")) == 2


def test_two_at_once_wait_for_each_other(house):
    house.pip_will("", seconds=1)
    both = [house.start("book"), house.start("book")]
    said = "".join("".join(one.communicate(timeout=60)) for one in both)
    assert [one.returncode for one in both] == [0, 0]
    assert len(house.calls("pip")) == 1
    assert len(house.calls("book")) == 2
    assert "waiting for it" in said


def test_a_waiting_reader_sees_what_is_loaded(bootstrap):
    wheel = "  Downloading torch-2.13.0-cp311-cp311-linux.whl (526.6 MB)"
    assert bootstrap.progress(wheel) == "  torch (526.6 MB)"
    small = "  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)"
    assert bootstrap.progress(small) == ""
    last = "Installing collected packages: six, numpy, torch"
    assert bootstrap.progress(last) == "  unpacking 3 packages"


def test_variables_of_another_python_stay_outside(bootstrap, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    environ = bootstrap.clean_environ()
    assert not {"PYTHONPATH", "PYTHONHOME"} & environ.keys()
    assert environ["PATH"] == os.environ["PATH"]


@pytest.mark.build
def test_an_environment_whose_python_has_gone_is_made_anew(
    bootstrap, tmp_path
):
    python = bootstrap.environment_python(tmp_path)
    python.parent.mkdir(parents=True)
    python.symlink_to(tmp_path / "gone")
    assert bootstrap.environment_version(tmp_path) == ()
    bootstrap.create_environment(tmp_path)
    assert bootstrap.environment_version(tmp_path) == sys.version_info[:3]
    assert bootstrap.importable(str(python), "pip")


@pytest.mark.build
def test_an_environment_without_pip_is_completed(bootstrap, tmp_path):
    venv.create(tmp_path / ".venv", with_pip=False, symlinks=True)
    kept = tmp_path / ".venv" / "kept"
    kept.touch()
    bootstrap.create_environment(tmp_path)
    python = str(bootstrap.environment_python(tmp_path))
    assert bootstrap.importable(python, "pip")
    assert kept.exists()


def test_jupyterlab_opens_among_the_copies(house):
    assert house.run("lab", "--no-browser")[0] == 0
    (call,) = house.calls("lab")
    assert call.startswith("lab in lab:")
    assert f"root_dir={house.root / 'lab'}" in call
    assert "/lab/tree/index.ipynb" in call
    assert call.endswith("--no-browser")


def test_serving_needs_nothing_installed(house):
    shutil.rmtree(house.root / ".venv")
    shutil.copy(SOURCE.with_name("serve.py"), house.script.parent)
    status, _, said = house.run("serve")
    assert status == 1
    assert "run `make book` first" in said
    assert not (house.root / ".venv").exists()


def test_benchmarks_are_named_when_one_is_not_found(house):
    benchmarks = house.root / "benchmarks"
    benchmarks.mkdir()
    (benchmarks / "__init__.py").touch()
    (benchmarks / "scan.py").touch()
    status, _, said = house.run("bench", "scna")
    assert status == 1
    assert "'scna'; there are scan" in said


def test_the_stamp_says_nothing_but_hashes(house):
    house.run("test")
    stamp = json.loads((house.root / ".venv/installed.json").read_text())
    assert stamp.keys() == {"book", "test"}
    assert all(len(value) == 64 for value in stamp.values())
