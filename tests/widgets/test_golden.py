"""The explorables compute in JavaScript what the package does in Python."""

import json
import math

import pytest

from mambaviz.widgets import modules
from tests.browsing import HOST
from tests.fixtures.golden import FILE, golden

STORED = json.loads(FILE.read_text(encoding="utf-8"))

# The library as a module too: a class's own module has it in front.
SOURCES = {"lib": modules.library()} | {
    name: modules.esm(name) for name in modules.names()
}

IMPORT = """async (sources) => {
    window.loaded = {};
    for (const [name, source] of Object.entries(sources)) {
        const blob = new Blob([source], { type: "text/javascript" });
        loaded[name] = await import(URL.createObjectURL(blob));
    }
}"""
COMPUTE = """(stored) => Object.fromEntries(
    Object.entries(stored).map(([module, functions]) => [module,
        Object.fromEntries(Object.entries(functions).map(([name, cases]) => [
            name, cases.map(({ args }) => loaded[module][name](...args)),
        ])),
    ]),
)"""
FUNCTIONS = """() => Object.fromEntries(
    Object.entries(loaded).map(([module, all]) => [module,
        Object.keys(all).filter((name) => typeof all[name] === "function"),
    ]),
)"""


def differences(got, wanted, relative, where=""):
    """Where two values part: numbers by more than ``relative``."""
    if isinstance(wanted, bool | str) or wanted is None:
        return [] if got == wanted else [f"{where}: {got!r}, not {wanted!r}"]
    if isinstance(wanted, int | float):
        close = isinstance(got, int | float) and math.isclose(
            got, wanted, rel_tol=relative, abs_tol=0
        )
        return [] if close else [f"{where}: {got!r}, not {wanted!r}"]
    keys = wanted if isinstance(wanted, dict) else range(len(wanted))
    if type(got) is not type(wanted) or len(got) != len(wanted):
        return [f"{where}: {got!r}, not {wanted!r}"]
    if isinstance(wanted, dict) and set(got) != set(wanted):
        return [f"{where}: {sorted(got)}, not {sorted(wanted)}"]
    return [
        difference
        for key in keys
        for difference in differences(
            got[key], wanted[key], relative, f"{where}/{key}"
        )
    ]


def test_differences_are_found():
    assert differences([1.0, {"a": 2}], [1.0 + 1e-12, {"a": 2}], 1e-9) == []
    assert differences([1.0], [1.0 + 1e-8], 1e-9) == [
        "/0: 1.0, not 1.00000001"
    ]
    assert differences(math.nan, 1.0, 1e-9)
    assert differences(None, 1.0, 1e-9)
    assert differences(1e-300, 0.0, 1e-9)
    assert differences([1.0], [1.0, 2.0], 1e-9)
    assert differences({"a": 1.0}, {"b": 1.0}, 1e-9)
    assert differences("fades", "grows", 1e-9)


def test_the_file_holds_what_theory_gives_now():
    """Else: python -m tests.fixtures.golden."""
    fresh = json.loads(json.dumps(golden()))
    assert differences(STORED, fresh, 1e-12) == []


@pytest.fixture(params=["module", "classic script"])
def page(request, browser):
    """A page that has loaded everything, as Jupyter or as the book does."""
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    if request.param == "module":
        page.evaluate(IMPORT, SOURCES)
    else:
        page.add_script_tag(content=HOST.read_text(encoding="utf-8"))
        for name in ("lib", *modules.names()):
            page.add_script_tag(content=modules.classic(name))
        page.evaluate("() => { window.loaded = MambaViz.modules; }")
    assert errors == []
    yield page
    page.close()


@pytest.mark.browser
def test_javascript_gives_the_golden_values(page):
    assert differences(page.evaluate(COMPUTE, STORED), values(), 1e-9) == []


@pytest.mark.browser
def test_every_function_of_an_explorable_has_golden_values(page):
    exported = page.evaluate(FUNCTIONS)
    exported["lib"] = [
        name
        for part in ("rules.js", "matrices.js")
        for name in modules.exports(
            (modules.ROOM / "lib" / part).read_text(encoding="utf-8")
        )
    ]
    assert {m: sorted(names) for m, names in exported.items()} == {
        m: sorted(functions) for m, functions in STORED.items()
    }


@pytest.mark.browser
def test_every_module_draws(page):
    for name in modules.names():
        kind = f"typeof loaded['{name}'].default.render"
        assert page.evaluate(kind) == "function", name


def values():
    return {
        module: {
            name: [case["value"] for case in cases]
            for name, cases in functions.items()
        }
        for module, functions in STORED.items()
    }
