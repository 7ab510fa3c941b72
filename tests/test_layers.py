"""Imports point down only, as docs/design.md draws it, and what is pure touches no world.

Read from the source: what is imported where, at the top of a module, within a function, or for the type checker only.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import shm_metrics

PACKAGE = Path(shm_metrics.__file__).parent

# From the bottom to the top. A module may import what stands in its own layer or below.
LAYERS = (
    (
        "pure leaves",
        "_no_cython aggregate arrays buckets definitions errors exemplars families gauge_modes kept labels layout "
        "quantiles records slots process.families process.parsing process.usage",
    ),
    ("cells", "_cells_cy _lookup_cy cells timing"),
    ("runtime", "runtime runtime.*"),
    (
        "segment",
        "forks held_byte locks mapping place presence process process.procfs reboot removals segment slot_table",
    ),
    ("writer", "allocator bound_cells catalog exemplar_table index rows writer"),
    ("exposition", "exposition exposition.*"),
    ("reader", "exemplar_scan export exporter ledger mirror plan reader scan scraping self_metrics snapshot"),
    ("faces", "backend default engine environment handles metrics pickling recurring registry series"),
    ("serving", "serving serving.*"),
    ("sync", "sync sync.*"),
    ("events", "events events.*"),
    ("exporters", "exporters exporters.*"),
    (
        "edges",
        "__main__ cli cli.* edges integrations integrations.* prometheus prometheus.* pytest_plugin",
    ),
)

PURE = (
    "aggregate arrays buckets definitions errors events.payload events.rules exemplars export exposition exposition.* "
    "families gauge_modes kept labels layout plan process.families process.parsing process.usage quantiles records "
    "self_metrics slots snapshot "
    "sync sync.blob sync.capture sync.chunks sync.cluster sync.exact sync.fold sync.said sync.table_format sync.tables "
    "sync.union sync.wire sync.stores sync.stores.memcached_records sync.stores.protocol sync.stores.redis_scripts"
)

# What a pure module may not even name: the operating system, files, clocks, threads, the network.
WORLD = {
    "asyncio",
    "datetime",
    "fcntl",
    "io",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "posix_ipc",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
ALLOWED_WORLD = {("exposition.csv_table", "io")}  # a StringIO for the csv module: memory, no file

# Upwards, within a function: a process that only counts never loads numpy, so the reading half comes when asked for;
# and one without a cache never loads what a cluster needs.
LAZY = {
    ("writer", "reader"),
    ("backend", "events.handling"),
    ("backend", "exporters.registry"),
    ("backend", "sync.agent"),
    ("backend", "sync.config"),
    ("backend", "sync.distributed"),
    ("backend", "sync.opening"),
    ("backend", "sync.report"),
    ("backend", "sync.strategy"),
    ("environment", "sync.config"),
    ("environment", "sync.opening"),
}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if module_name(path)}


def imports(name: str) -> list[tuple[str, str]]:
    """(where, what) of every import: where is `top`, `function` or `typing`; what is ours without `shm_metrics.`."""
    found: list[tuple[str, str]] = []

    def walk(node: ast.AST, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            inside = where
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inside = "function"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inside = "typing"
            elif isinstance(child, ast.Import):
                found.extend((where, alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}: imports are written in full"
                module = child.module or ""
                for alias in child.names:
                    whole = f"{module}.{alias.name}"
                    found.append((where, whole if whole.removeprefix("shm_metrics.") in MODULES else module))
            walk(child, inside)

    walk(ast.parse(MODULES[name].read_text()), "top")
    return [(where, what.removeprefix("shm_metrics.")) for where, what in found]


def ours(name: str) -> list[tuple[str, str]]:
    return [(where, what) for where, what in imports(name) if what in MODULES]


def among(name: str, told: str) -> bool:
    return any(name == each or (each.endswith(".*") and name.startswith(each[:-1])) for each in told.split())


def layer(name: str) -> int:
    (found,) = [number for number, (_, members) in enumerate(LAYERS) if among(name, members)]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_layer(name):
    places = [label for label, members in LAYERS if among(name, members)]
    assert len(places) == 1, f"{name} is in {places}: say in LAYERS where it belongs"


def test_the_layers_name_no_module_that_is_gone():
    named = {each for _, members in LAYERS for each in members.split() if not each.endswith(".*")}
    assert named <= set(MODULES)
    assert {each for each in PURE.split() if not each.endswith(".*")} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    upward = [
        (where, what)
        for where, what in ours(name)
        if where != "typing" and layer(what) > layer(name) and (name, what) not in LAZY
    ]
    assert upward == []


def test_what_is_loaded_late_is_loaded_late():
    for name, what in LAZY:
        assert {where for where, found in ours(name) if found == what} <= {"function", "typing"}
        assert ("function", what) in ours(name)


def test_no_two_modules_import_each_other():
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name in done:
            return
        for where, what in ours(name):
            if where == "top" and what != name:
                visit(what, (*way, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in MODULES if among(name, "sync sync.*")])
def test_nothing_that_comes_from_a_cache_can_be_executed(name):
    read = {what.partition(".")[0] for _, what in imports(name)}
    assert not read & {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}


@pytest.mark.parametrize("name", [name for name in MODULES if among(name, PURE)])
def test_what_is_pure_touches_no_world(name):
    touched = {what.partition(".")[0] for _, what in imports(name) if what not in MODULES} & WORLD
    assert {(name, what) for what in touched} <= ALLOWED_WORLD


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli")])
def test_only_the_command_line_reads_arguments_and_prints(name):
    tree = ast.parse(MODULES[name].read_text())
    printed = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert printed == []
    assert "argparse" not in {what for _, what in imports(name)}


def test_a_process_that_only_counts_never_loads_numpy(python, segment_name):
    code = """
import sys
from shm_metrics import Counter, Enum, Gauge, Histogram, Info, Summary, get_backend
Counter("a", "", ["x"]).labels("1").inc()
Gauge("b", "").set(1)
Gauge("c", "", multiprocess_mode="max").inc()
Histogram("d", "").observe(1)
Summary("e", "", ["x"]).labels(x=1).observe(1)
Info("f", "").info({"version": "1"})
Enum("g", "", states=["x"]).state("x")
get_backend().counter("h", x=1).inc()
print("numpy" in sys.modules)
get_backend().snapshot()
print("numpy" in sys.modules)
"""
    assert python(code, SHM_METRICS_SEGMENT=segment_name).split() == ["False", "True"]
