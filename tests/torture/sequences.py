"""Short lists of operations, each with a name, for the lockstep driver.

python -m tests.torture.sequences [PART OF A NAME]

Prints, as JSON, by name: what the page shows and should not, or null.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
from typing import Any

import shm_metrics.writer.writer
from tests.torture.lockstep import Operation, Options, attempt

BIG = 1e17
SETTABLE = [f"g_{mode}" for mode in ("shared", "all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum")]
NEWEST = ["g_mostrecent", "g_livemostrecent"]


def use(worker: int, family: str, method: str, value: Any, *, kept: bool = False) -> Operation:
    """kept: by the handle that the worker has had since its first use."""
    return "use", worker, family, "" if family == "p" else "a", method, value, kept


def remove(worker: int, family: str) -> Operation:
    return "remove", worker, family, "a", False


def reset(worker: int) -> Operation:
    return "reset", worker, "p", "", False


# Of the three workers, 0 and 1 have the two rows where there are no more, and 2 has none.
WITH_ROWS: dict[str, list[Operation]] = {
    "a counter that is removed twice, and used by a kept handle in between": [
        use(0, "c", "inc", 1.0),
        use(1, "c", "inc", 1.0),
        remove(0, "c"),
        use(1, "c", "inc", 8.0, kept=True),
        remove(0, "c"),
    ],
    "a counter is removed after a great amount": [use(0, "c", "inc", BIG), remove(0, "c"), use(0, "c", "inc", 1.0)],
    "a counter is removed after fractions": [
        use(0, "c", "inc", 0.1),
        use(1, "c", "inc", 0.3),
        remove(0, "c"),
        use(0, "c", "inc", 0.1),
    ],
    "a counter is reset after a great amount": [use(0, "p", "inc", BIG), reset(0), use(0, "p", "inc", 1.0)],
    "a counter is reset after a fraction": [use(0, "p", "inc", 1.0), reset(1), use(0, "p", "inc", 0.3)],
    **{
        f"a {kind} is removed after {value}": [
            use(0, family, "observe", value),
            remove(0, family),
            use(1, family, "observe", 1.0),
        ]
        for kind, family in (("histogram", "h"), ("summary", "s"))
        for value in (BIG, math.inf, 0.1)
    },
    **{
        f"{family} counts from 0 by a kept handle": [
            use(0, family, "set", 5.0),
            remove(1, family),
            use(0, family, "inc", 1.0, kept=True),
        ]
        for family in SETTABLE
    },
    **{
        f"{family} counts from 0 by a new handle": [
            use(0, family, "set", 5.0),
            remove(0, family),
            use(0, family, "inc", 1.0),
        ]
        for family in SETTABLE
    },
    **{
        f"{family} is set again after a removal": [
            use(0, family, "set", 5.0),
            remove(1, family),
            use(0, family, "set", 5.0, kept=True),
        ]
        for family in (*SETTABLE, *NEWEST)
    },
    "a sum that was removed is not inherited": [
        use(0, "g_sum", "set", 5.0),
        ("kill", 0),
        remove(1, "g_sum"),
        ("start", 0),
        use(0, "g_sum", "inc", 1.0),
    ],
    **{
        f"{family} of a dead worker stays removed when its row changes hands": [
            use(0, family, "set", level),
            remove(1, family),
            ("kill", 0),
            ("start", 0),
            use(1, family, "set", 3.0),
            ("kill", 1),
            ("start", 1),
        ]
        for family, level in (("g_max", 5.0), ("g_min", 1.0))
    },
    **{
        f"{family} that was folded before the removal stays removed": [
            use(0, family, "set", level),
            ("kill", 0),
            ("start", 0),
            remove(1, family),
            use(1, family, "set", 3.0),
            ("kill", 1),
            ("start", 1),
        ]
        for family, level in (("g_max", 5.0), ("g_min", 1.0))
    },
    "a livesum that was used by a kept handle after a removal is 0 when its worker dies": [
        use(0, "g_livesum", "inc", 5.0),
        remove(1, "g_livesum"),
        use(0, "g_livesum", "set", 1.0, kept=True),
        ("kill", 0),
    ],
    "a shared gauge is set after a fraction": [use(0, "g_shared", "dec", 0.3), use(1, "g_shared", "set", 0.1)],
    "a shared gauge is set after a great amount": [use(0, "g_shared", "inc", BIG), use(0, "g_shared", "set", 1.0)],
    **{
        f"a shared gauge is set after {value}": [
            use(0, "g_shared", method, value),
            use(1, "g_shared", "inc", 1.0),
            use(1, "g_shared", "set", 2.0),
        ]
        for method in ("set", "inc")
        for value in (math.nan, math.inf)
    },
    "a shared gauge is cleared after an infinity": [
        use(0, "g_shared", "inc", math.inf),
        ("clear", 0, "g_shared"),
        use(0, "g_shared", "inc", 2.0),
    ],
    "a shared gauge is set and moved by kept handles after a removal": [
        use(0, "g_shared", "set", 5.0),
        use(1, "g_shared", "inc", 2.0),
        remove(1, "g_shared"),
        use(0, "g_shared", "set", 9.0, kept=True),
        use(1, "g_shared", "inc", 1.0, kept=True),
    ],
    "a shared gauge is moved up and down by a kept handle after a removal": [
        use(0, "g_shared", "inc", 5.0),
        remove(1, "g_shared"),
        use(0, "g_shared", "inc", 1.0, kept=True),
        use(0, "g_shared", "dec", 1.0, kept=True),
    ],
    "an info says the same after a removal": [
        use(0, "i", "info", "x"),
        use(1, "i", "info", "x"),
        remove(0, "i"),
        use(1, "i", "info", "x", kept=True),
    ],
    "an enum is in the same state after a removal": [
        use(0, "e", "state", "on"),
        remove(1, "e"),
        use(0, "e", "state", "on", kept=True),
    ],
    "a worker goes to another segment and comes back with its counts": [
        use(0, "c", "inc", 1.0),
        ("go_away", 0),
        use(0, "c", "inc", 2.0),
        use(0, "p", "inc", 2.0),
        use(0, "h", "observe", 1.0),
        ("come_back", 0),
    ],
    "a worker comes back from another segment with its gauges": [
        ("go_away", 0),
        *(use(0, family, "set", 2.0) for family in (*SETTABLE, *NEWEST)),
        use(0, "i", "info", "x"),
        use(0, "e", "state", "on"),
        ("come_back", 0),
    ],
    "a worker comes back from another segment where it removed a series": [
        use(1, "c", "inc", 1.0),
        ("go_away", 0),
        use(0, "c", "inc", 5.0),
        remove(0, "c"),
        use(0, "c", "inc", 2.0),
        ("come_back", 0),
    ],
    "a worker comes back to a series that was removed after a great amount": [
        use(0, "c", "inc", BIG),
        remove(0, "c"),
        ("go_away", 0),
        use(0, "c", "inc", 5.0),
        ("come_back", 0),
    ],
}
WITHOUT_A_ROW: dict[str, list[Operation]] = {
    **{
        f"a worker without a row removes what it did to {family}": [
            use(2, family, method, 1.0),
            remove(2, family),
            ("kill", 0),
        ]
        for family, method in (("c", "inc"), ("h", "observe"), ("s", "observe"), ("g_shared", "inc"), ("g_sum", "inc"))
    },
    "a worker without a row resets what it counted": [use(2, "p", "inc", 5.0), reset(2), ("kill", 0)],
    "a worker without a row uses a counter that another one removes": [
        use(2, "c", "inc", 5.0),
        remove(0, "c"),
        use(2, "c", "inc", 1.0, kept=True),
        ("kill", 0),
    ],
    **{
        f"a worker without a row moves {family} before another one does, and takes that one's row": [
            use(2, family, "inc", 5.0),
            use(0, family, "inc", 1.0),
            ("kill", 0),
        ]
        for family in SETTABLE
    },
    "a worker without a row sets a shared gauge after another one moved it": [
        use(1, "g_shared", "dec", 2.0),
        use(2, "g_shared", "set", 1.0),
        ("kill", 1),
    ],
    "a worker without a row says something else before another one does": [
        use(2, "i", "info", "x"),
        use(2, "e", "state", "on"),
        use(2, "g_mostrecent", "set", 1.0),
        use(0, "i", "info", "y"),
        use(0, "e", "state", "broken"),
        use(0, "g_mostrecent", "set", 2.0),
        ("kill", 0),
    ],
    "a worker comes back with its counts, and finds no row": [
        ("go_away", 0),
        use(0, "c", "inc", 5.0),
        use(0, "g_shared", "inc", 5.0),
        ("come_back", 0),
        use(0, "c", "inc", 1.0),
        ("kill", 1),
    ],
}
FEW_SLOTS: dict[str, list[Operation]] = {
    "1,000 label sets of a counter go through 512 slots": [("churn", 0, "c", 200)] * 5,
    "500 label sets of a shared gauge go through 512 slots": [("churn", 0, "g_shared", 100)] * 5,
    "500 label sets of a worker without a row go through 512 slots": [*[("churn", 2, "c", 100)] * 5, ("kill", 0)],
}
SEQUENCES: dict[str, tuple[Options, list[Operation]]] = {
    **{name: (Options(8, 4096, False), each) for name, each in WITH_ROWS.items()},
    **{name: (Options(2, 4096, False), each) for name, each in WITHOUT_A_ROW.items()},
    **{name: (Options(2, 512, True), each) for name, each in FEW_SLOTS.items()},
}


def main() -> None:
    logging.getLogger("shm_metrics").setLevel(logging.ERROR)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if hasattr(shm_metrics.writer.writer, "REPAIR_SECONDS"):
        shm_metrics.writer.writer.REPAIR_SECONDS = 0.01
    found: dict[str, str | None] = {}
    part = " ".join(sys.argv[1:])
    for name, (options, operations) in SEQUENCES.items():
        if part not in name:
            continue
        mismatch, _ = attempt(options, operations)
        found[name] = None if mismatch is None else str(mismatch)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
