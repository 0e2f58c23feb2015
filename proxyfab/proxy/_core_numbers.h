/* Numbers. Each slot spells the operation, not the method, so that Python's own rules decide on the target. */

#include <opcode.h> /* NB_INPLACE_ADD and its like */

static inline PyObject *
forward_left(PyObject *self, PyObject *right, binaryfunc operation)
{
    FORWARD(PyObject *, NULL, operation(target, right))
}

static inline PyObject *
forward_right(PyObject *left, PyObject *self, binaryfunc operation)
{
    FORWARD(PyObject *, NULL, operation(left, target))
}

static inline PyObject *
binary(PyObject *left, PyObject *right, binaryfunc operation)
{
    return is_proxy(left) ? forward_left(left, right, operation) : forward_right(left, right, operation);
}

/* An in-place operation keeps the proxy when it kept the target. `modulus`: only of a power. */
static inline PyObject *
in_place(PyObject *self, PyObject *other, PyObject *modulus, binaryfunc operation)
{
    int counted;
    PyObject *target = enter(self, &counted), *bare = target == NULL ? NULL : bare_of(other), *result = NULL;
    if (target == NULL) {
        return NULL;
    }
    if (bare != NULL) {
        result = modulus == NULL ? operation(target, bare) : PyNumber_InPlacePower(target, bare, modulus);
        if (result == target) {
            Py_SETREF(result, Py_NewRef(self));
        }
    }
    Py_XDECREF(bare);
    leave(target, counted);
    return result;
}

/* Whether what Python executes now is this in-place operator.

   For `numbers += proxy` CPython finds no in-place form that takes a stranger and asks the proxy next, just as for
   `numbers + proxy`. Only the instruction tells the two apart. Its argument alone excludes nearly everything; code that
   the interpreter has specialized or instrumented is undone by PyCode_GetCode. */
static int
executes_in_place(int argument)
{
    PyFrameObject *frame = PyEval_GetFrame(); /* borrowed */
    int at = frame == NULL ? -1 : PyFrame_GetLasti(frame), found = 0;
    if (at < 0) {
        return 0;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
#if PY_VERSION_HEX < 0x030E0000
    if (((unsigned char *)code->co_code_adaptive)[at + 1] != argument) {
        Py_DECREF(code);
        return 0;
    }
#endif
    PyObject *bytes = PyCode_GetCode(code);
    if (bytes != NULL && at + 1 < PyBytes_GET_SIZE(bytes)) {
        const unsigned char *instruction = (unsigned char *)PyBytes_AS_STRING(bytes) + at;
        found = instruction[0] == BINARY_OP && instruction[1] == argument;
    }
    if (bytes == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(bytes);
    Py_DECREF(code);
    return found;
}

#define NUMBER_SLOT(x, slot) (Py_TYPE(x)->tp_as_number != NULL && Py_TYPE(x)->tp_as_number->slot != NULL)
#define SEQUENCE_SLOT(x, slot) (Py_TYPE(x)->tp_as_sequence != NULL && Py_TYPE(x)->tp_as_sequence->slot != NULL)

#define BINARY(name, operation)                                                                                          \
    static PyObject *proxy_##name(PyObject *left, PyObject *right) { return binary(left, right, operation); }
#define IN_PLACE(name, operation)                                                                                        \
    static PyObject *proxy_i##name(PyObject *self, PyObject *other) { return in_place(self, other, NULL, operation); }
/* Both, for operators that have an in-place form: a mutable left operand is changed, not replaced. */
#define MUTABLE(name, operation, in_place_operation, argument, has_in_place_form)                                        \
    static PyObject *proxy_##name(PyObject *left, PyObject *right)                                                       \
    {                                                                                                                    \
        if (is_proxy(left)) {                                                                                            \
            return forward_left(left, right, operation);                                                                 \
        }                                                                                                                \
        if ((has_in_place_form) && executes_in_place(argument)) {                                                        \
            return forward_right(left, right, in_place_operation);                                                       \
        }                                                                                                                \
        return forward_right(left, right, operation);                                                                    \
    }                                                                                                                    \
    IN_PLACE(name, in_place_operation)

MUTABLE(add, PyNumber_Add, PyNumber_InPlaceAdd, NB_INPLACE_ADD,
        NUMBER_SLOT(left, nb_inplace_add) || SEQUENCE_SLOT(left, sq_inplace_concat))
MUTABLE(subtract, PyNumber_Subtract, PyNumber_InPlaceSubtract, NB_INPLACE_SUBTRACT, NUMBER_SLOT(left, nb_inplace_subtract))
MUTABLE(multiply, PyNumber_Multiply, PyNumber_InPlaceMultiply, NB_INPLACE_MULTIPLY,
        NUMBER_SLOT(left, nb_inplace_multiply) || SEQUENCE_SLOT(left, sq_inplace_repeat))
MUTABLE(matrix_multiply, PyNumber_MatrixMultiply, PyNumber_InPlaceMatrixMultiply, NB_INPLACE_MATRIX_MULTIPLY,
        NUMBER_SLOT(left, nb_inplace_matrix_multiply))
MUTABLE(true_divide, PyNumber_TrueDivide, PyNumber_InPlaceTrueDivide, NB_INPLACE_TRUE_DIVIDE,
        NUMBER_SLOT(left, nb_inplace_true_divide))
MUTABLE(floor_divide, PyNumber_FloorDivide, PyNumber_InPlaceFloorDivide, NB_INPLACE_FLOOR_DIVIDE,
        NUMBER_SLOT(left, nb_inplace_floor_divide))
MUTABLE(remainder, PyNumber_Remainder, PyNumber_InPlaceRemainder, NB_INPLACE_REMAINDER,
        NUMBER_SLOT(left, nb_inplace_remainder))
MUTABLE(lshift, PyNumber_Lshift, PyNumber_InPlaceLshift, NB_INPLACE_LSHIFT, NUMBER_SLOT(left, nb_inplace_lshift))
MUTABLE(rshift, PyNumber_Rshift, PyNumber_InPlaceRshift, NB_INPLACE_RSHIFT, NUMBER_SLOT(left, nb_inplace_rshift))
MUTABLE(and, PyNumber_And, PyNumber_InPlaceAnd, NB_INPLACE_AND, NUMBER_SLOT(left, nb_inplace_and))
MUTABLE(or, PyNumber_Or, PyNumber_InPlaceOr, NB_INPLACE_OR, NUMBER_SLOT(left, nb_inplace_or))
MUTABLE(xor, PyNumber_Xor, PyNumber_InPlaceXor, NB_INPLACE_XOR, NUMBER_SLOT(left, nb_inplace_xor))
BINARY(divmod, PyNumber_Divmod)

static PyObject *
proxy_power(PyObject *base, PyObject *exponent, PyObject *modulus)
{
    if (is_proxy(base)) {
        PyObject *self = base;
        FORWARD(PyObject *, NULL, PyNumber_Power(target, exponent, modulus))
    }
    if (modulus != Py_None) { /* Python has no reflected form of it */
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *self = exponent;
    FORWARD(PyObject *, NULL, PyNumber_Power(base, target, modulus))
}

static PyObject *
proxy_ipower(PyObject *self, PyObject *exponent, PyObject *modulus)
{
    return in_place(self, exponent, modulus, NULL);
}

#define UNARY(name, operation)                                                                                           \
    static PyObject *proxy_##name(PyObject *self) { FORWARD(PyObject *, NULL, operation(target)) }

UNARY(negative, PyNumber_Negative)
UNARY(positive, PyNumber_Positive)
UNARY(absolute, PyNumber_Absolute)
UNARY(invert, PyNumber_Invert)
UNARY(int, PyNumber_Long)
UNARY(float, PyNumber_Float)
UNARY(index, PyNumber_Index)

static int
proxy_bool(PyObject *self)
{
    FORWARD(int, -1, PyObject_IsTrue(target))
}

static PyObject *
proxy_complex(PyObject *self, PyObject *Py_UNUSED(none))
{
    FORWARD(PyObject *, NULL, PyObject_CallOneArg((PyObject *)&PyComplex_Type, target))
}
