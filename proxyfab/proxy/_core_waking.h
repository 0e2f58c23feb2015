/* Resolving: one thread fetches, and the others wait for it with the interpreter's lock released.

   Rules:
   1. Nothing is held while the factory runs but the mark that this thread is at it.
   2. Whatever ends the fetch, an interrupt included, takes the mark away and wakes all who wait. A failure reaches each of
      them and is then forgotten; what stopped only the pilot reaches nobody, and one of them fetches.
   3. A mark that was set before a fork is of a thread that does not live here, and is not looked at.
   `flight.py` says the same of the pure version, in Python; the list that waiters share is made as there. */

static void
forget_flight(Proxy *self)
{
    self->pilot = 0;
    Py_CLEAR(self->flight);
}

/* Take the error that is set as what everybody who waits shall get: NULL when it concerns this thread alone. */
static PyObject *
outcome_of_error(State *state, int timed)
{
    PyObject *type, *error, *traceback, *outcome = NULL;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    if (PyErr_GivenExceptionMatches(error, PyExc_Exception) && !(timed && PyErr_GivenExceptionMatches(error, state->late))) {
        outcome = Py_NewRef(error);
    }
    PyErr_Restore(type, error, traceback);
    return outcome;
}

/* Tell those who wait. Keeps the error that may be set. */
static void
land(Proxy *self, State *state, PyObject *outcome)
{
    PyObject *flight = self->flight, *type, *error, *traceback;
    self->flight = NULL;
    self->pilot = 0;
    if (flight == NULL) {
        return;
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyList_SetItem(flight, 0, Py_NewRef(outcome == NULL ? Py_None : outcome));
    for (Py_ssize_t i = 2; i < PyList_GET_SIZE(flight); i++) {
        PyObject *done = PyObject_CallMethodNoArgs(PyList_GET_ITEM(flight, i), state->release);
        if (done == NULL) {
            PyErr_WriteUnraisable(flight);
        }
        Py_XDECREF(done);
    }
    Py_DECREF(flight);
    PyErr_Restore(type, error, traceback);
}

/* Errors that Python would take for an answer come out as ProxyfabError. */
static void
rename_misleading_error(Proxy *self, State *state)
{
    if (!PyErr_ExceptionMatches(PyExc_AttributeError) && !PyErr_ExceptionMatches(PyExc_IndexError) &&
        !PyErr_ExceptionMatches(PyExc_StopIteration) && !PyErr_ExceptionMatches(PyExc_StopAsyncIteration)) {
        return;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    PyObject *told = ask(state->misled, (PyObject *)self, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (told != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(told), told);
        Py_DECREF(told);
    }
}

/* Class of a resolved proxy of `target`, and whether it must be asked what its __array_struct__ leaves out. Borrowed. */
static PyObject *
entry_for(State *state, PyObject *target)
{
    PyObject *type = (PyObject *)Py_TYPE(target);
    PyObject *entry = look_up(state->types, type);
    if (entry != NULL || PyErr_Occurred()) {
        return entry;
    }
    entry = ask(state->arrived, type, NULL);
    if (entry == NULL) {
        return NULL;
    }
    if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 2 || !is_class(PyTuple_GET_ITEM(entry, 0))) {
        Py_DECREF(entry);
        return PyErr_Format(PyExc_TypeError, "arrived() must return a class of proxies and a bool");
    }
    if (PyDict_GET_SIZE(state->types) >= 1024) { /* classes that are made anew and anew must not gather here */
        PyDict_Clear(state->types);
    }
    int failed = PyDict_SetItem(state->types, type, entry);
    Py_DECREF(entry);
    return failed ? NULL : entry;
}

/* What an operator of these calls on what they hold is a comparison, a hash or a repr. Comparisons and reprs are counted by
   the interpreter, and these have no hash, or one that asks nobody. */
static int
is_plain(PyTypeObject *type)
{
    return type == &PyLong_Type || type == &PyFloat_Type || type == &PyUnicode_Type || type == &PyBytes_Type ||
           type == &PyList_Type || type == &PyDict_Type || type == &PySet_Type || type == &PyByteArray_Type;
}

/* NumPy's arrays hand out their items and look at no operator of them. */
static int
has_plain_items(PyTypeObject *type)
{
    return is_plain(type) || strcmp(type->tp_name, "numpy.ndarray") == 0;
}

static int
walks_iterators(PyTypeObject *type)
{
    return type == &PyMap_Type || type == &PyFilter_Type || type == &PyZip_Type || type == &PyEnum_Type ||
           strncmp(type->tp_name, "itertools.", 10) == 0;
}

/* Steals `target`. Returns what the proxy has from now on, as a new reference. */
static PyObject *
settle(Proxy *self, State *state, PyObject *target)
{
    PyObject *entry = entry_for(state, target);
    if (entry == NULL) {
        Py_DECREF(target);
        return NULL;
    }
    PyTypeObject *before, *after = (PyTypeObject *)PyTuple_GET_ITEM(entry, 0); /* its registry keeps it */
    int limited = 0;
    if (PyTuple_GET_ITEM(entry, 1) == Py_True) {
        PyObject *told = ask(state->told_too_little, target, NULL);
        if (told == NULL) {
            Py_DECREF(target);
            return NULL;
        }
        limited = told == Py_True;
        Py_DECREF(told);
    }
    if (self->target != NULL) { /* in a forked child, where nobody waits for the thread that forked */
        PyObject *first = Py_NewRef(self->target);
        Py_DECREF(target);
        return first;
    }
    before = Py_TYPE(self); /* now: the class may have changed while Python was asked */
    self->limited = (unsigned char)limited;
    self->plain = (unsigned char)is_plain(Py_TYPE(target));
    self->items = (unsigned char)has_plain_items(Py_TYPE(target));
    self->walks = (unsigned char)walks_iterators(Py_TYPE(target));
    self->target = Py_NewRef(target);
    if (before != after) {
        Py_INCREF(after);
        Py_SET_TYPE((PyObject *)self, after);
        Py_DECREF(before);
    }
    return target;
}

static PyObject *
call_factory(Proxy *self, State *state, PyObject *timeout)
{
    PyObject *factory = Py_NewRef(self->factory), *found;
    if (timeout != NULL) {
        found = ask(state->timed, factory, timeout);
    }
    else {
        found = PyObject_CallNoArgs(factory);
    }
    Py_DECREF(factory);
    if (found != NULL && is_proxy(found)) {
        PyObject *inner = target_of(found);
        Py_SETREF(found, inner);
    }
    return found;
}

/* A new reference. */
static PyObject *
fly(Proxy *self, State *state, PyObject *timeout)
{
    self->pilot = PyThread_get_thread_ident();
    self->forks = state->forks;
    PyObject *found = call_factory(self, state, timeout);
    if (found != NULL) {
        found = settle(self, state, found);
    }
    if (found != NULL) {
        land(self, state, NULL);
        return found;
    }
    rename_misleading_error(self, state);
    PyObject *outcome = outcome_of_error(state, timeout != NULL);
    land(self, state, outcome);
    Py_XDECREF(outcome);
    return NULL;
}

/* Wait for who is at it; where it is this thread itself, or waits for it, that is an error. Returns what is left of the
   timeout, as a new reference (None: none was given). */
static PyObject *
join_flight(Proxy *self, State *state, PyObject *timeout)
{
    PyObject *wait = timeout == NULL ? Py_None : timeout;
    if (self->flight == NULL) {
        unsigned long pilot = self->pilot;
        PyObject *made = Py_BuildValue("[kO]", pilot, Py_None); /* may collect garbage, so that others come, or the flight lands */
        if (made == NULL || self->pilot != pilot) {
            Py_XDECREF(made);
            return made == NULL ? NULL : Py_NewRef(wait);
        }
        if (self->flight == NULL) {
            self->flight = Py_NewRef(made);
        }
        Py_DECREF(made);
    }
    PyObject *flight = Py_NewRef(self->flight);
    PyObject *left = ask(state->join, flight, wait);
    Py_DECREF(flight);
    return left;
}

/* The target, fetched by this thread or by one that is at it. A new reference. `timeout`: NULL or seconds. */
static PyObject *
wake(Proxy *self, PyObject *timeout)
{
    PyObject *left = Py_XNewRef(timeout), *found = NULL;
    State *state = state_of((PyObject *)self);
    if (Py_EnterRecursiveCall(" while resolving a proxy")) { /* of a proxy of a proxy of ... */
        Py_XDECREF(left);
        return NULL;
    }
    Py_INCREF(self);
    for (;;) {
        if (self->target != NULL) {
            found = Py_NewRef(self->target);
            break;
        }
        if (self->factory == NULL) {
            PyErr_SetString(PyExc_ReferenceError, "This proxy was cleared by the garbage collector.");
            break;
        }
        if (self->pilot != 0 && self->forks != state->forks) {
            forget_flight(self);
        }
        if (self->pilot == 0) {
            found = fly(self, state, left);
            break;
        }
        PyObject *now = join_flight(self, state, left);
        if (now == NULL) {
            break;
        }
        Py_XDECREF(left);
        left = now == Py_None ? NULL : Py_NewRef(now);
        Py_DECREF(now);
    }
    Py_LeaveRecursiveCall();
    Py_XDECREF(left);
    Py_DECREF(self);
    return found;
}
