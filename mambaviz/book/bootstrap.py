"""What ``make`` does: a Python environment in ``.venv``, then a verb in it.

This file runs before anything is installed, under whatever Python the reader
has: the standard library only, and syntax that Python 3.6 can read and run,
because a Python that is too old must give a sentence and not a traceback.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OLDEST_PYTHON = (3, 11)
NEWEST_CHECKED_PYTHON = (3, 13)

# Free space that an installation wants, in GB of 10^9 bytes. Measured: with a
# CPU build of torch 3.1 for the environment with the tests' packages; before
# Numba and Triton it was 1.9 with 0.33 of downloads, and with torch's CUDA
# packages 5.6 and 2.9. While pip works, a download lies on the disk twice, as
# a file and in pip's cache.
NEEDED_GB_CPU = 4.0
NEEDED_GB_CUDA = 12.0

# What pip prints when it fails, in the order in which we look for it.
FAILURES = [
    (
        r"No space left on device|\[Errno 28\]"
        r"|Disk quota exceeded|\[Errno 122\]",
        "The disk is full. Installing needs about {gb:g} GB free; what is "
        "already there is kept, so run the same command again afterwards.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError",
        "The network answers with a certificate that Python does not trust, "
        "as behind some company proxies. Point PIP_CERT at the proxy's "
        "certificate and run the same command again.",
    ),
    (
        r"Temporary failure in name resolution|Name or service not known"
        r"|nodename nor servname|getaddrinfo failed|NewConnectionError"
        r"|NameResolutionError|Failed to establish a new connection"
        r"|Network is unreachable|No route to host|ConnectTimeoutError"
        r"|Connection timed out|ReadTimeoutError|Read timed out"
        r"|Connection refused|Connection reset|ConnectionResetError"
        r"|ProxyError|Connection aborted|IncompleteRead",
        "There is no network, or the package index does not answer. The "
        "first installation needs it; what is already there is kept, so run "
        "the same command again once you are connected.",
    ),
    (
        r"Requires-Python|No matching distribution found",
        "Some pinned package has no file for Python {python} on this "
        "machine. The pins were checked for 3.11, 3.12 and 3.13: name one of "
        "these, as in `make PYTHON=python3.12 book`, and remove .venv before.",
    ),
]


class Stop(Exception):
    """A reason to end, worded for the reader."""


def require_python(version: tuple) -> None:
    """Refuse a Python that the book's packages do not support.

    Args:
        version: as ``sys.version_info``.

    Raises:
        Stop: the version is older than 3.11.
    """
    if tuple(version[:2]) < OLDEST_PYTHON:
        raise Stop(
            "This is Python {}.{}; the book needs 3.11 or newer. Name a "
            "newer one, as in `make PYTHON=python3.12 book`.".format(
                *version[:2]
            )
        )


def require_venv() -> None:
    """Refuse a Python that cannot make an environment with pip in it.

    Raises:
        Stop: ``venv`` or ``ensurepip`` is missing.
    """
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Stop(
                "This Python has no module {}. On Debian and Ubuntu it is in "
                "a package of its own: `sudo apt install python{}.{}-venv`, "
                "then run the same command again.".format(
                    module, *sys.version_info[:2]
                )
            )


def needed_gb(root: Path) -> float:
    """Free space that installing here still wants.

    torch from the package index brings its CUDA packages on Linux; a torch
    that the reader has already put into ``.venv`` stays.

    Args:
        root: the repository.

    Returns:
        GB of 10^9 bytes.
    """
    torch_is_here = any(
        root.glob(".venv/lib/python*/site-packages/torch-*.dist-info")
    )
    brings_cuda = sys.platform == "linux" and not torch_is_here
    return NEEDED_GB_CUDA if brings_cuda else NEEDED_GB_CPU


def require_disk(root: Path) -> None:
    """Refuse to begin an installation that cannot fit.

    Args:
        root: the repository, in which ``.venv`` will lie.

    Raises:
        Stop: less is free than the installation was measured to take.
    """
    free = shutil.disk_usage(str(root)).free / 1e9
    needed = needed_gb(root)
    if free < needed:
        advice = ""
        if needed == NEEDED_GB_CUDA:
            advice = (
                f" About {NEEDED_GB_CPU:g} GB are enough with a CPU build "
                "of torch: README.md says how."
            )
        raise Stop(
            f"The disk of {root} has {free:.1f} GB free; installing needs "
            f"about {needed:g} GB.{advice}"
        )


@contextlib.contextmanager
def alone(root: Path):
    """Wait until no other ``make`` installs or builds in this repository.

    The lock is held on ``requirements.txt``, so that it leaves no file, and
    the system drops it when we end, however we end.

    Args:
        root: the repository.

    Yields:
        Nothing.
    """
    import fcntl

    with open(str(root / "requirements.txt"), "r+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make is at work here; waiting for it.", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def clean_environ() -> dict:
    """The environment variables for everything that runs in ``.venv``.

    Returns:
        A copy without the variables that would mix in another Python's
        packages.
    """
    environ = dict(os.environ)
    for name in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"):
        environ.pop(name, None)
    environ["PYTHONNOUSERSITE"] = "1"
    # Kernels come from .venv before any that the reader has registered.
    environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    return environ


def environment_python(root: Path) -> Path:
    """Where the environment's Python is, or will be.

    Args:
        root: the repository.

    Returns:
        The path of the interpreter.
    """
    return root / ".venv" / "bin" / "python"


def environment_version(root: Path) -> tuple:
    """Which Python the environment runs.

    Args:
        root: the repository.

    Returns:
        ``(major, minor, micro)``, or ``()`` where there is no environment or
        its Python has gone.
    """
    code = "import sys; print(*sys.version_info[:3])"
    try:
        said = subprocess.check_output(
            [str(environment_python(root)), "-c", code], env=clean_environ()
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(number) for number in said.split())


def create_environment(root: Path) -> None:
    """Make ``.venv``, or make a half-made one whole.

    Args:
        root: the repository.

    Raises:
        Stop: Python's ``venv`` or ``ensurepip`` failed.
    """
    python = str(environment_python(root))
    version = environment_version(root)
    if not version:
        require_venv()
        print("Creating .venv with Python {}.{}.".format(*sys.version_info))
        command = [sys.executable, "-m", "venv", "--clear"]
        command.append(str(root / ".venv"))
    elif importable(python, "pip"):
        return
    else:
        command = [python, "-m", "ensurepip"]
    made = subprocess.run(
        command,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if made.returncode:
        said = made.stdout.decode(errors="replace")
        raise Stop(
            explain(said, root)
            or "Python could not make .venv: " + said.strip()
        )


def importable(python: str, module: str) -> bool:
    """Whether an interpreter has a module.

    Args:
        python: the interpreter.
        module: the module's name.

    Returns:
        ``True`` if importing it succeeds.
    """
    return not subprocess.call(
        [python, "-c", "import " + module],
        env=clean_environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def fingerprint(root: Path, python_version: tuple, with_tests: bool) -> str:
    """What an installation depends on, as one hash.

    Args:
        root: the repository; its path counts, since ``-e .`` writes it down.
        python_version: that of the environment.
        with_tests: whether the tests' packages belong to it.

    Returns:
        A SHA-256, in hexadecimal.
    """
    project = read_project(root)
    facts = [
        str(root),
        list(python_version[:2]),
        (root / "requirements.txt").read_text(encoding="utf-8"),
        project["name"],
        project.get("dependencies"),
        project.get("optional-dependencies", {}).get("notebook"),
        project.get("optional-dependencies", {}).get("test")
        if with_tests
        else None,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_project(root: Path) -> dict:
    """The ``[project]`` table of ``pyproject.toml``.

    Args:
        root: the repository.

    Returns:
        The table.
    """
    import tomllib  # Python 3.11 and newer

    with open(str(root / "pyproject.toml"), "rb") as file:
        return tomllib.load(file)["project"]


def explain(output: str, root: Path) -> str:
    """Why pip failed, in one line, where its output tells.

    Args:
        output: what pip printed.
        root: the repository.

    Returns:
        A sentence for the reader, or ``""`` for a failure unknown to us.
    """
    for pattern, sentence in FAILURES:
        if re.search(pattern, output):
            version = environment_version(root) or sys.version_info
            return sentence.format(
                gb=needed_gb(root), python="{}.{}".format(*version[:2])
            )
    return ""


def install(root: Path, with_tests: bool) -> None:
    """Let pip install the pinned packages, showing how it gets on.

    Args:
        root: the repository.
        with_tests: whether to install the tests' packages too.

    Raises:
        Stop: pip failed; the message says why where pip's output tells, and
            where pip's whole output lies.
    """
    log = root / ".venv" / "install.log"
    unpacking = root / ".venv" / "unpacking"
    shutil.rmtree(str(unpacking), ignore_errors=True)
    unpacking.mkdir()
    command = [str(environment_python(root)), "-m", "pip", "install"]
    command += ["--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "-r", "requirements.txt"]
    if with_tests:
        command += read_project(root)["optional-dependencies"]["test"]
    print("Installing; pip's own words go to .venv/install.log.", flush=True)
    with subprocess.Popen(
        command,
        cwd=str(root),
        # On the disk that we measured, and not in a /tmp that may be small.
        env=dict(clean_environ(), TMPDIR=str(unpacking)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as pip:
        said = []
        for raw in pip.stdout:
            said.append(raw.decode(errors="replace"))
            if progress(said[-1]):
                print(progress(said[-1]), flush=True)
    shutil.rmtree(str(unpacking), ignore_errors=True)
    with contextlib.suppress(OSError):  # on a full disk
        log.write_text("".join(said), encoding="utf-8")
    if pip.returncode:
        raise Stop(
            explain("".join(said[-40:]), root)
            or "pip failed; its last lines, of .venv/install.log, are:\n"
            + "".join(said[-15:])
        )


def progress(line: str) -> str:
    """The part of pip's output that a waiting reader wants to see.

    Args:
        line: one line of it.

    Returns:
        A line to show, or ``""``.
    """
    match = re.match(
        r"\s*Downloading (?:\S*/)?(\S+?)-\d\S*\.whl \(([\d.]+) ([MG]B)\)",
        line,
    )
    if match:
        return "  {} ({} {})".format(*match.groups())
    match = re.match(r"Installing collected packages: (.*)", line)
    if match:
        count = len(match.group(1).split(","))
        return f"  unpacking {count} packages"
    return ""


def prepare(root: Path, with_tests: bool = False) -> Path:
    """The environment with everything in it that the pins name.

    A stamp, written after pip has succeeded, tells what is installed. While
    it is true, nothing is installed and no network is needed.

    Args:
        root: the repository.
        with_tests: whether the tests' packages are wanted too.

    Returns:
        The environment's Python.

    Raises:
        Stop: it cannot be done; the message says why.
    """
    stamp = root / ".venv" / "installed.json"
    key = "test" if with_tests else "book"
    try:
        installed = dict(json.loads(stamp.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        installed = {}
    version = environment_version(root)
    if version and installed.get(key) == fingerprint(
        root, version, with_tests
    ):
        return environment_python(root)
    require_disk(root)
    create_environment(root)
    version = environment_version(root)
    require_python(version)
    if version[:2] > NEWEST_CHECKED_PYTHON:
        print(
            "Python {}.{} is newer than those that the pins were checked "
            "for (3.11 to 3.13); it may work.".format(*version[:2])
        )
    with contextlib.suppress(OSError):
        stamp.unlink()  # a half-finished installation must not be believed
    install(root, with_tests)
    installed = {
        name: fingerprint(root, version, name == "test")
        for name in (("book", "test") if with_tests else ("book",))
    }
    stamp.write_text(json.dumps(installed), encoding="utf-8")
    return environment_python(root)


def run_in(root: Path, python: Path, *arguments: str) -> int:
    """Run the environment's Python in the repository.

    Args:
        root: the repository.
        python: the environment's Python.
        arguments: its command line.

    Returns:
        The exit status.
    """
    return subprocess.call(
        [str(python), *arguments], cwd=str(root), env=clean_environ()
    )


def book(root: Path) -> int:
    """Build the book; at its end it says which page to open.

    Args:
        root: the repository.

    Returns:
        The exit status.
    """
    with alone(root):
        python = prepare(root)
        return run_in(
            root,
            python,
            "-c",
            "from jupyter_book.cli.main import main; main()",
            "build",
            str(root),
        )


def serve(root: Path, *port: str) -> int:
    """Show the built book on this machine. Needs nothing installed.

    Args:
        root: the repository.
        port: the port to use, if not the first free one from 8000 on.

    Returns:
        The exit status.
    """
    script = str(Path(__file__).resolve().with_name("serve.py"))
    folder = str(root / "_build" / "html")
    os.execv(sys.executable, [sys.executable, script, folder, *port])


def lab(root: Path, *arguments: str) -> int:
    """Open copies of the chapters in JupyterLab.

    Args:
        root: the repository.
        arguments: for JupyterLab, such as ``--no-browser``.

    Returns:
        The exit status.
    """
    with alone(root):
        python = prepare(root)
        code = "from mambaviz.book.notebooks import main; main()"
        status = run_in(root, python, "-c", code)
    if status:
        return status
    folder = root / "lab"
    command = [str(python), "-m", "jupyterlab"]
    command += ["--ServerApp.root_dir=" + str(folder)]
    command += ["--LabApp.default_url=/lab/tree/index.ipynb"]
    # It would ask an index whether there is a newer JupyterLab.
    never = "jupyterlab.NeverCheckForUpdate"
    command += ["--LabApp.check_for_updates_class=" + never, *arguments]
    os.chdir(str(folder))
    # In our place, so that Ctrl-C reaches JupyterLab alone.
    os.execve(str(python), command, clean_environ())


def test(root: Path, *arguments: str) -> int:
    """Run the tests, on as many processors as there are, up to four.

    Tests of one file run one after the other.

    Args:
        root: the repository.
        arguments: for pytest.

    Returns:
        The exit status.
    """
    with alone(root):
        python = prepare(root, with_tests=True)
    side_by_side = [
        "--numprocesses=auto",
        "--maxprocesses=4",
        "--dist=loadfile",
        # Files with few tests, those of the browser, take longest: not last.
        "--no-loadscope-reorder",
    ]
    return run_in(root, python, "-m", "pytest", *side_by_side, *arguments)


def check(root: Path) -> int:
    """Check style and the import contracts.

    Args:
        root: the repository.

    Returns:
        0 if all is in order.
    """
    with alone(root):
        python = prepare(root, with_tests=True)
    failed = [
        run_in(root, python, "-m", "ruff", "check"),
        run_in(root, python, "-m", "ruff", "format", "--check"),
        run_in(
            root,
            python,
            "-c",
            "from importlinter.cli import lint_imports_command as lint; "
            "lint()",
        ),
    ]
    return int(any(failed))


def bench(root: Path, *names: str) -> int:
    """Run the benchmarks, one after another.

    Args:
        root: the repository.
        names: files of ``benchmarks/`` without their ``.py``; all, if none.

    Returns:
        0 if all succeeded.

    Raises:
        Stop: a name that is not there.
    """
    scripts = (root / "benchmarks").glob("[!_]*.py")
    there = sorted(path.stem for path in scripts)
    for name in names:
        if name not in there:
            raise Stop(
                "There is no benchmark {!r}; there are {}.".format(
                    name, ", ".join(there) or "none yet"
                )
            )
    with alone(root):
        python = prepare(root, with_tests=True)
    failed = [
        run_in(root, python, "-m", "benchmarks." + name)
        for name in names or there
    ]
    return int(any(failed))


VERBS = {
    "book": book,
    "serve": serve,
    "lab": lab,
    "test": test,
    "check": check,
    "bench": bench,
}


def main(arguments: list) -> int:
    """Run one verb.

    Args:
        arguments: the verb and what follows it.

    Returns:
        The exit status.
    """
    try:
        if not arguments or arguments[0] not in VERBS:
            raise Stop("Say one of: {}.".format(", ".join(VERBS)))
        if sys.version_info < OLDEST_PYTHON and (
            environment_version(ROOT) >= OLDEST_PYTHON
        ):
            # Made earlier with a newer Python: that one can do all the rest.
            python = str(environment_python(ROOT))
            os.execv(python, [python, __file__, *arguments])
        require_python(sys.version_info)
        return VERBS[arguments[0]](ROOT, *arguments[1:])
    except Stop as reason:
        print(f"\n{reason}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print("\n" + explain("[Errno 28]", ROOT), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
