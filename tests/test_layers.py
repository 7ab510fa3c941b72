"""Imports point down only, as docs/design.md draws it, and what is pure touches no world.

Read from the source: what is imported where, at the top of a module, within a function, or for the type checker only.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import shm_metrics

PACKAGE = Path(shm_metrics.__file__).parent

# From the bottom to the top: the folders of the package, and the few modules that stand beside them. A module may
# import what stands in its own folder or below.
LAYERS = (
    "errors",
    "runtime",
    "model",
    "exposition",
    "native",
    "segment",
    "reader",
    "writer",
    "scrape",
    "metrics",
    "serving",
    "events",
    "exporters",
    "cluster",
    "environment",
    "backend",
    "default",
    "prometheus",
    "integrations",
    "pytest_plugin",
    "cli",
    "__main__",
)

PURE = (
    "model model.* exposition exposition.* cluster.model cluster.model.* cluster.codec cluster.codec.chunks "
    "cluster.codec.table_format cluster.codec.wire cluster.merge cluster.merge.* cluster.stores.memcached_records "
    "cluster.stores.protocol cluster.stores.redis_scripts errors events.payload events.rules exporters.dictionaries "
    "reader.aggregate reader.plan runtime.cached_property runtime.proc_parsing runtime.process_usage "
    "scrape.process_families scrape.self_metrics segment.catalog_records segment.exemplar_records segment.layout "
    "segment.slots"
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

# Upward, within a function, each with its reason.
UPWARD = {
    ("native._cells_cy", "metrics.context_managers"): "histogram.time() is a method of the compiled cell",
    ("metrics.default_backend", "default"): "a metric without registry= counts in the backend that the top makes",
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
    return LAYERS.index(name.partition(".")[0])


def test_the_layers_are_the_folders():
    assert {name.partition(".")[0] for name in MODULES} == set(LAYERS)
    assert {each for each in PURE.split() if not each.endswith(".*")} <= set(MODULES)


def test_at_most_eight_modules_stand_beside_the_folders():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    upward = [
        (where, what)
        for where, what in ours(name)
        if where != "typing" and layer(what) > layer(name) and (name, what) not in UPWARD
    ]
    assert upward == []


def test_what_is_imported_upward_is_imported_within_a_function():
    for name, what in UPWARD:
        assert {where for where, found in ours(name) if found == what} == {"function"}


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


@pytest.mark.parametrize("name", [name for name in MODULES if among(name, "cluster cluster.*")])
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
