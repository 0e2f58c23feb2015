/* What all parts of the C core share: the layout of a proxy, what the module remembers, and how a slot finds the target.

   Rules:
   1. `target` is NULL until the fetch has landed. It may be taken back (`unsettle`), also by what a slot calls, so each
      slot holds the target while it works on it.
   2. `factory` is set from the beginning; only the garbage collector takes it away, from what nobody can reach any more.
   3. One class stands for each kind. A proxy changes its class when what came is of another kind than was announced.
   4. Everything below runs under the interpreter's lock, which is let go of only in calls into Python. A free-threaded
      interpreter would take its lock back if it imported this module, so `core.py` does not import it there.
   5. No static holds an object: what a module remembers is its own, so each sub-interpreter has a core of its own.
   6. Each slot counts its depth while it is in its target: some targets (MappingProxyType, weakref.proxy, a tuple that is
      hashed) hold a proxy of themselves, and then nothing but C would be on the way round. Counting takes 3 ns, as much as an
      operator costs at all, so it is left out where the way cannot lead back, or is counted by the interpreter: every call
      of a function is. An ordinary attribute seldom leads back (a property that is an operator.attrgetter can), so there
      the proxy only notes that it is within, and counts when it is entered once more. */

#ifndef PROXYFAB_CORE_H
#define PROXYFAB_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#if PY_VERSION_HEX < 0x030D0000
#define PyObject_GetOptionalAttr _PyObject_LookupAttr /* its name before it became public: no exception is made */
#endif

#define REVISION 5 /* of what connect() and the Python around it expect; core.py has the same number */

typedef struct {
    PyObject_HEAD
    PyObject *target;
    PyObject *factory;
    PyObject *weakrefs;
    vectorcallfunc call;
    PyObject *flight;      /* a list, as in flight.py; made by the first who waits */
    unsigned long pilot;   /* the thread that is fetching; 0: nobody is */
    unsigned int forks;    /* how often this process had been forked when the pilot took off */
    unsigned char limited; /* the target's __array_struct__ does not tell its type: see layout.says_too_little */
    unsigned char plain;   /* no operator of the target's type can come back to this proxy without being counted */
    unsigned char items;   /* nor can its length and its items */
    unsigned char walks;   /* the target is an iterator of C that walks over other iterators */
    unsigned char within;  /* how many of its slots are looking an attribute up, modulo 256 */
} Proxy;

typedef struct {
    PyObject *classes; /* Kind -> class */
    PyObject *types;   /* type of a target -> (class, has __array_struct__), bounded */
    PyObject *kinds;   /* class -> Kind */
    PyObject *own;     /* class -> names that a proxy answers where its target has no such name */
    PyObject *texts;   /* class -> its kind as pickles have it; `classes` knows these, too */
    PyObject *unknown; /* the class of a proxy of anything */
    PyObject *last_kind, *last_class;
    unsigned int forks;
    /* Functions of Python, by `connect`. */
    PyObject *build, *arrived, *probed, *text, *names, *misled, *timed, *join, *told_too_little, *rebuild;
    PyObject *late; /* ResolveTimeout */
    /* Names. */
    PyObject *reduce_proxy, *release;
} State;

/* In the order of State; connect() takes these as keyword arguments. */
#define CONNECTED(X)                                                                                                     \
    X(build) X(arrived) X(probed) X(text) X(names) X(misled) X(timed) X(join) X(told_too_little) X(rebuild) X(late)
#define REMEMBERED(X)                                                                                                    \
    X(classes) X(types) X(kinds) X(own) X(texts) X(unknown) X(last_kind) X(last_class) X(reduce_proxy) X(release)

static void proxy_dealloc(PyObject *self);

/* No class may be derived from those that this module makes, so its destructor tells a proxy from everything else. */
static inline int
is_proxy(PyObject *x)
{
    return Py_TYPE(x)->tp_dealloc == proxy_dealloc;
}

static inline int
is_class(PyObject *x)
{
    return PyType_Check(x) && ((PyTypeObject *)x)->tp_dealloc == proxy_dealloc;
}

/* `x`, whose reference is taken over, if it is a class of proxies. */
static inline PyObject *
only_class(PyObject *x)
{
    if (x != NULL && !is_class(x)) {
        PyErr_Format(PyExc_TypeError, "A class of proxies is needed, not a %.200s", Py_TYPE(x)->tp_name);
        Py_CLEAR(x);
    }
    return x;
}

/* Never NULL: a class that the garbage collector has cleared, at the end of an interpreter, remembers nothing. */
static inline State *
state_of(PyObject *proxy)
{
    static State gone;
    State *state = (State *)PyType_GetModuleState(Py_TYPE(proxy));
    if (state == NULL) {
        PyErr_Clear();
        return &gone;
    }
    return state;
}

static inline int
is_named(PyObject *name, const char *text)
{
    return PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, text) == 0;
}

/* Call a function of Python that connect() brought; there is none any more when the interpreter is taken down. */
static PyObject *
ask(PyObject *function, PyObject *first, PyObject *second)
{
    PyObject *args[2] = {first, second};
    if (function == NULL) {
        return PyErr_Format(PyExc_RuntimeError, "Python is shutting down: proxies cannot be made or resolved any more.");
    }
    return PyObject_Vectorcall(function, args, (size_t)((first != NULL) + (second != NULL)), NULL);
}

/* Borrowed; NULL without an error when it is not there. */
static PyObject *
look_up(PyObject *table, PyObject *name)
{
    return table == NULL ? NULL : PyDict_GetItemWithError(table, name);
}

static PyObject *wake(Proxy *self, PyObject *timeout);

/* A new reference; NULL with an exception when it could not be fetched. */
static inline PyObject *
target_of(PyObject *proxy)
{
    PyObject *target = ((Proxy *)proxy)->target;
    return target != NULL ? Py_NewRef(target) : wake((Proxy *)proxy, NULL);
}

/* A new reference: the target of a proxy, anything else as it is. */
static inline PyObject *
bare_of(PyObject *x)
{
    return is_proxy(x) ? target_of(x) : Py_NewRef(x);
}

/* Count the depth; the target, whose reference is taken over, or NULL with an exception when this is too deep. */
static inline PyObject *
deeper(PyObject *target)
{
    if (Py_EnterRecursiveCall(" while using a proxy")) {
        Py_CLEAR(target);
    }
    return target;
}

/* A new reference to the target, to be given to `leave`; NULL with an exception, also when this is too deep. */
static inline PyObject *
enter(PyObject *proxy, int *counted)
{
    PyObject *target = target_of(proxy);
    *counted = !((Proxy *)proxy)->plain;
    return *counted && target != NULL ? deeper(target) : target;
}

static inline void
leave(PyObject *target, int counted)
{
    if (counted) {
        Py_LeaveRecursiveCall();
    }
    Py_DECREF(target);
}

/* The body of most slots: the value of an expression over `target`. */
#define FORWARD(type, failed, expression) FORWARD_COUNTED(!((Proxy *)self)->plain, type, failed, expression)
/* The same, with its depth counted only on a condition. */
#define FORWARD_COUNTED(condition, type, failed, expression)                                                             \
    PyObject *target = target_of(self);                                                                                  \
    int counted = target != NULL && (condition);                                                                         \
    if (target == NULL || (counted && deeper(target) == NULL)) {                                                         \
        return failed;                                                                                                   \
    }                                                                                                                    \
    type result = expression;                                                                                            \
    leave(target, counted);                                                                                              \
    return result;

#endif
