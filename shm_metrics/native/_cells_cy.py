# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: cdivision=True, freethreading_compatible=True
"""The hot path: cells. One of two modules that are compiled.

Only code that runs at every update is here. It looks nothing up by name, takes no file lock, and allocates nothing.
The source is in Cython's pure-Python mode: a compiler compiles it, and without one it runs interpreted.

A cell is a place in this process' own row. No other process writes there, so an update is an add. Each update first
compares the segment's generation of removals with the one that the row has followed. If they differ, the row is brought
up to date: removed series are zeroed, and a cell whose slots were reused by another series gets a new place.

What makes an update atomic:
    compiled, with GIL    a method of C statements is not interrupted
    free-threaded         cython.critical_section on the row
    interpreted           an RLock on the row against other threads; a counter's one statement does without where there
                          is a GIL. What comes in on top in the same thread (a signal handler, a __del__) comes at a
                          call or at a backward jump, where CPython looks for such things; between the first and the
                          last store of an update there is neither, so that it finds it not begun or complete

A histogram's update in the order of its stores, and why a reader or a kill between any two of them does no harm:
    sequence = n + 1                      from here on the pair is moving: a reader compares sequences and reads again
    sum[(n + 1) & 1] = sum[n & 1] + v     into the other sum: the count is still n, so the old sum is still the sum
    bucket += 1                           the count becomes n + 1, and with it the new sum: one store commits both
"""

try:
    import cython
except ImportError:  # interpreted, on a machine without Cython
    from shm_metrics.native import _no_cython as cython

import sys
from array import array
from threading import RLock
from time import monotonic, perf_counter

from shm_metrics.errors import InvalidMetricError, short_repr

if cython.compiled:
    from cython.cimports.posix.time import CLOCK_MONOTONIC, clock_gettime, timespec
    from cython.cimports.shm_metrics.native._atomic import shm_load, shm_release

COMPILED: bool = cython.compiled
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

_LARGEST = cython.declare(cython.double, 1.7976931348623157e308)

# Slot offsets within a series, as drawn in layout.py.
_STAMP = cython.declare(cython.Py_ssize_t, 0)
_VALUE = cython.declare(cython.Py_ssize_t, 1)
# Of a shared gauge: two pairs of a stamp and a base, then the epoch of the delta, and the delta.
_OTHER = cython.declare(cython.Py_ssize_t, 2)
_EPOCH = cython.declare(cython.Py_ssize_t, 4)
_DELTA = cython.declare(cython.Py_ssize_t, 5)

_FEW_BOUNDS = cython.declare(cython.Py_ssize_t, 24)  # up to here a straight search beats a binary one


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _now() -> cython.double:
    """Return CLOCK_MONOTONIC in seconds, the clock of time.monotonic(): one for all processes of the host."""
    if cython.compiled:
        ts: timespec
        clock_gettime(CLOCK_MONOTONIC, cython.address(ts))
        return ts.tv_sec + 1e-9 * ts.tv_nsec
    return monotonic()


@cython.cfunc
@cython.exceptval(-1.0, check=True)
def _number(value: object, cell: object) -> cython.double:
    """Return `value` as a float. Raise InvalidMetricError, naming `cell`, for text, booleans and other types."""
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
        f"{cell.display_name()}: {short_repr(value)} is no number ({type(value).__name__}); give an int or a float"
    )


@cython.cfunc
def _refuse_amount(value: object, cell: object):
    raise InvalidMetricError(
        f"{cell.display_name()}: counter amount {short_repr(value)}: a counter only grows; give a finite amount of at "
        "least 0, or use a gauge for what goes down"
    )


@cython.cfunc
def _refuse_nan(cell: object):
    raise InvalidMetricError(
        f"{cell.display_name()}: observed NaN: it belongs to no bucket; leave it out, or count it with a counter"
    )


@cython.cclass
class Row:
    """Where this process writes: its own row, or private memory while it has none.

    view: shape (slots,), the row. ledger: shape (slots,), the ledger row of the same segment.
    generation: shape (1,), the segment's generation of removals; seen: the one that the cells of this row followed.
    follower: called with the cell that is about to write when they differ.
    private: the memory is this process' own. content: what the follower needs to know of the memory.
    """

    view: cython.double[::1]
    ledger: cython.double[::1]
    generation: cython.ulonglong[::1]
    seen: cython.ulonglong
    private: cython.bint
    follower: object
    content: object
    if not cython.compiled:
        __slots__ = ("__weakref__", "content", "follower", "generation", "ledger", "lock", "private", "seen", "view")

    def __init__(self, view, ledger, generation, content=None):
        self.follower = None
        self.seen = 0
        self.point(view, ledger, generation, content, True)
        if not cython.compiled:
            self.renew()

    def renew(self):
        """Replace a lock that another thread held when this process was forked."""
        if not cython.compiled:
            self.lock = RLock()

    def point(self, view, ledger, generation, content, private):
        """Write there from now on, with every cell of this row."""
        if cython.compiled:
            self.view, self.ledger, self.generation = view, ledger, generation
        else:
            self.view, self.ledger, self.generation = memoryview(view), memoryview(ledger), memoryview(generation)
        self.content = content
        self.private = private

    def take(self, other: "Row"):
        """Write where `other` writes, and take over its generation."""
        self.view, self.ledger, self.generation = other.view, other.ledger, other.generation
        self.seen, self.content, self.private = other.seen, other.content, other.private

    def watch(self, follower):
        """Call `follower` with a cell that is about to write while removals are to be followed."""
        self.follower = follower

    def memory(self):
        """Return the content passed to point(), and whether the memory is private."""
        return self.content, self.private

    def follower_of(self):
        """Return the follower passed to watch()."""
        return self.follower

    def unsettle(self):
        """Have the follower called at the next update of every cell here."""
        self.seen = self.generation[0] + 1

    def settle(self):
        """Stop watching: what is in this private memory stays there until it is moved."""
        self.seen = self.generation[0]

    def followed(self):
        """Return the generation that the cells have followed."""
        return self.seen

    def follow(self, generation):
        """Note that the cells have followed the removals up to `generation`."""
        self.seen = generation

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
        """Return the number in one slot."""
        return self.view[slot]


@cython.ccall
def private_row(slots: cython.Py_ssize_t) -> Row:
    """Return a row in private memory, for updates that have no place in the segment."""
    view, ledger = memoryview(bytearray(8 * slots)).cast("d"), memoryview(bytearray(8 * slots)).cast("d")
    return Row(view, ledger, memoryview(bytearray(8)).cast("Q"))


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
        """Write there from now on; earlier counts stay where they are."""
        self.row = row
        self.slot = slot

    def display_name(self):
        """Return the name of this cell for messages; a series has a name and labels."""
        return "a cell"

    def place(self):
        """Return (row, slot) of this cell."""
        return self.row, self.slot

    def slots(self):
        """Return how many slots the series has."""
        return 1

    def rebind(self):
        """Find new slots, after another series took these. A series overrides it; a plain cell stays where it is."""
        self.row.settle()

    def move(self, row: Row, slot: cython.Py_ssize_t):
        """Write there from now on, and carry over what this cell counted. Only for cells in private rows."""
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
        """Forget what this cell counted: after a fork, the parent reports that."""
        self.row.view[self.slot] = 0.0


@cython.ccall
def adopt(private: Row, shared: Row, cells: dict, source: Row):
    """Point a private Row to where `shared` points, and carry over what its cells counted.

    cells: of any keys; its values are looked at here, so that none comes in between.
    source: a row that took over the private memory before. After an exception the call can be repeated with it.
    The pointing goes first: what is counted from then on is in the shared row, and the private memory stands still.
    """
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
        if self.row.generation[0] != self.row.seen:
            self.row.follower(self)
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
        """Do the same as inc()."""
        self.inc(amount, exemplar)


@cython.cclass
class MovingCell(Cell):
    """The checking and locking that both kinds of gauge share; each stores in its own way."""

    def set(self, value):
        """Set the value: any float."""
        number: cython.double
        if type(value) is float:
            number = value
        else:
            number = _number(value, self)
        if self.row.generation[0] != self.row.seen:
            self.row.follower(self)
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
        """Do the same as inc()."""
        self.inc(amount)

    def decrement(self, amount=1.0):
        """Do the same as dec()."""
        self.dec(amount)

    @cython.cfunc
    def _locked_move(self, number: cython.double):
        if self.row.generation[0] != self.row.seen:
            self.row.follower(self)
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

    def slots(self):
        """Return how many slots the series has."""
        return 2

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
        # Without a stamp there is no value, whatever a row's last owner left when it was killed.
        if self.row.view[self.slot + _STAMP] == 0.0:
            self.row.view[self.slot + _VALUE] = number
        else:
            self.row.view[self.slot + _VALUE] += number
        if cython.compiled:
            shm_release()
        self.row.view[self.slot + _STAMP] = now

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        stamp: cython.double = source.view[self.slot + _STAMP]
        if stamp != 0.0:
            if row.view[slot + _STAMP] == 0.0:
                row.view[slot + _VALUE] = source.view[self.slot + _VALUE]
            else:
                # Of a `sum` gauge, which the row's last owner left: the two add up. Of other modes a row is cleared.
                row.view[slot + _VALUE] += source.view[self.slot + _VALUE]
            if cython.compiled:
                shm_release()
            row.view[slot + _STAMP] = stamp
        source.view[self.slot + _STAMP] = 0.0
        source.view[self.slot + _VALUE] = 0.0

    def forget(self):
        """Forget this worker's value."""
        self.row.view[self.slot + _STAMP] = 0.0
        self.row.view[self.slot + _VALUE] = 0.0


@cython.cclass
class SharedGaugeCell(MovingCell):
    """slots: (stamp, base) twice, epoch, delta. One value for all workers: a base plus the deltas that came after it.

    The ledger row decides: its first slot is the epoch, the stamp of the base that counts, in whichever row. A delta
    counts if its row's epoch is that one. So a set() is one store, which drops every delta of before, and the value is
    then exactly what was set. The ledger's epoch slot says in which epoch inc or dec was used last: while that is
    another one, and this row has the base, set() only stores the base, and does not ask the clock.

    set()   base, stamp    into the pair that does not count: nothing has happened yet
            ledger epoch   the one store that makes it the value
    inc()   first of an epoch: ledger's epoch slot; delta; epoch. From then on: delta
    """

    def slots(self):
        """Return how many slots the series has."""
        return _DELTA + 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def _set(self, number: cython.double) -> cython.void:
        slot: cython.Py_ssize_t = self.slot
        epoch: cython.double = self.row.ledger[slot + _STAMP]
        pair: cython.Py_ssize_t = slot
        if self.row.view[slot + _STAMP] == epoch:
            pair = slot + _OTHER
        if epoch != 0.0 and self.row.ledger[slot + _EPOCH] != epoch:
            if pair != slot:
                self.row.view[slot + _VALUE] = number
                return
            if self.row.view[slot + _OTHER + _STAMP] == epoch:
                self.row.view[slot + _OTHER + _VALUE] = number
                return
        stamp: cython.double = _now()
        self.row.view[pair + _VALUE] = number
        if cython.compiled:
            shm_release()
        self.row.view[pair + _STAMP] = stamp
        if cython.compiled:
            shm_release()
        self.row.ledger[slot + _STAMP] = stamp

    @cython.cfunc
    @cython.exceptval(check=False)
    def _move(self, number: cython.double) -> cython.void:
        slot: cython.Py_ssize_t = self.slot
        epoch: cython.double = self.row.ledger[slot + _STAMP]
        if self.row.ledger[slot + _EPOCH] != epoch:
            # The ledger goes first: a set() that misses it came before this delta.
            self.row.ledger[slot + _EPOCH] = epoch
            if cython.compiled:
                shm_release()
        if self.row.view[slot + _EPOCH] == epoch:
            self.row.view[slot + _DELTA] += number
        else:
            self.row.view[slot + _DELTA] = number
            if cython.compiled:
                shm_release()
            # The epoch goes last: until then the delta is of one that counts no more.
            self.row.view[slot + _EPOCH] = epoch

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        """Carry what was set in private memory if nothing was set in the segment since; carry what was added always."""
        before: Row = self.row
        mine: cython.Py_ssize_t = self.slot
        stamp: cython.double = source.ledger[mine + _STAMP]
        base: cython.double = 0.0
        moved: cython.double = 0.0
        was_set: cython.bint = stamp != 0.0
        if source.view[mine + _STAMP] == stamp:
            base = source.view[mine + _VALUE]
        elif source.view[mine + _OTHER + _STAMP] == stamp:
            base = source.view[mine + _OTHER + _VALUE]
        else:
            was_set = False
        if source.view[mine + _EPOCH] == stamp:
            moved = source.view[mine + _DELTA]
        self.row = row
        self.slot = slot
        if was_set and stamp > row.ledger[slot + _STAMP]:
            self._set(base)
        if moved != 0.0:
            self._move(moved)
        self.row = before
        self.slot = mine
        i: cython.Py_ssize_t
        for i in range(_DELTA + 1):
            source.view[mine + i] = 0.0
        if source.private:
            source.ledger[mine + _STAMP] = 0.0
            source.ledger[mine + _EPOCH] = 0.0

    def forget(self):
        """Forget base and delta."""
        i: cython.Py_ssize_t
        for i in range(_DELTA + 1):
            self.row.view[self.slot + i] = 0.0
            if self.row.private:
                self.row.ledger[self.slot + i] = 0.0


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

    def slots(self):
        """Return how many slots the series has."""
        return self.buckets + 3

    def set_bounds(self, bounds):
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
        if self.row.generation[0] != self.row.seen:
            self.row.follower(self)
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
        if self.row.private:
            # In private memory the ledger keeps each bucket's own sum, so that buckets can be moved one by one.
            self.row.ledger[bucket] += value

    def time(self):
        """Return a context manager and decorator that observes the seconds a block or a call takes."""
        timer = HistogramTimer()
        timer.cell = self
        timer.seconds = -1.0
        return timer

    @cython.cfunc
    def _carry(self, source: Row, row: Row, slot: cython.Py_ssize_t):
        """Carry bucket by bucket, each with its own sum: a kill in between leaves a histogram of what was moved so far.

        What the sums of the buckets do not account for goes with the first one: all of it from a segment that is left
        (configure()), and what was put into the slots one by one, not observed.
        """
        i: cython.Py_ssize_t
        count: cython.double
        total: cython.double
        have: cython.double = 0.0
        whole: cython.double = 0.0
        known: cython.double = 0.0
        for i in range(self.buckets):
            have += row.view[slot + 1 + i]
            whole += source.view[self.slot + 1 + i]
            if source.private:
                known += source.ledger[self.slot + 1 + i]
        whole = source.view[self.slot + 1 + self.buckets + (cython.cast(cython.longlong, whole) & 1)]
        # Of infinities nothing is left over.
        whole = whole - known if known - known == 0.0 else 0.0
        for i in range(self.buckets):
            count = source.view[self.slot + 1 + i]
            source.view[self.slot + 1 + i] = 0.0
            if count == 0.0:
                continue
            total = whole
            whole = 0.0
            if source.private:
                total += source.ledger[self.slot + 1 + i]
                source.ledger[self.slot + 1 + i] = 0.0
            if cython.cast(cython.longlong, count) % 2 == 0:
                # One observation by itself: only an odd step changes which of the two sums is the sum.
                self._carry_bucket(row, slot, i, have, 1.0, total / count)
                have += 1.0
                total -= total / count
                count -= 1.0
            self._carry_bucket(row, slot, i, have, count, total)
            have += count
        for i in range(self.buckets + 3):
            source.view[self.slot + i] = 0.0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _carry_bucket(
        self,
        row: Row,
        slot: cython.Py_ssize_t,
        bucket: cython.Py_ssize_t,
        have: cython.double,
        count: cython.double,
        total: cython.double,
    ) -> cython.void:
        """Do as _observe(), for an odd number of observations at once. have: how many there are before."""
        sums: cython.Py_ssize_t = slot + 1 + self.buckets
        odd: cython.Py_ssize_t = cython.cast(cython.longlong, have) & 1
        row.view[slot] = have + 1.0
        if cython.compiled:
            shm_release()
        row.view[sums + 1 - odd] = row.view[sums + odd] + total
        if cython.compiled:
            shm_release()
        row.view[slot + 1 + bucket] += count
        if cython.compiled:
            shm_release()
        row.view[slot] = have + count

    def forget(self):
        """Forget all observations."""
        i: cython.Py_ssize_t
        for i in range(self.buckets + 3):
            self.row.view[self.slot + i] = 0.0
            if self.row.private:
                self.row.ledger[self.slot + i] = 0.0


@cython.no_gc  # it is in no cycle: nothing it refers to refers to it
@cython.freelist(8)
@cython.cclass
class HistogramTimer:
    """A timer made by HistogramCell.time(), for one block at a time."""

    cell: HistogramCell
    began: cython.double
    seconds: cython.double

    @property
    def duration(self):
        """The seconds that the block took; None until it ends."""
        return self.seconds if self.seconds >= 0.0 else None

    def labels(self, *labelvalues, **labelkwargs):
        """Raise InvalidMetricError: a series has its labels already; only the timer of a labelled metric takes them."""
        self.cell.labels(*labelvalues, **labelkwargs)

    def __enter__(self):
        self.began = _now() if cython.compiled else perf_counter()
        return self

    def __exit__(self, kind, error, trace):
        if cython.compiled:
            seconds: cython.double = _now() - self.began
            self.seconds = seconds if seconds > 0.0 else 0.0
            if self.cell.row.generation[0] != self.cell.row.seen:
                self.cell.row.follower(self.cell)
            with cython.critical_section(self.cell.row):
                self.cell._observe(self.seconds)
        else:
            self.seconds = max(0.0, perf_counter() - self.began)
            self.cell.observe(self.seconds)
        return False

    def __call__(self, function):
        from shm_metrics.metrics.context_managers import timed

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
