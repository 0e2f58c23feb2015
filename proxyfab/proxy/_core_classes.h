/* Classes of proxies: made of those slots and methods that the kind has, so callable() and collections.abc tell the truth. */

static int
proxy_traverse(PyObject *self, visitproc visit, void *arg)
{
    Proxy *proxy = (Proxy *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(proxy->target);
    Py_VISIT(proxy->factory);
    Py_VISIT(proxy->flight);
    return 0;
}

static int
proxy_clear(PyObject *self)
{
    Proxy *proxy = (Proxy *)self;
    Py_CLEAR(proxy->target);
    Py_CLEAR(proxy->factory);
    Py_CLEAR(proxy->flight);
    return 0;
}

static void
proxy_dealloc(PyObject *self)
{
    PyTypeObject *cls = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, proxy_dealloc)
    if (((Proxy *)self)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    proxy_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(cls);
    Py_TRASHCAN_END
}

/* Steals nothing. */
static PyObject *
new_proxy(PyObject *cls, PyObject *factory)
{
    Proxy *proxy = PyObject_GC_New(Proxy, (PyTypeObject *)cls);
    if (proxy == NULL) {
        return NULL;
    }
    proxy->target = NULL;
    proxy->factory = Py_NewRef(factory);
    proxy->weakrefs = NULL;
    proxy->call = proxy_vectorcall;
    proxy->flight = NULL;
    proxy->pilot = 0;
    proxy->forks = 0;
    proxy->limited = 0;
    proxy->plain = proxy->items = proxy->walks = proxy->within = 0;
    PyObject_GC_Track(proxy);
    return (PyObject *)proxy;
}

typedef struct {
    const char *operator;
    int slot, second_slot;
    void *function, *second_function;
} OperatorSlot;

#define SLOT(name, slot, function) {"__" #name "__", slot, 0, (void *)function, NULL}
#define WITH_IN_PLACE(name, upper, function)                                                                             \
    SLOT(name, Py_nb_##upper, function), SLOT(r##name, Py_nb_##upper, function)

static const OperatorSlot OPERATOR_SLOTS[] = {
    SLOT(hash, Py_tp_hash, proxy_hash),
    SLOT(bool, Py_nb_bool, proxy_bool),
    SLOT(call, Py_tp_call, PyVectorcall_Call),
    {"__len__", Py_mp_length, Py_sq_length, (void *)proxy_length, (void *)proxy_length},
    {"__getitem__", Py_mp_subscript, Py_sq_item, (void *)proxy_getitem, (void *)proxy_item},
    {"__setitem__", Py_mp_ass_subscript, Py_sq_ass_item, (void *)proxy_setitem, (void *)proxy_ass_item},
    {"__delitem__", Py_mp_ass_subscript, Py_sq_ass_item, (void *)proxy_setitem, (void *)proxy_ass_item},
    SLOT(contains, Py_sq_contains, proxy_contains),
    SLOT(iter, Py_tp_iter, proxy_iter),
    SLOT(next, Py_tp_iternext, proxy_iternext),
    WITH_IN_PLACE(add, add, proxy_add),
    SLOT(iadd, Py_nb_inplace_add, proxy_iadd),
    WITH_IN_PLACE(sub, subtract, proxy_subtract),
    SLOT(isub, Py_nb_inplace_subtract, proxy_isubtract),
    WITH_IN_PLACE(mul, multiply, proxy_multiply),
    SLOT(imul, Py_nb_inplace_multiply, proxy_imultiply),
    WITH_IN_PLACE(matmul, matrix_multiply, proxy_matrix_multiply),
    SLOT(imatmul, Py_nb_inplace_matrix_multiply, proxy_imatrix_multiply),
    WITH_IN_PLACE(truediv, true_divide, proxy_true_divide),
    SLOT(itruediv, Py_nb_inplace_true_divide, proxy_itrue_divide),
    WITH_IN_PLACE(floordiv, floor_divide, proxy_floor_divide),
    SLOT(ifloordiv, Py_nb_inplace_floor_divide, proxy_ifloor_divide),
    WITH_IN_PLACE(mod, remainder, proxy_remainder),
    SLOT(imod, Py_nb_inplace_remainder, proxy_iremainder),
    WITH_IN_PLACE(divmod, divmod, proxy_divmod),
    WITH_IN_PLACE(pow, power, proxy_power),
    SLOT(ipow, Py_nb_inplace_power, proxy_ipower),
    WITH_IN_PLACE(lshift, lshift, proxy_lshift),
    SLOT(ilshift, Py_nb_inplace_lshift, proxy_ilshift),
    WITH_IN_PLACE(rshift, rshift, proxy_rshift),
    SLOT(irshift, Py_nb_inplace_rshift, proxy_irshift),
    WITH_IN_PLACE(and, and, proxy_and),
    SLOT(iand, Py_nb_inplace_and, proxy_iand),
    WITH_IN_PLACE(or, or, proxy_or),
    SLOT(ior, Py_nb_inplace_or, proxy_ior),
    WITH_IN_PLACE(xor, xor, proxy_xor),
    SLOT(ixor, Py_nb_inplace_xor, proxy_ixor),
    SLOT(neg, Py_nb_negative, proxy_negative),
    SLOT(pos, Py_nb_positive, proxy_positive),
    SLOT(abs, Py_nb_absolute, proxy_absolute),
    SLOT(invert, Py_nb_invert, proxy_invert),
    SLOT(int, Py_nb_int, proxy_int),
    SLOT(float, Py_nb_float, proxy_float),
    SLOT(index, Py_nb_index, proxy_index),
    SLOT(await, Py_am_await, proxy_await),
    SLOT(aiter, Py_am_aiter, proxy_aiter),
    SLOT(anext, Py_am_anext, proxy_anext),
    SLOT(get, Py_tp_descr_get, proxy_descr_get),
    SLOT(set, Py_tp_descr_set, proxy_descr_set),
    SLOT(delete, Py_tp_descr_set, proxy_descr_set),
    SLOT(buffer, Py_bf_getbuffer, proxy_getbuffer),
};

#define METHOD(name, flags) {"__" #name "__", (PyCFunction)(void (*)(void))proxy_##name, flags, NULL}

/* Operators that Python looks up by name, and two of NumPy's. */
static PyMethodDef OPERATOR_METHODS[] = {
    METHOD(reversed, METH_NOARGS),
    METHOD(length_hint, METH_NOARGS),
    METHOD(complex, METH_NOARGS),
    METHOD(round, METH_FASTCALL),
    METHOD(trunc, METH_FASTCALL),
    METHOD(floor, METH_FASTCALL),
    METHOD(ceil, METH_FASTCALL),
    METHOD(bytes, METH_NOARGS),
    METHOD(fspath, METH_NOARGS),
    METHOD(enter, METH_FASTCALL),
    METHOD(exit, METH_FASTCALL),
    METHOD(aenter, METH_FASTCALL),
    METHOD(aexit, METH_FASTCALL),
    METHOD(instancecheck, METH_O),
    METHOD(subclasscheck, METH_O),
    METHOD(array_ufunc, METH_FASTCALL | METH_KEYWORDS),
    METHOD(array_function, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyMethodDef ALWAYS_METHODS[] = {
    METHOD(format, METH_O),
    METHOD(dir, METH_NOARGS),
    METHOD(sizeof, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef MEMBERS[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Proxy, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Proxy, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

enum { MOST_SLOTS = 16 + 2 * sizeof(OPERATOR_SLOTS) / sizeof(OPERATOR_SLOTS[0]) };

static Py_ssize_t
add_slot(PyType_Slot *slots, Py_ssize_t n, int slot, void *function)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        if (slots[i].slot == slot) {
            return n;
        }
    }
    slots[n].slot = slot;
    slots[n].pfunc = function;
    return n + 1;
}

/* The number of slots, -1 with an exception. */
static Py_ssize_t
fill_slots(PyType_Slot *slots, PyObject *operators, int torch)
{
    Py_ssize_t n = 0;
    n = add_slot(slots, n, Py_tp_dealloc, (void *)proxy_dealloc);
    n = add_slot(slots, n, Py_tp_traverse, (void *)proxy_traverse);
    n = add_slot(slots, n, Py_tp_clear, (void *)proxy_clear);
    n = add_slot(slots, n, Py_tp_members, MEMBERS);
    n = add_slot(slots, n, Py_tp_methods, ALWAYS_METHODS);
    n = add_slot(slots, n, Py_tp_getattro, torch ? (void *)torch_getattro : (void *)proxy_getattro);
    n = add_slot(slots, n, Py_tp_setattro, (void *)proxy_setattro);
    n = add_slot(slots, n, Py_tp_richcompare, (void *)proxy_richcompare);
    n = add_slot(slots, n, Py_tp_repr, (void *)proxy_repr);
    n = add_slot(slots, n, Py_tp_str, (void *)proxy_str);
    for (size_t i = 0; i < sizeof(OPERATOR_SLOTS) / sizeof(OPERATOR_SLOTS[0]); i++) {
        const OperatorSlot *operator = &OPERATOR_SLOTS[i];
        PyObject *name = PyUnicode_FromString(operator->operator);
        int has = name == NULL ? -1 : PySet_Contains(operators, name);
        Py_XDECREF(name);
        if (has < 0) {
            return -1;
        }
        if (has) {
            n = add_slot(slots, n, operator->slot, operator->function);
            if (operator->second_slot) {
                n = add_slot(slots, n, operator->second_slot, operator->second_function);
            }
        }
    }
    slots[n].slot = 0;
    slots[n].pfunc = NULL;
    return n;
}

static int
add_methods(PyObject *cls, PyObject *operators)
{
    for (PyMethodDef *method = OPERATOR_METHODS; method->ml_name != NULL; method++) {
        PyObject *name = PyUnicode_FromString(method->ml_name);
        int has = name == NULL ? -1 : PySet_Contains(operators, name);
        PyObject *found = has == 1 ? PyDescr_NewMethod((PyTypeObject *)cls, method) : NULL;
        int failed = has < 0 || (has && (found == NULL || PyObject_SetAttr(cls, name, found) < 0));
        Py_XDECREF(found);
        Py_XDECREF(name);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

/* new_class(base, operators, torch): a class of proxies with these operators, which nobody can derive from. */
static PyObject *
new_class(PyObject *module, PyObject *args)
{
    PyObject *base, *operators;
    int torch;
    PyType_Slot slots[MOST_SLOTS];
    if (!PyArg_ParseTuple(args, "O!O!p", &PyType_Type, &base, &PySet_Type, &operators, &torch)) {
        return NULL;
    }
    PyObject *call = PyUnicode_FromString("__call__");
    int calls = call == NULL ? -1 : PySet_Contains(operators, call);
    Py_XDECREF(call);
    if (calls < 0 || fill_slots(slots, operators, torch) < 0) {
        return NULL;
    }
    PyType_Spec spec = {
        .name = "proxyfab.proxy.Proxy",
        .basicsize = sizeof(Proxy),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | (calls ? Py_TPFLAGS_HAVE_VECTORCALL : 0),
        .slots = slots,
    };
    PyObject *bases = PyTuple_Pack(1, base), *cls = bases == NULL ? NULL : PyType_FromModuleAndSpec(module, &spec, bases);
    Py_XDECREF(bases);
    if (cls != NULL && add_methods(cls, operators) < 0) {
        Py_CLEAR(cls);
    }
    return cls;
}
