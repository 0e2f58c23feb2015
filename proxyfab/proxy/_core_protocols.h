/* Containers, iterators, calls, buffers, descriptors, context managers and what is asynchronous. */

static Py_ssize_t
proxy_length(PyObject *self)
{
    FORWARD_COUNTED(!((Proxy *)self)->items, Py_ssize_t, -1, PyObject_Size(target))
}

static PyObject *
proxy_getitem(PyObject *self, PyObject *key)
{
    FORWARD_COUNTED(!((Proxy *)self)->items, PyObject *, NULL, PyObject_GetItem(target, key))
}

static int
proxy_setitem(PyObject *self, PyObject *key, PyObject *value)
{
    FORWARD(int, -1, value == NULL ? PyObject_DelItem(target, key) : PyObject_SetItem(target, key, value))
}

static PyObject *
item_of(PyObject *target, Py_ssize_t i)
{
    if (SEQUENCE_SLOT(target, sq_item)) {
        return Py_TYPE(target)->tp_as_sequence->sq_item(target, i);
    }
    PyObject *key = PyLong_FromSsize_t(i), *found = key == NULL ? NULL : PyObject_GetItem(target, key);
    Py_XDECREF(key);
    return found;
}

/* C code that walks over a sequence comes here; a negative index has been made positive already. */
static PyObject *
proxy_item(PyObject *self, Py_ssize_t i)
{
    FORWARD(PyObject *, NULL, item_of(target, i))
}

static int
proxy_ass_item(PyObject *self, Py_ssize_t i, PyObject *value)
{
    PyObject *key = PyLong_FromSsize_t(i);
    int failed = key == NULL ? -1 : proxy_setitem(self, key, value);
    Py_XDECREF(key);
    return failed;
}

static int
proxy_contains(PyObject *self, PyObject *item)
{
    FORWARD(int, -1, PySequence_Contains(target, item))
}

/* What walks over other iterators may find this proxy among them, and itself behind it: then only the proxy counts how deep
   this goes. */
static PyObject *
proxy_iter(PyObject *self)
{
    int counted;
    PyObject *target = enter(self, &counted), *found = target == NULL ? NULL : PyObject_GetIter(target);
    if (target == NULL) {
        return NULL;
    }
    if (found == target && ((Proxy *)self)->walks) {
        Py_SETREF(found, Py_NewRef(self));
    }
    leave(target, counted);
    return found;
}

static PyObject *
next_of(PyObject *target)
{
    if (!PyIter_Check(target)) {
        return PyErr_Format(PyExc_TypeError, "'%.200s' object is not an iterator", Py_TYPE(target)->tp_name);
    }
    return Py_TYPE(target)->tp_iternext(target);
}

static PyObject *
proxy_iternext(PyObject *self)
{
    FORWARD(PyObject *, NULL, next_of(target))
}

static PyObject *
proxy_reversed(PyObject *self, PyObject *Py_UNUSED(none))
{
    FORWARD(PyObject *, NULL, PyObject_CallOneArg((PyObject *)&PyReversed_Type, target))
}

static PyObject *
number_or_error(Py_ssize_t n)
{
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *
bool_or_error(int truth)
{
    return truth < 0 ? NULL : PyBool_FromLong(truth);
}

static PyObject *
proxy_length_hint(PyObject *self, PyObject *Py_UNUSED(none))
{
    FORWARD(PyObject *, NULL, number_or_error(PyObject_LengthHint(target, 0)))
}

static PyObject *
proxy_vectorcall(PyObject *self, PyObject *const *args, size_t count, PyObject *names)
{
    FORWARD_COUNTED(Py_TYPE(target)->tp_flags & Py_TPFLAGS_HAVE_VECTORCALL && !PyFunction_Check(target), PyObject *, NULL,
                    PyObject_Vectorcall(target, args, count, names))
}

/* The view names the target as its owner, which then also releases it. */
static int
proxy_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    view->obj = NULL;
    FORWARD(int, -1, PyObject_GetBuffer(target, view, flags))
}

/* What Python says of an object that it finds without a method that it needs. */
static PyObject *
lacks(PyObject *target, const char *name)
{
    return PyErr_Format(PyExc_TypeError, "'%.200s' object has no method %s", Py_TYPE(target)->tp_name, name);
}

#define ASYNC_SLOT(x, slot) (Py_TYPE(x)->tp_as_async != NULL && Py_TYPE(x)->tp_as_async->slot != NULL)
#define ASYNC(name, slot)                                                                                                \
    static PyObject *proxy_##name(PyObject *self)                                                                        \
    {                                                                                                                    \
        FORWARD(PyObject *, NULL,                                                                                        \
                ASYNC_SLOT(target, slot) ? Py_TYPE(target)->tp_as_async->slot(target) : lacks(target, "__" #name "__"))  \
    }

ASYNC(await, am_await)
ASYNC(anext, am_anext)
UNARY(aiter, PyObject_GetAIter)

static PyObject *
proxy_descr_get(PyObject *self, PyObject *owner, PyObject *type)
{
    FORWARD(PyObject *, NULL,
            Py_TYPE(target)->tp_descr_get == NULL ? lacks(target, "__get__")
                                                  : Py_TYPE(target)->tp_descr_get(target, owner, type))
}

static int
set_by(PyObject *target, PyObject *owner, PyObject *value)
{
    descrsetfunc set = Py_TYPE(target)->tp_descr_set;
    if (set == NULL) {
        lacks(target, value == NULL ? "__delete__" : "__set__");
        return -1;
    }
    return set(target, owner, value);
}

static int
proxy_descr_set(PyObject *self, PyObject *owner, PyObject *value)
{
    FORWARD(int, -1, set_by(target, owner, value))
}

/* A method as the interpreter looks it up: on the type. */
static PyObject *
call_special(PyObject *target, const char *name, PyObject *const *args, Py_ssize_t count)
{
    PyObject *text = PyUnicode_InternFromString(name), *found, *result;
    if (text == NULL) {
        return NULL;
    }
    found = Py_XNewRef(_PyType_Lookup(Py_TYPE(target), text));
    Py_DECREF(text);
    if (found == NULL) {
        return lacks(target, name);
    }
    if (Py_TYPE(found)->tp_flags & Py_TPFLAGS_METHOD_DESCRIPTOR && count < 4) {
        PyObject *all[5] = {target, NULL, NULL, NULL, NULL};
        for (Py_ssize_t i = 0; i < count; i++) {
            all[i + 1] = args[i];
        }
        result = PyObject_Vectorcall(found, all, (size_t)count + 1, NULL);
    }
    else {
        descrgetfunc get = Py_TYPE(found)->tp_descr_get;
        PyObject *bound = get == NULL ? Py_NewRef(found) : get(found, target, (PyObject *)Py_TYPE(target));
        result = bound == NULL ? NULL : PyObject_Vectorcall(bound, args, (size_t)count, NULL);
        Py_XDECREF(bound);
    }
    Py_DECREF(found);
    return result;
}

#define SPECIAL(name)                                                                                                    \
    static PyObject *proxy_##name(PyObject *self, PyObject *const *args, Py_ssize_t count)                               \
    {                                                                                                                    \
        FORWARD(PyObject *, NULL, call_special(target, "__" #name "__", args, count))                                    \
    }

SPECIAL(enter)
SPECIAL(exit)
SPECIAL(aenter)
SPECIAL(aexit)

static PyObject *
call_of_module(const char *module_name, const char *name, PyObject *target, PyObject *const *args, Py_ssize_t count)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name), *result = NULL;
    if (function != NULL) {
        PyObject *all[2] = {target, count ? args[0] : NULL};
        result = PyObject_Vectorcall(function, all, count ? 2 : 1, NULL);
    }
    Py_XDECREF(function);
    Py_XDECREF(module);
    return result;
}

#define OF_MODULE(name, module)                                                                                          \
    static PyObject *proxy_##name(PyObject *self, PyObject *const *args, Py_ssize_t count)                               \
    {                                                                                                                    \
        FORWARD(PyObject *, NULL, call_of_module(module, #name, target, args, count))                                    \
    }

OF_MODULE(round, "builtins")
OF_MODULE(trunc, "math")
OF_MODULE(floor, "math")
OF_MODULE(ceil, "math")

static PyObject *
proxy_bytes(PyObject *self, PyObject *Py_UNUSED(none))
{
    FORWARD(PyObject *, NULL, PyObject_CallOneArg((PyObject *)&PyBytes_Type, target))
}

static PyObject *
proxy_fspath(PyObject *self, PyObject *Py_UNUSED(none))
{
    FORWARD(PyObject *, NULL, PyOS_FSPath(target))
}

static PyObject *
proxy_instancecheck(PyObject *self, PyObject *object)
{
    FORWARD(PyObject *, NULL, bool_or_error(PyObject_IsInstance(object, target)))
}

static PyObject *
proxy_subclasscheck(PyObject *self, PyObject *cls)
{
    FORWARD(PyObject *, NULL, bool_or_error(PyObject_IsSubclass(cls, target)))
}
