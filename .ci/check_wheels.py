"""Builds the source archive and, from it, a wheel on each kind of machine; says what each of them must hold.

The kinds: a compiler, a compiler that fails, and an extension that was declined. Each wheel is then imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ("_cells_cy", "_lookup_cy")
SOURCES = {"shm_metrics/__init__.py", "shm_metrics/py.typed"} | {
    f"shm_metrics/native/{name}{ending}" for name in COMPILED for ending in (".py", ".pyi")
}
KINDS: dict[str, tuple[dict[str, str], bool]] = {
    "with a compiler": ({"SHM_METRICS_REQUIRE_EXTENSION": "1"}, True),
    "without a compiler": ({"CC": "/bin/false", "CXX": "/bin/false"}, False),
    "extension declined": ({"SHM_METRICS_NO_EXTENSION": "1"}, False),
}
IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import shm_metrics
from shm_metrics.native.implementation import COMPILED, cells, lookup
assert shm_metrics.__file__.startswith(sys.argv[1]), shm_metrics.__file__
assert COMPILED == (sys.argv[2] == "True")
for module in (cells, lookup):
    assert module.__file__.endswith(".so") == COMPILED, module.__file__
"""


def run(*command: str, **environment: str) -> None:
    """Run to the end; show the output only of what failed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHM_METRICS_")}
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def check(condition: bool, message: str) -> None:
    """End with the message unless the condition holds."""
    if not condition:
        sys.exit(message)


def main() -> None:
    """Check one archive and three wheels."""
    with tempfile.TemporaryDirectory() as scratch:
        run(sys.executable, "-m", "build", "--sdist", "--outdir", scratch)
        archive = next(Path(scratch).glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            names = {name.partition("/")[2] for name in tar.getnames()}
        missing = (
            SOURCES
            | {"shm_metrics/native/_atomic.pxd", "shm_metrics/native/_method.pxd", "setup.py", "LICENSE", "README.md"}
        ) - names
        check(not missing, f"{archive.name} lacks {sorted(missing)}")
        made = [name for name in names if name.endswith((".c", ".so"))]
        check(not made, f"{archive.name} should not hold {made}")
        print(f"{archive.name}: {len(names)} files")

        for kind, (environment, compiled) in KINDS.items():
            into = Path(scratch, kind.replace(" ", "-"))
            run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(into), str(archive), **environment)
            wheel = next(into.glob("*.whl"))
            with zipfile.ZipFile(wheel) as bundle:
                names = set(bundle.namelist())
                bundle.extractall(into / "site")
            native = [name for name in names if name.endswith(".so")]
            check(names >= SOURCES, f"{kind}: {wheel.name} lacks {sorted(SOURCES - names)}")
            check(len(native) == compiled * len(COMPILED), f"{kind}: {wheel.name} holds {native or 'no extension'}")
            stray = [name for name in names if name.endswith((".c", ".pxd", ".pyx")) or name.startswith("tests/")]
            check(not stray, f"{kind}: {wheel.name} should not hold {stray}")
            run(sys.executable, "-c", IMPORT, str(into / "site"), str(compiled))
            print(f"{kind}: {wheel.name}, {'compiled' if compiled else 'Python only'}, imports")


if __name__ == "__main__":
    main()
