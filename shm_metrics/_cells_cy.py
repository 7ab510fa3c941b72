# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: cdivision=True, freethreading_compatible=True
"""The hot path: cells. One of two modules that are compiled.

Lives here: what runs at every update, and nothing else. May not: look anything up by name, take a file lock, allocate.
Cython's pure-Python mode: the same source is compiled where there is a compiler, and interpreted where there is none.

A cell is a place in this process' own row: nobody else writes there, so an update is an add.

What keeps an update whole:
    compiled, with GIL    a method of C statements is not interrupted
    free-threaded         cython.critical_section on the row
    interpreted           an RLock on the row against other threads; a counter's one statement does without where there
                          is a GIL. What comes in on top in the same thread (a signal handler, a __del__) comes at a
                          call or at a backward jump, where CPython looks for such things; between the first and the
                          last store of an update there is neither, so that it finds it not begun or complete

A histogram's update in the order of its stores, and why a reader or a kill between any two of them does no harm:
    sequence = n + 1                      from here on the pair is moving: a reader compares sequences and looks again
    sum[(n + 1) & 1] = sum[n & 1] + v     into the other sum: the count is still n, so the old sum is still the sum
    bucket += 1                           the count becomes n + 1, and with it the new sum: one store commits both
"""

try:
    import cython
except ImportError:  # interpreted, on a machine without Cython
    from shm_metrics import _no_cython as cython

import sys
from array import array
from threading import RLock
from time import monotonic, perf_counter

from shm_metrics.errors import InvalidMetricError, shown

if cython.compiled:
    from cython.cimports.posix.time import CLOCK_MONOTONIC, clock_gettime, timespec
    from cython.cimports.shm_metrics._atomic import shm_load, shm_raise, shm_release

COMPILED: bool = cython.compiled
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

_LARGEST = cython.declare(cython.double, 1.7976931348623157e308)

# Slot offsets within a series, as drawn in layout.py.
_STAMP = cython.declare(cython.Py_ssize_t, 0)
_VALUE = cython.declare(cython.Py_ssize_t, 1)
_DELTA = cython.declare(cython.Py_ssize_t, 2)

_FEW_BOUNDS = cython.declare(cython.Py_ssize_t, 24)  # up to here a straight search beats a binary one


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _now() -> cython.double:
    """CLOCK_MONOTONIC in seconds, the clock of time.monotonic(): one for all processes of the host."""
    if cython.compiled:
        ts: timespec
        clock_gettime(CLOCK_MONOTONIC, cython.address(ts))
        return ts.tv_sec + 1e-9 * ts.tv_nsec
    return monotonic()


@cython.cfunc
@cython.exceptval(-1.0, check=True)
def _number(value: object, cell: object) -> cython.double:
    """The float in `value`; text, booleans and whatever is no number are refused in the name of `cell`."""
    if type(value) is not int and not _is_number(value):
        _refuse_value(value, cell)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # an array, an integer beyond every float
        _refuse_value(value, cell)
    return 0.0


@cython.cfunc
def _is_number(value: object):
    # numpy's booleans are called `bool` or `bool_`, by version; numpy itself is not loaded for them.
    if type(value).__name__ in ("bool", "bool_") or isinstance(value, (str, bytes)):
        return False
    return hasattr(value, "__float__") or hasattr(value, "__index__")


@cython.cfunc
def _refuse_value(value: object, cell: object):
    raise InvalidMetricError(
        f"{cell.told()}: {shown(value)} is no number ({type(value).__name__}); give an int or a float"
    )


@cython.cfunc
def _refuse_amount(value: object, cell: object):
    raise InvalidMetricError(
        f"{cell.told()}: counter amount {shown(value)}: a counter only grows; give a finite amount of at least 0, "
        "or use a gauge for what goes down"
    )


@cython.cfunc
def _refuse_nan(cell: object):
    raise InvalidMetricError(
        f"{cell.told()}: observed NaN: it belongs to no bucket; leave it out, or count it with a counter"
    )


@cython.cclass
class Row:
    """Where this process writes: its own row, or private memory while it has none.

    view: shape (slots,), the row. ledger: shape (slots,), the ledger row of the same segment.
    matrix: shape (rows, slots) and pages: shape (rows, pages), to add up the deltas of a shared gauge.
    """

    view: cython.double[::1]
    ledger: cython.double[::1]
    matrix: cython.double[:, ::1]
    pages: cython.uchar[:, ::1]
    slots_per_page: cython.Py_ssize_t
    if not cython.compiled:
        __slots__ = ("__weakref__", "ledger", "lock", "matrix", "pages", "slots_per_page", "view")

    def __init__(self, view, ledger, matrix, pages, slots_per_page):
        self.point(view, ledger, matrix, pages, slots_per_page)
        if not cython.compiled:
            self.renew()

    def renew(self):
        """Forget a lock that another thread held when this process was forked."""
        if not cython.compiled:
            self.lock = RLock()

    def point(self, view, ledger, matrix, pages, slots_per_page):
        """From now on write there; every cell of this row follows."""
        if cython.compiled:
            self.view, self.ledger, self.matrix, self.pages = view, ledger, matrix, pages
        else:
            self.view, self.ledger = memoryview(view), memoryview(ledger)
            self.matrix, self.pages = memoryview(matrix), memoryview(pages)
        self.slots_per_page = slots_per_page

    def take(self, other: "Row"):
        """Write where `other` writes."""
        self.view, self.ledger, self.matrix, self.pages = other.view, other.ledger, other.matrix, other.pages
        self.slots_per_page = other.slots_per_page

    @cython.ccall
    def add(self, slot: cython.Py_ssize_t, amount: cython.double):
        """Add to one slot."""
        if cython.compiled:
            with cython.critical_section(self):
                self.view[slot] += amount
        else:
            with self.lock:
                self.view[slot] += amount

    def read(self, slot: cython.Py_ssize_t):
        """What this row holds in one slot."""
        return self.view[slot]

    @cython.cfunc
    @cython.exceptval(check=False)
    def _deltas(self, slot: cython.Py_ssize_t) -> cython.double:
        """Sum of one slot over all worker rows; pages that nobody reserved are not touched."""
        row: cython.Py_ssize_t
        total: cython.double = 0.0
        page: cython.Py_ssize_t = slot // self.slots_per_page
        for row in range(1, self.matrix.shape[0]):
            if self.pages[row, page]:
                total += self.matrix[row, slot]
        return total


@cython.ccall
def private_row(slots: cython.Py_ssize_t) -> Row:
    """A row in private memory: where updates wait, or end, when there is no place in the segment for them."""
    memory = memoryview(bytearray(8 * slots))
    ledger = memoryview(bytearray(8 * slots)).cast("d")
    pages = memoryview(bytearray(1)).cast("B", (1, 1))
    return Row(memory.cast("d"), ledger, memory.cast("d", (1, slots)), pages, slots)


_UNBOUND = private_row(8)
_ONE_BUCKET = memoryview(array("d", [float("inf")]))


@cython.cclass
class Cell:
    """One series in this process' row. `row` and `slot` are set by bind() and move()."""

    row: Row
    slot: cython.Py_ssize_t
    if not cython.compiled:
        row = _UNBOUND
        slot = 0

    def __cinit__(self, *args, **kwargs):
        self.row = _UNBOUND  # a cell that was never bound writes nowhere
        self.slot = 0

    def bind(self, row: Row, slot: cython.Py_ssize_t):
        """Write there from now on; what was counted so far stays where it is."""
        self.row = row
        self.slot = slot

    def told(self):
        """What messages call this cell; a series has a name and labels."""
        return "a cell"

    def place(self):
        """(row, slot) of this cell."""
        return self.row, self.slot

    def move(self, row: Row, slot: cython.Py_ssize_t):
        """Write there from now on, and take along what this cell counted so far. Only for cells in private rows."""
        if cython.compiled:
            self._carry(self.row, row, slot)
            self.row = row
            self.slot = slot
        else:
            with self.row.lock, row.lock:
                self._carry(self.row, row, slot)
                self.row = row
                self.slot = slot

    def carry(self, source: Row, row: Row):
        """Add what was counted in this cell's slots of `source` to the same slots of `row`. See adopt()."""
        self._carry(source, row, self.slot)

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        row.view[slot] += source.view[self.slot]
        source.view[self.slot] = 0.0

    def forget(self):
        """Forget what this cell counted: in a forked child it is the parent's to report."""
        self.row.view[self.slot] = 0.0


@cython.ccall
def adopt(private: Row, shared: Row, cells: dict):
    """Point a private Row to where `shared` points, and take along what the cells in it counted.

    cells: of any keys; its values are looked at here, so that none comes in between.
    The pointing goes first: what is counted from then on is in the shared row, and the private memory stands still.
    """
    source: Row = private_row(1)
    source.take(private)
    private.take(shared)
    for cell in list(cells.values()):
        if cell.place()[0] is private:
            cell.carry(source, private)


@cython.cclass
class CounterCell(Cell):
    """slots: value."""

    def inc(self, amount=1.0, exemplar=None):
        """Add `amount`, finite and at least 0. exemplar: labels that say which event this was, such as a trace's id.

        Raises InvalidMetricError, and then counts nothing.
        """
        value: cython.double
        if exemplar is not None:
            self.inc_with_exemplar(amount, exemplar)
            return
        if type(amount) is float:
            value = amount
        else:
            value = _number(amount, self)
        if not 0.0 <= value <= _LARGEST:
            _refuse_amount(amount, self)
        if cython.compiled:
            with cython.critical_section(self.row):
                self.row.view[self.slot] += value
        else:
            if _GIL:
                # One statement without a call or a jump: CPython switches no thread and runs no handler inside it.
                self.row.view[self.slot] += value
            else:
                with self.row.lock:
                    self.row.view[self.slot] += value

    def increment(self, amount=1.0, exemplar=None):
        """The same as inc()."""
        self.inc(amount, exemplar)


@cython.cclass
class MovingCell(Cell):
    """What both kinds of gauge share: checking and locking. Each stores in its own way."""

    def set(self, value):
        """Set the value: any float."""
        number: cython.double
        if type(value) is float:
            number = value
        else:
            number = _number(value, self)
        if cython.compiled:
            with cython.critical_section(self.row):
                self._set(number)
        else:
            with self.row.lock:
                self._set(number)

    def inc(self, amount=1.0):
        """Add to the value: any float."""
        number: cython.double
        if type(amount) is float:
            number = amount
        else:
            number = _number(amount, self)
        self._locked_move(number)

    def dec(self, amount=1.0):
        """Subtract from the value: any float."""
        number: cython.double
        if type(amount) is float:
            number = amount
        else:
            number = _number(amount, self)
        self._locked_move(-number)

    def increment(self, amount=1.0):
        """The same as inc()."""
        self.inc(amount)

    def decrement(self, amount=1.0):
        """The same as dec()."""
        self.dec(amount)

    @cython.cfunc
    def _locked_move(self, number: cython.double):
        if cython.compiled:
            with cython.critical_section(self.row):
                self._move(number)
        else:
            with self.row.lock:
                self._move(number)

    @cython.cfunc
    @cython.exceptval(check=False)
    def _set(self, number: cython.double) -> cython.void:
        pass

    @cython.cfunc
    @cython.exceptval(check=False)
    def _move(self, number: cython.double) -> cython.void:
        pass


@cython.cclass
class GaugeCell(MovingCell):
    """slots: stamp, value. Each worker has a value of its own; the mode says how a reader makes one of them."""

    @cython.cfunc
    @cython.exceptval(check=False)
    def _set(self, number: cython.double) -> cython.void:
        now: cython.double = _now()
        self.row.view[self.slot + _VALUE] = number
        if cython.compiled:
            shm_release()
        # The stamp goes last: it says that there is a value.
        self.row.view[self.slot + _STAMP] = now

    @cython.cfunc
    @cython.exceptval(check=False)
    def _move(self, number: cython.double) -> cython.void:
        now: cython.double = _now()
        self.row.view[self.slot + _VALUE] += number
        if cython.compiled:
            shm_release()
        self.row.view[self.slot + _STAMP] = now

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        stamp: cython.double = source.view[self.slot + _STAMP]
        # Added, not set: a row that was taken over holds what its last owner left of a `sum` gauge, and else nothing.
        if stamp > row.view[slot + _STAMP]:
            row.view[slot + _VALUE] += source.view[self.slot + _VALUE]
            row.view[slot + _STAMP] = stamp
        source.view[self.slot + _STAMP] = 0.0
        source.view[self.slot + _VALUE] = 0.0

    def forget(self):
        """Forget this worker's value."""
        self.row.view[self.slot + _STAMP] = 0.0
        self.row.view[self.slot + _VALUE] = 0.0


@cython.cclass
class SharedGaugeCell(MovingCell):
    """slots: stamp, base, delta. One value for all workers: the newest base plus the sum of all deltas.

    The ledger row says two things of it. Its delta slot is a flag: somebody has used inc or dec; until then set() looks
    at no other row. Its stamp slot is the newest stamp of all rows: while that is this row's own, its base is the
    newest already, and set() need not ask the clock, which would cost more than all the rest.
    """

    @cython.cfunc
    @cython.exceptval(check=False)
    def _set(self, number: cython.double) -> cython.void:
        stamp: cython.double = self.row.view[self.slot + _STAMP]
        if self.row.ledger[self.slot + _DELTA] != 0.0:
            number -= self.row._deltas(self.slot + _DELTA)
        if cython.compiled:
            self.row.view[self.slot + _VALUE] = number
            if stamp == 0.0 or self.row.ledger[self.slot + _STAMP] != stamp:
                # The stamp goes last: it makes this base the newest.
                shm_release()
                stamp = _now()
                self.row.view[self.slot + _STAMP] = stamp
                shm_raise(cython.address(self.row.ledger[self.slot + _STAMP]), stamp)
        else:
            # Without compare-and-swap an older stamp may end up in the ledger, so here nobody relies on it.
            stamp = _now()
            self.row.view[self.slot + _VALUE] = number
            self.row.view[self.slot + _STAMP] = stamp
            self.row.ledger[self.slot + _STAMP] = stamp

    @cython.cfunc
    @cython.exceptval(check=False)
    def _move(self, number: cython.double) -> cython.void:
        # The flag goes first: a set() that misses it came before this delta.
        self.row.ledger[self.slot + _DELTA] = 1.0
        if cython.compiled:
            shm_release()
        self.row.view[self.slot + _DELTA] += number

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        if source.view[self.slot + _DELTA] != 0.0:
            row.ledger[slot + _DELTA] = 1.0
            row.view[slot + _DELTA] += source.view[self.slot + _DELTA]
        if source.view[self.slot + _STAMP] > row.view[slot + _STAMP]:
            row.view[slot + _VALUE] = source.view[self.slot + _VALUE]
            row.view[slot + _STAMP] = source.view[self.slot + _STAMP]
        source.view[self.slot + _STAMP] = 0.0
        source.view[self.slot + _VALUE] = 0.0
        source.view[self.slot + _DELTA] = 0.0

    def forget(self):
        """Forget base and delta."""
        self.row.view[self.slot + _STAMP] = 0.0
        self.row.view[self.slot + _VALUE] = 0.0
        self.row.view[self.slot + _DELTA] = 0.0


@cython.cclass
class HistogramCell(Cell):
    """slots: sequence, one a bucket, two sums. `bounds` ascend and end with +Inf."""

    bounds: cython.double[::1]
    buckets: cython.Py_ssize_t
    if not cython.compiled:
        bounds = _ONE_BUCKET
        buckets = 1

    def __cinit__(self, *args, **kwargs):
        self.bounds = _ONE_BUCKET
        self.buckets = 1

    def divide(self, bounds):
        """Set the upper bounds of the buckets: float64, ascending, the last one +Inf."""
        self.bounds = bounds
        self.buckets = len(bounds)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _bucket(self, value: cython.double) -> cython.Py_ssize_t:
        low: cython.Py_ssize_t = 0
        high: cython.Py_ssize_t = self.buckets - 1
        middle: cython.Py_ssize_t
        if high <= _FEW_BOUNDS:
            while low < high and value > self.bounds[low]:
                low += 1
            return low
        while low < high:
            middle = (low + high) // 2
            if value > self.bounds[middle]:
                low = middle + 1
            else:
                high = middle
        return low

    def observe(self, amount, exemplar=None):
        """Count one observation: any float but NaN. exemplar: labels that say which event this was.

        Raises InvalidMetricError, and then counts nothing.
        """
        value: cython.double
        if exemplar is not None:
            self.observe_with_exemplar(amount, exemplar)
            return
        if type(amount) is float:
            value = amount
        else:
            value = _number(amount, self)
        if value != value:
            _refuse_nan(self)
        if cython.compiled:
            with cython.critical_section(self.row):
                self._observe(value)
        else:
            with self.row.lock:
                self._observe(value)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _observe(self, value: cython.double) -> cython.void:
        slot: cython.Py_ssize_t = self.slot
        sums: cython.Py_ssize_t = slot + 1 + self.buckets
        bucket: cython.Py_ssize_t = slot + 1 + self._bucket(value)
        begun: cython.double = self.row.view[slot] + 1.0
        odd: cython.Py_ssize_t
        if cython.compiled:
            odd = cython.cast(cython.longlong, begun) & 1
        else:
            odd = 1 if begun % 2.0 else 0
        self.row.view[slot] = begun
        if cython.compiled:
            shm_release()
        self.row.view[sums + odd] = self.row.view[sums + 1 - odd] + value
        if cython.compiled:
            shm_release()
        # The bucket goes last: it makes the count, and the count says which sum is the sum.
        self.row.view[bucket] += 1.0

    def time(self):
        """A context manager and decorator that observes the seconds a block or a call takes."""
        timer = HistogramTimer()
        timer.cell = self
        timer.seconds = -1.0
        return timer

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        i: cython.Py_ssize_t
        count: cython.double = 0.0
        have: cython.double = 0.0
        for i in range(self.buckets):
            count += source.view[self.slot + 1 + i]
            have += row.view[slot + 1 + i]
        if count == 0.0:
            return
        sums: cython.Py_ssize_t = self.slot + 1 + self.buckets
        total: cython.double = source.view[sums + (cython.cast(cython.longlong, count) & 1)]
        sums = slot + 1 + self.buckets
        total += row.view[sums + (cython.cast(cython.longlong, have) & 1)]
        # A sequence more than one ahead of the count tells the reader to wait for all buckets.
        row.view[slot] = have + count
        row.view[sums + (cython.cast(cython.longlong, have + count) & 1)] = total
        if cython.compiled:
            shm_release()
        for i in range(self.buckets):
            row.view[slot + 1 + i] += source.view[self.slot + 1 + i]
        for i in range(self.buckets + 3):
            source.view[self.slot + i] = 0.0

    def forget(self):
        """Forget all observations."""
        i: cython.Py_ssize_t
        for i in range(self.buckets + 3):
            self.row.view[self.slot + i] = 0.0


@cython.no_gc  # it is in no cycle: nothing it refers to refers to it
@cython.freelist(8)
@cython.cclass
class HistogramTimer:
    """Made by HistogramCell.time(); one block at a time."""

    cell: HistogramCell
    began: cython.double
    seconds: cython.double

    @property
    def duration(self):
        """The seconds that the block took, or None while it has not ended."""
        return self.seconds if self.seconds >= 0.0 else None

    def labels(self, *labelvalues, **labelkwargs):
        """Raises InvalidMetricError: a timer of a series has its labels. One of a metric with labels is told them."""
        self.cell.labels(*labelvalues, **labelkwargs)

    def __enter__(self):
        self.began = _now() if cython.compiled else perf_counter()
        return self

    def __exit__(self, kind, error, trace):
        if cython.compiled:
            seconds: cython.double = _now() - self.began
            self.seconds = seconds if seconds > 0.0 else 0.0
            with cython.critical_section(self.cell.row):
                self.cell._observe(self.seconds)
        else:
            self.seconds = max(0.0, perf_counter() - self.began)
            self.cell.observe(self.seconds)
        return False

    def __call__(self, function):
        from shm_metrics.timing import timed

        return timed(function, self.cell.observe)


def gather(view, indexes, out):
    """Copy `view[indexes]` into `out`, loading strictly in the order of `indexes`.

    view: float64 (n,). indexes: intp (m,), in bounds. out: float64 (m,).
    """
    if cython.compiled:
        _gather(view, indexes, out)
    else:
        view.take(indexes, out=out, mode="clip")


@cython.cfunc
def _gather(view: cython.const[cython.double][::1], indexes: cython.Py_ssize_t[::1], out: cython.double[::1]):
    i: cython.Py_ssize_t
    for i in range(indexes.shape[0]):
        if cython.compiled:
            out[i] = shm_load(cython.address(view[indexes[i]]))
