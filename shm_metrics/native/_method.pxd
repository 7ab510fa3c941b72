# What _lookup_cy.py needs from C: CPython's vectorcall convention (PEP 590) for methods with keywords, which Cython does
# not offer.
cdef extern from *:
    """
    typedef PyObject *(*shm_method)(PyObject *self, PyObject **args, Py_ssize_t count, PyObject *names);

    /* A method of `type` that is called with its arguments in a C array: no tuple, no dict. Its definition is never
       freed: CPython keeps a pointer to it for as long as the type lives. */
    static PyObject *shm_new_method(PyObject *type, const char *name, const char *doc, shm_method run) {
        PyMethodDef *def = (PyMethodDef *)calloc(1, sizeof *def);
        if (def == NULL) return PyErr_NoMemory();
        def->ml_name = strdup(name);
        def->ml_meth = (PyCFunction)(void (*)(void))run;
        def->ml_flags = METH_FASTCALL | METH_KEYWORDS;
        def->ml_doc = strdup(doc);
        return PyDescr_NewMethod((PyTypeObject *)type, def);
    }

    /* (first, *names, *args) as far as given, when every arg is exactly a str; NULL, without an error, otherwise. */
    static PyObject *shm_key(PyObject *first, PyObject *names, PyObject **args, Py_ssize_t count) {
        Py_ssize_t i, at = 0, before = (first != NULL) + (names != NULL);
        for (i = 0; i < count; i++)
            if (!PyUnicode_CheckExact(args[i])) return NULL;
        PyObject *key = PyTuple_New(before + count);
        if (key == NULL) { PyErr_Clear(); return NULL; }
        if (first != NULL) { Py_INCREF(first); PyTuple_SET_ITEM(key, at++, first); }
        if (names != NULL) { Py_INCREF(names); PyTuple_SET_ITEM(key, at++, names); }
        for (i = 0; i < count; i++) { Py_INCREF(args[i]); PyTuple_SET_ITEM(key, at + i, args[i]); }
        return key;
    }

    /* What `cache` has under the key above, as a new reference; NULL, without an error, when there is none. */
    static PyObject *shm_find(PyObject *cache, PyObject *first, PyObject *names, PyObject **args, Py_ssize_t count) {
        PyObject *found, *key = shm_key(first, names, args, count);
        if (key == NULL) return NULL;
        found = PyDict_GetItemWithError(cache, key);
        if (found == NULL) PyErr_Clear();
        Py_XINCREF(found);
        Py_DECREF(key);
        return found;
    }
    """
    ctypedef struct PyObject:
        pass
    ctypedef object (*shm_method)(object self, PyObject **args, Py_ssize_t count, PyObject *names)

    object shm_new_method(object type, const char *name, const char *doc, shm_method run)
    PyObject *shm_find(object cache, PyObject *first, PyObject *names, PyObject **args, Py_ssize_t count)
