/* Attributes, text and comparison: what every object has. */

static int
is_special(PyObject *name)
{
    if (!PyUnicode_Check(name) || PyUnicode_GET_LENGTH(name) < 4) {
        return 0;
    }
    Py_ssize_t n = PyUnicode_GET_LENGTH(name);
    return PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_' &&
           PyUnicode_READ_CHAR(name, n - 1) == '_' && PyUnicode_READ_CHAR(name, n - 2) == '_';
}

static int
is_struct(PyObject *name)
{
    return is_named(name, "__array_struct__") || is_named(name, "__array_interface__");
}

/* What the proxy answers itself under that name, when its target has no such name. NULL without an error: nothing. */
static PyObject *
own_attribute(PyObject *self, PyObject *name)
{
    PyObject *own = look_up(state_of(self)->own, (PyObject *)Py_TYPE(self));
    PyObject *function = look_up(own, name);
    if (function == NULL) {
        return NULL;
    }
    return is_named(name, "__signature__") ? PyObject_CallOneArg(function, self) : PyMethod_New(function, self);
}

/* The target has no such name: an AttributeError is set, which stays when the proxy has no answer either. */
static PyObject *
missing_attribute(PyObject *self, PyObject *name)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *found = own_attribute(self, name);
    if (found == NULL && !PyErr_Occurred()) {
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return found;
}

static PyObject *
unresolved_attribute(PyObject *self, PyObject *name)
{
    if (is_special(name)) {
        return ask(state_of(self)->probed, self, name);
    }
    PyObject *target = target_of(self);
    if (target == NULL) {
        return NULL;
    }
    Py_DECREF(target);
    return PyObject_GetAttr(self, name); /* of the class that it has now */
}

static PyObject *
proxy_getattro(PyObject *self, PyObject *name)
{
    PyObject *target = ((Proxy *)self)->target;
    if (target == NULL) {
        return unresolved_attribute(self, name);
    }
    if (((Proxy *)self)->limited && is_struct(name)) {
        PyErr_SetObject(PyExc_AttributeError, name);
        return NULL;
    }
    int counted = Py_TYPE(target)->tp_getattro != PyObject_GenericGetAttr || ((Proxy *)self)->within;
    Py_INCREF(target);
    if (counted && deeper(target) == NULL) {
        return NULL;
    }
    ((Proxy *)self)->within++;
    PyObject *found = PyObject_GetAttr(target, name);
    ((Proxy *)self)->within--;
    leave(target, counted);
    if (found == NULL && is_special(name) && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return missing_attribute(self, name);
    }
    return found;
}

/* Torch asks the instance too, where the tensor's own answer would refuse to deal with a proxy. And what passes for a
   tensor by isinstance it takes for the memory of one: torch.tensor(p) would crash. */
static PyObject *
torch_getattro(PyObject *self, PyObject *name)
{
    if (is_named(name, "__torch_function__")) {
        return PyObject_GetAttr((PyObject *)Py_TYPE(self), name);
    }
    if (is_named(name, "__class__")) {
        return Py_NewRef((PyObject *)Py_TYPE(self));
    }
    return proxy_getattro(self, name);
}

static int
set_attribute(Proxy *self, PyObject *target, PyObject *name, PyObject *value)
{
    self->within++;
    int failed = PyObject_SetAttr(target, name, value);
    self->within--;
    return failed;
}

static int
proxy_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    if (((Proxy *)self)->target == NULL && is_named(name, "__orig_class__")) {
        /* typing sets it on what Proxy[int](factory) returns, and takes this for a no */
        PyErr_SetObject(PyExc_AttributeError, name);
        return -1;
    }
    FORWARD_COUNTED(Py_TYPE(target)->tp_setattro != PyObject_GenericSetAttr || ((Proxy *)self)->within, int, -1,
                    set_attribute((Proxy *)self, target, name, value))
}

static PyObject *
proxy_richcompare(PyObject *self, PyObject *other, int op)
{
    FORWARD(PyObject *, NULL, PyObject_RichCompare(target, other, op))
}

static Py_hash_t
proxy_hash(PyObject *self)
{
    FORWARD(Py_hash_t, -1, PyObject_Hash(target))
}

static PyObject *
proxy_str(PyObject *self)
{
    FORWARD(PyObject *, NULL, PyObject_Str(target))
}

static PyObject *
proxy_repr(PyObject *self)
{
    if (((Proxy *)self)->target == NULL) {
        return ask(state_of(self)->text, self, NULL);
    }
    FORWARD(PyObject *, NULL, PyObject_Repr(target))
}

static PyObject *
proxy_format(PyObject *self, PyObject *spec)
{
    FORWARD(PyObject *, NULL, PyObject_Format(target, spec))
}

static PyObject *
proxy_dir(PyObject *self, PyObject *Py_UNUSED(none))
{
    if (((Proxy *)self)->target == NULL) {
        return ask(state_of(self)->names, self, NULL);
    }
    FORWARD(PyObject *, NULL, PyObject_Dir(target))
}

static PyObject *
proxy_sizeof(PyObject *self, PyObject *Py_UNUSED(none))
{
    if (((Proxy *)self)->target == NULL) {
        return PyLong_FromSsize_t(Py_TYPE(self)->tp_basicsize); /* of the proxy, while there is nothing else */
    }
    PyObject *getsizeof = PySys_GetObject("getsizeof"); /* borrowed */
    if (getsizeof == NULL) {
        return PyErr_Format(PyExc_RuntimeError, "sys.getsizeof is gone");
    }
    FORWARD(PyObject *, NULL, PyObject_CallOneArg(getsizeof, target))
}
