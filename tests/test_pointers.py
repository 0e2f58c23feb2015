"""Pointers to buffers: what others declare of CPython's functions does not concern us, nor ours them."""

from __future__ import annotations

import ctypes

import pytest

from proxyfab.pointers import PyBuffer, get_buffer, python_function, release_buffer


def test_what_others_declare_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.pythonapi.PyObject_GetBuffer, "argtypes", (ctypes.py_object, ctypes.c_char_p))
    held = PyBuffer()
    get_buffer(b"read-only", held, 0)
    try:
        assert ctypes.string_at(held.buf, held.len) == b"read-only"
    finally:
        release_buffer(held)
    release_buffer(held)


def test_each_declares_for_itself() -> None:
    one = python_function("PyBytes_Size", ctypes.c_ssize_t, ctypes.py_object)
    other = python_function("PyBytes_Size", ctypes.c_char_p, ctypes.c_int)
    assert one(b"12345") == 5
    assert one is not other
    with pytest.raises(ctypes.ArgumentError):
        other(b"12345")


def test_what_cannot_be_held_is_an_error_of_python() -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        get_buffer(object(), PyBuffer(), 0)
