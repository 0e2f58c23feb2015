/* The C core of proxies: one class for each kind, whose slots forward straight to the target.

   It does what body.py, waking.py, operators.py and reflection.py do where there is no compiler, and passes the same tests.
   What is asked seldom stays in Python: questions to an unresolved proxy, names, texts, how classes are put together.
   The parts are headers because only a single translation unit lets the compiler put `target_of` into each slot. */

#include "_core.h"

#include "_core_waking.h"

#include "_core_attributes.h"

#include "_core_numbers.h"

#include "_core_protocols.h"

#include "_core_arrays.h"

#include "_core_classes.h"

static State *
state_of_module(PyObject *module)
{
    return (State *)PyModule_GetState(module);
}

/* The class of a kind, or of its text, borrowed; made when it is asked for the first time. */
static PyObject *
class_of_kind(State *state, PyObject *kind)
{
    if (kind == Py_None) {
        return state->unknown != NULL ? state->unknown : ask(NULL, NULL, NULL);
    }
    if (kind == state->last_kind) {
        return state->last_class;
    }
    if (!PyTuple_Check(kind) && !PyUnicode_CheckExact(kind)) {
        return PyErr_Format(PyExc_TypeError, "A kind is needed, not a %.200s", Py_TYPE(kind)->tp_name);
    }
    PyObject *cls = look_up(state->classes, kind);
    if (cls != NULL && PyUnicode_CheckExact(kind)) {
        return cls; /* each pickle brings a text of its own: the last one need not be remembered */
    }
    Py_XINCREF(cls);
    if (cls == NULL && !PyErr_Occurred()) {
        cls = only_class(ask(state->build, kind, NULL));
    }
    if (cls != NULL) {
        Py_XSETREF(state->last_class, cls); /* which keeps it */
        Py_XSETREF(state->last_kind, Py_NewRef(kind));
    }
    return cls;
}

static PyObject *
make(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *kind = count > 1 ? args[1] : Py_None;
    if (names != NULL && PyTuple_GET_SIZE(names) == 1 && count == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "kind") == 0) {
        kind = args[1];
    }
    else if (count < 1 || count > 2 || (names != NULL && PyTuple_GET_SIZE(names))) {
        return PyErr_Format(PyExc_TypeError, "make() takes a factory and a kind");
    }
    PyObject *cls = class_of_kind(state_of_module(module), kind);
    return cls == NULL ? NULL : new_proxy(cls, args[0]);
}

/* again(factory, text): a proxy of the kind with that text, out of a pickle. */
static PyObject *
again(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyUnicode_CheckExact(args[1])) {
        return PyErr_Format(PyExc_TypeError, "again() takes a factory and the text of a kind");
    }
    PyObject *cls = class_of_kind(state_of_module(module), args[1]);
    return cls == NULL ? NULL : new_proxy(cls, args[0]);
}

/* reduce(proxy[, protocol]): what pickle does with a proxy. */
static PyObject *
reduce(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    State *state = state_of_module(module);
    if (count < 1 || !is_proxy(args[0])) {
        return PyErr_Format(PyExc_TypeError, "reduce() takes a proxy");
    }
    Proxy *proxy = (Proxy *)args[0];
    PyObject *text = look_up(state->texts, (PyObject *)Py_TYPE(proxy)), *hook = NULL;
    if (text == NULL || proxy->factory == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ReferenceError, "This proxy was cleared.");
    }
    int is_bare = PyFunction_Check(proxy->factory) && ((PyFunctionObject *)proxy->factory)->func_dict == NULL;
    if (!is_bare && PyObject_GetOptionalAttr(proxy->factory, state->reduce_proxy, &hook) < 0) {
        return NULL;
    }
    if (hook != NULL) {
        PyObject *kind = look_up(state->kinds, (PyObject *)Py_TYPE(proxy));
        PyObject *target = Py_NewRef(proxy->target ? proxy->target : Py_None); /* the hook may take it back */
        PyObject *all[3] = {kind != NULL ? kind : Py_None, proxy->target ? Py_True : Py_False, target};
        PyObject *found = PyObject_Vectorcall(hook, all, 3, NULL);
        Py_DECREF(target);
        Py_DECREF(hook);
        return found;
    }
    if (state->rebuild == NULL) {
        return ask(NULL, NULL, NULL);
    }
    PyObject *given = PyTuple_Pack(2, proxy->factory, text);
    PyObject *made = given == NULL ? NULL : PyTuple_Pack(2, state->rebuild, given);
    Py_XDECREF(given);
    return made;
}

static PyObject *
resolve(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = count > 1 ? args[1] : Py_None;
    if (names != NULL && PyTuple_GET_SIZE(names) == 1 && count == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout") == 0) {
        timeout = args[1];
    }
    else if (count < 1 || count > 2 || (names != NULL && PyTuple_GET_SIZE(names))) {
        return PyErr_Format(PyExc_TypeError, "resolve() takes a proxy and a timeout");
    }
    if (!is_proxy(args[0])) {
        return Py_NewRef(args[0]);
    }
    PyObject *target = ((Proxy *)args[0])->target;
    return target != NULL ? Py_NewRef(target) : wake((Proxy *)args[0], timeout == Py_None ? NULL : timeout);
}

static PyObject *
core_is_proxy(PyObject *Py_UNUSED(module), PyObject *x)
{
    return PyBool_FromLong(is_proxy(x));
}

static PyObject *
core_is_resolved(PyObject *Py_UNUSED(module), PyObject *x)
{
    return PyBool_FromLong(!is_proxy(x) || ((Proxy *)x)->target != NULL);
}

static PyObject *
only(PyObject *x, size_t offset, const char *what)
{
    PyObject *found = is_proxy(x) ? *(PyObject **)((char *)x + offset) : NULL;
    return found != NULL ? Py_NewRef(found) : PyErr_Format(PyExc_AttributeError, what, Py_TYPE(x)->tp_name);
}

static PyObject *
core_target_of(PyObject *Py_UNUSED(module), PyObject *x)
{
    return only(x, offsetof(Proxy, target), "'%.200s' object has no target here");
}

static PyObject *
core_factory_of(PyObject *Py_UNUSED(module), PyObject *x)
{
    return only(x, offsetof(Proxy, factory), "'%.200s' object has no factory");
}

/* unsettle(proxy): what it had is not its target any more. */
static PyObject *
unsettle(PyObject *Py_UNUSED(module), PyObject *x)
{
    if (!is_proxy(x)) {
        return PyErr_Format(PyExc_TypeError, "'%.200s' object is no proxy", Py_TYPE(x)->tp_name);
    }
    Py_CLEAR(((Proxy *)x)->target);
    Py_RETURN_NONE;
}

static PyObject *
kind_of_class(PyObject *module, PyObject *cls)
{
    PyObject *kind = look_up(state_of_module(module)->kinds, cls);
    return kind != NULL || PyErr_Occurred() ? Py_XNewRef(kind) : Py_NewRef(Py_None);
}

/* register(kind, class, own, text): from now on this class stands for that kind. Returns the one that was there first. */
static PyObject *
register_class(PyObject *module, PyObject *args)
{
    State *state = state_of_module(module);
    PyObject *kind, *cls, *own, *text;
    if (!PyArg_ParseTuple(args, "O!OO!U", &PyTuple_Type, &kind, &cls, &PyDict_Type, &own, &text)) {
        return NULL;
    }
    if (only_class(Py_NewRef(cls)) == NULL) {
        return NULL;
    }
    Py_DECREF(cls); /* the caller has it */
    PyObject *first = PyDict_SetDefault(state->classes, kind, cls);
    if (first == cls && (PyDict_SetItem(state->kinds, cls, kind) < 0 || PyDict_SetItem(state->own, cls, own) < 0 ||
                         PyDict_SetItem(state->texts, cls, text) < 0 || PyDict_SetItem(state->classes, text, cls) < 0)) {
        return NULL;
    }
    return Py_XNewRef(first);
}

/* connect(unknown=Kind, **functions): what the core asks Python for. */
static PyObject *
connect(PyObject *module, PyObject *Py_UNUSED(args), PyObject *named)
{
    State *state = state_of_module(module);
    PyObject *kind = named == NULL ? NULL : PyDict_GetItemString(named, "unknown"), *unknown;
#define CHECK(name)                                                                                                      \
    if (kind == NULL || PyDict_GetItemString(named, #name) == NULL) {                                                    \
        return PyErr_Format(PyExc_TypeError, "connect() needs " #name);                                                  \
    }
    CONNECTED(CHECK)
#undef CHECK
    unknown = only_class(PyObject_CallOneArg(PyDict_GetItemString(named, "build"), kind));
    if (unknown == NULL) {
        return NULL;
    }
    Py_XSETREF(state->unknown, unknown);
#define TAKE(name) Py_XSETREF(state->name, Py_NewRef(PyDict_GetItemString(named, #name)));
    CONNECTED(TAKE)
#undef TAKE
    Py_RETURN_NONE;
}

static PyObject *
forked(PyObject *module, PyObject *Py_UNUSED(none))
{
    state_of_module(module)->forks++;
    Py_RETURN_NONE;
}

#define FUNCTION(name, function, flags, doc) {name, (PyCFunction)(void (*)(void))function, flags, doc}

static PyMethodDef FUNCTIONS[] = {
    FUNCTION("make", make, METH_FASTCALL | METH_KEYWORDS, "An unresolved proxy of what a factory will return."),
    FUNCTION("again", again, METH_FASTCALL, "An unresolved proxy of the kind with this text, as pickles have it."),
    FUNCTION("reduce", reduce, METH_FASTCALL, "What pickle does with a proxy."),
    FUNCTION("resolve", resolve, METH_FASTCALL | METH_KEYWORDS, "The target of a proxy; anything else as it is."),
    FUNCTION("is_proxy", core_is_proxy, METH_O, "Whether an object is a proxy. Never fetches."),
    FUNCTION("is_resolved", core_is_resolved, METH_O, "Whether the target is here. Never fetches."),
    FUNCTION("target_of", core_target_of, METH_O, "The target of a resolved proxy."),
    FUNCTION("factory_of", core_factory_of, METH_O, "The factory of a proxy."),
    FUNCTION("unsettle", unsettle, METH_O, "Make a resolved proxy an unresolved one: the factory has another target."),
    FUNCTION("kind_of_class", kind_of_class, METH_O, "The kind that a class of proxies stands for, or None."),
    FUNCTION("new_class", new_class, METH_VARARGS, "A class of proxies with these operators."),
    FUNCTION("register", register_class, METH_VARARGS, "Let a class stand for a kind."),
    FUNCTION("connect", connect, METH_VARARGS | METH_KEYWORDS, "Take the functions of Python that the core asks."),
    FUNCTION("forked", forked, METH_NOARGS, "Said in a child after a fork."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot BODY_SLOTS[] = {
    {Py_tp_members, MEMBERS},
    {Py_tp_traverse, (void *)proxy_traverse},
    {Py_tp_clear, (void *)proxy_clear},
    {0, NULL},
};

static PyType_Spec BODY = {
    .name = "proxyfab.proxy._core.Body",
    .basicsize = sizeof(Proxy),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = BODY_SLOTS,
};

static int
start(PyObject *module)
{
    State *state = state_of_module(module);
#define NAME(field, text)                                                                                                \
    if ((state->field = PyUnicode_InternFromString(text)) == NULL) {                                                     \
        return -1;                                                                                                       \
    }
    NAME(reduce_proxy, "reduce_proxy")
    NAME(release, "release")
#undef NAME
    state->classes = PyDict_New();
    state->types = PyDict_New();
    state->kinds = PyDict_New();
    state->own = PyDict_New();
    state->texts = PyDict_New();
    PyObject *body = PyType_FromModuleAndSpec(module, &BODY, NULL);
    if (state->classes == NULL || state->types == NULL || state->kinds == NULL || state->own == NULL || state->texts == NULL ||
        body == NULL) {
        Py_XDECREF(body);
        return -1;
    }
    int failed = PyModule_AddObjectRef(module, "Body", body) < 0 || PyModule_AddIntConstant(module, "REVISION", REVISION) < 0;
    Py_DECREF(body);
    return failed ? -1 : 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = state_of_module(module);
#define VISIT(name) Py_VISIT(state->name);
    CONNECTED(VISIT)
    REMEMBERED(VISIT)
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = state_of_module(module);
#define CLEAR(name) Py_CLEAR(state->name);
    CONNECTED(CLEAR)
    REMEMBERED(CLEAR)
    return 0;
}

static void
module_free(void *module)
{
    module_clear((PyObject *)module);
}

static PyModuleDef_Slot STEPS[] = {
    {Py_mod_exec, (void *)start},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED}, /* core.py does not load this where there is no such lock */
#endif
    {0, NULL},
};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxyfab.proxy._core",
    .m_doc = "The C core of proxies.",
    .m_size = sizeof(State),
    .m_methods = FUNCTIONS,
    .m_slots = STEPS,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&MODULE);
}
