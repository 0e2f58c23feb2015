/* NumPy's protocols: calls that list proxies among their arguments are made again with the targets.

   `arrays.py` says the same in Python. */

static PyObject *bare(PyObject *value);

static PyObject *
bare_tuple(PyObject *values)
{
    Py_ssize_t n = PyTuple_GET_SIZE(values), changed = 0;
    PyObject *made = PyTuple_New(n);
    for (Py_ssize_t i = 0; made != NULL && i < n; i++) {
        PyObject *item = bare(PyTuple_GET_ITEM(values, i));
        if (item == NULL) {
            Py_CLEAR(made);
            break;
        }
        changed |= item != PyTuple_GET_ITEM(values, i);
        PyTuple_SET_ITEM(made, i, item);
    }
    if (made != NULL && !changed) {
        Py_SETREF(made, Py_NewRef(values));
    }
    return made;
}

static PyObject *
bare_list(PyObject *values)
{
    PyObject *copy = PyList_AsTuple(values), *made = copy == NULL ? NULL : bare_tuple(copy);
    if (made != NULL) {
        PyObject *found = made == copy ? Py_NewRef(values) : PySequence_List(made);
        Py_SETREF(made, found);
    }
    Py_XDECREF(copy);
    return made;
}

static PyObject *
bare_dict(PyObject *values)
{
    PyObject *made = PyDict_Copy(values), *name, *value;
    Py_ssize_t at = 0;
    while (made != NULL && PyDict_Next(made, &at, &name, &value)) { /* values of existing keys may be replaced meanwhile */
        PyObject *item = bare(value);
        if (item == NULL || PyDict_SetItem(made, name, item) < 0) {
            Py_CLEAR(made);
        }
        Py_XDECREF(item);
    }
    return made;
}

/* `value` with every proxy replaced by its target, also inside plain tuples, lists and dicts. A new reference. */
static PyObject *
bare(PyObject *value)
{
    PyObject *found;
    if (is_proxy(value)) {
        return target_of(value);
    }
    if (!PyTuple_CheckExact(value) && !PyList_CheckExact(value) && !PyDict_CheckExact(value)) {
        return Py_NewRef(value);
    }
    if (Py_EnterRecursiveCall(" while looking for proxies")) {
        return NULL;
    }
    found = PyTuple_CheckExact(value) ? bare_tuple(value) : PyList_CheckExact(value) ? bare_list(value) : bare_dict(value);
    Py_LeaveRecursiveCall();
    return found;
}

/* __array_ufunc__(ufunc, method, *inputs, **options): NEP 13. */
static PyObject *
proxy_array_ufunc(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (count < 2) {
        return PyErr_Format(PyExc_TypeError, "__array_ufunc__ takes a ufunc and a method");
    }
    int is_call = PyUnicode_Check(args[1]) && PyUnicode_CompareWithASCIIString(args[1], "__call__") == 0;
    PyObject *ufunc = is_call ? Py_NewRef(args[0]) : PyObject_GetAttr(args[0], args[1]);
    Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names)) - 2;
    PyObject *few[8], **found = all <= 8 ? few : PyMem_New(PyObject *, (size_t)all), *result = NULL;
    Py_ssize_t made = 0;
    if (ufunc != NULL && found != NULL) {
        while (made < all && (found[made] = bare(args[made + 2])) != NULL) {
            made++;
        }
        if (made == all) {
            result = PyObject_Vectorcall(ufunc, found, (size_t)(count - 2), names);
        }
    }
    else if (found == NULL) {
        PyErr_NoMemory();
    }
    while (made > 0) {
        Py_DECREF(found[--made]);
    }
    if (found != few) {
        PyMem_Free(found);
    }
    Py_XDECREF(ufunc);
    return result;
}

/* __array_function__(function, types, args, kwargs): NEP 18. */
static PyObject *
proxy_array_function(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *function, *types, *given, *options;
    if (!PyArg_ParseTuple(args, "OOO!O!", &function, &types, &PyTuple_Type, &given, &PyDict_Type, &options)) {
        return NULL;
    }
    PyObject *items = bare_tuple(given), *named = items == NULL ? NULL : bare_dict(options), *result = NULL;
    if (named != NULL) {
        result = PyObject_Call(function, items, named);
    }
    Py_XDECREF(items);
    Py_XDECREF(named);
    return result;
}
