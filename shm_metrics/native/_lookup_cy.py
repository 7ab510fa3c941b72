# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: cdivision=True, freethreading_compatible=True
"""Find a cell: children by label values, series by name and labels. One of two modules that are compiled.

Lives here: finding what this process has met before, without a lock, a tuple or a dict of the arguments. May not: make
anything (what is not found is asked of the subclass), or know cells.
Cython's pure-Python mode, as _cells_cy.py.
"""

try:
    import cython
except ImportError:  # interpreted, on a machine without Cython
    from shm_metrics.native import _no_cython as cython

if cython.compiled:
    from cython.cimports.cpython.ref import Py_DECREF
    from cython.cimports.shm_metrics.native._method import PyObject, shm_find, shm_new_method

COMPILED: bool = cython.compiled

_LABELS_DOC = b"""labels($self, /, *labelvalues, **labelkwargs)
--

Return the series with these label values, by position or by name; made at first use.

Raise InvalidMetricError when they are not exactly the declared labels."""
_COUNTER_DOC = b"""counter(name, documentation='', unit='', **labels):
Return the counter series with these labels, made at first use.

Raise InvalidMetricError, or MetricConflictError when the name is declared otherwise in this process."""
_GAUGE_DOC = b"""gauge(name, documentation='', unit='', multiprocess_mode='shared', **labels):
Return the gauge series with these labels, made at first use.

Raise InvalidMetricError, or MetricConflictError when the name is declared otherwise in this process."""
_HISTOGRAM_DOC = b"""histogram(name, documentation='', unit='', buckets=None, **labels):
Return the histogram series with these labels, made at first use.

Raise InvalidMetricError, or MetricConflictError when the name is declared otherwise in this process."""
_SUMMARY_DOC = b"""summary(name, documentation='', unit='', **labels):
Return the summary series (count and sum) with these labels, made at first use.

Raise InvalidMetricError, or MetricConflictError when the name is declared otherwise in this process."""


@cython.cclass
class Children:
    """The children of a labelled family in this process, found by their label values without a lock.

    children: label values, all exactly `str`, in the order of labelnames -> child.
    A subclass has make_child(labelvalues, labelkwargs), for whatever is not found, and `labels = labels_method`.
    """

    children: dict
    labelnames: tuple
    by_names: dict
    if not cython.compiled:
        children = {}
        labelnames = ()

    def __cinit__(self, *args, **kwargs):
        self.children = {}
        self.labelnames = ()
        self.by_names = {}

    def name_labels(self, labelnames):
        """Set the label names, once, and begin with no children."""
        self.children = {}
        self.by_names = {}
        self.labelnames = tuple(labelnames)

    def known_children(self):
        """label values -> child, the mapping itself."""
        return self.children


@cython.cclass
class Getters:
    """The get-or-create calls of a backend: what was asked for in the same words before is found without a lock.

    caches: a dict a kind, (name, keyword names, *keyword values) -> series, all exactly `str`.
    A subclass has make_series(kind, names, keywords), for whatever is not found, which fills the cache.
    """

    counters: dict
    gauges: dict
    histograms: dict
    summaries: dict

    def __cinit__(self, *args, **kwargs):
        self.forget_series()

    def forget_series(self):
        """Begin with empty caches."""
        self.counters, self.gauges, self.histograms, self.summaries = {}, {}, {}, {}

    def series_cache(self, kind):
        """The cache of one kind, the mapping itself."""
        if kind == "counter":
            return self.counters
        if kind == "gauge":
            return self.gauges
        return self.histograms if kind == "histogram" else self.summaries


def cache_key(name, keywords):
    """The key under which a getter finds the series again, or None when it cannot be cached."""
    if type(name) is not str:
        return None
    for value in keywords.values():
        if type(value) is not str:
            return None
    if keywords:
        return (name, tuple(keywords), *keywords.values())
    return (name,)


if cython.compiled:

    @cython.cfunc
    def _keywords(
        args: cython.pointer(cython.pointer(PyObject)), count: cython.Py_ssize_t, names: cython.pointer(PyObject)
    ) -> dict:
        found: dict = {}
        if names is not cython.NULL:
            for i, name in enumerate(cython.cast(tuple, cython.cast(object, names))):
                found[name] = cython.cast(object, args[count + i])
        return found

    @cython.cfunc
    def _positional(args: cython.pointer(cython.pointer(PyObject)), count: cython.Py_ssize_t) -> tuple:
        i: cython.Py_ssize_t
        return tuple([cython.cast(object, args[i]) for i in range(count)])

    @cython.cfunc
    def _labels(
        self: object,
        args: cython.pointer(cython.pointer(PyObject)),
        count: cython.Py_ssize_t,
        names: cython.pointer(PyObject),
    ):
        family: Children = cython.cast(Children, self)
        found: cython.pointer(PyObject)
        if names is cython.NULL:
            found = shm_find(family.children, cython.NULL, cython.NULL, args, count)
        elif count == 0:
            # By name: found under (names as written in this call, values); the names are a constant of the caller's.
            found = shm_find(
                family.by_names, names, cython.NULL, args, len(cython.cast(tuple, cython.cast(object, names)))
            )
        else:
            found = cython.NULL
        if found is not cython.NULL:
            child = cython.cast(object, found)
            Py_DECREF(child)  # shm_find gave a reference of its own
            return child
        keywords = _keywords(args, count, names)
        child = self.make_child(_positional(args, count), keywords)
        if keywords and count == 0:
            for value in keywords.values():
                if type(value) is not str:
                    return child
            if family.children.get(tuple([keywords[name] for name in family.labelnames])) is child:
                family.by_names[(tuple(keywords), *keywords.values())] = child
        return child

    @cython.cfunc
    def _get(
        self: object,
        kind: object,
        cache: dict,
        args: cython.pointer(cython.pointer(PyObject)),
        count: cython.Py_ssize_t,
        names: cython.pointer(PyObject),
    ):
        found: cython.pointer(PyObject)
        n: cython.Py_ssize_t = 0
        if count == 1:
            if names is not cython.NULL:
                n = len(cython.cast(tuple, cython.cast(object, names)))
            if type(cython.cast(object, args[0])) is str:
                found = shm_find(cache, args[0], names, cython.address(args[1]), n)
                if found is not cython.NULL:
                    series = cython.cast(object, found)
                    Py_DECREF(series)
                    return series
        return self.make_series(kind, _positional(args, count), _keywords(args, count, names))

    @cython.cfunc
    def _counter(
        self: object,
        args: cython.pointer(cython.pointer(PyObject)),
        count: cython.Py_ssize_t,
        names: cython.pointer(PyObject),
    ):
        return _get(self, "counter", cython.cast(Getters, self).counters, args, count, names)

    @cython.cfunc
    def _gauge(
        self: object,
        args: cython.pointer(cython.pointer(PyObject)),
        count: cython.Py_ssize_t,
        names: cython.pointer(PyObject),
    ):
        return _get(self, "gauge", cython.cast(Getters, self).gauges, args, count, names)

    @cython.cfunc
    def _histogram(
        self: object,
        args: cython.pointer(cython.pointer(PyObject)),
        count: cython.Py_ssize_t,
        names: cython.pointer(PyObject),
    ):
        return _get(self, "histogram", cython.cast(Getters, self).histograms, args, count, names)

    @cython.cfunc
    def _summary(
        self: object,
        args: cython.pointer(cython.pointer(PyObject)),
        count: cython.Py_ssize_t,
        names: cython.pointer(PyObject),
    ):
        return _get(self, "summary", cython.cast(Getters, self).summaries, args, count, names)

    labels_method = shm_new_method(Children, b"labels", _LABELS_DOC, _labels)
    counter_method = shm_new_method(Getters, b"counter", _COUNTER_DOC, _counter)
    gauge_method = shm_new_method(Getters, b"gauge", _GAUGE_DOC, _gauge)
    histogram_method = shm_new_method(Getters, b"histogram", _HISTOGRAM_DOC, _histogram)
    summary_method = shm_new_method(Getters, b"summary", _SUMMARY_DOC, _summary)
else:

    def labels_method(self, *labelvalues, **labelkwargs):
        if labelkwargs:
            names = self.labelnames
            if labelvalues or len(labelkwargs) != len(names):
                return self.make_child(labelvalues, labelkwargs)
            key = tuple([labelkwargs.get(name) for name in names])
        else:
            key = labelvalues
        for value in key:
            if type(value) is not str:
                return self.make_child(labelvalues, labelkwargs)
        child = self.children.get(key)
        return self.make_child(labelvalues, labelkwargs) if child is None else child

    def _getter(kind, doc):
        def get(self, *name, **keywords):
            if len(name) == 1:
                key = cache_key(name[0], keywords)
                if key is not None:
                    found = self.series_cache(kind).get(key)
                    if found is not None:
                        return found
            return self.make_series(kind, name, keywords)

        get.__name__ = kind
        get.__doc__ = doc.decode()
        return get

    labels_method.__name__ = labels_method.__qualname__ = "labels"
    labels_method.__doc__ = _LABELS_DOC.decode().partition("--\n\n")[2]
    counter_method = _getter("counter", _COUNTER_DOC)
    gauge_method = _getter("gauge", _GAUGE_DOC)
    histogram_method = _getter("histogram", _HISTOGRAM_DOC)
    summary_method = _getter("summary", _SUMMARY_DOC)
