"""How an exception gets to another process: as itself where it can, told in words where it cannot, and so its causes.

Frameworks that get an exception they cannot unpickle hang or break (process pools, Parsl), and some pickle the causes
of an exception with it, so each is tried here, on the side that still knows what happened.
"""

from __future__ import annotations

import pickle

from proxyfab.patterns.future.outcome import error_in, of_error

_CHAIN = 100


def travelling(error: BaseException) -> BaseException:
    """The error itself, if it arrives elsewhere as what it is; else a RemoteError that tells of it."""
    if not _arrives(error):
        return told(error)
    link: BaseException = error
    for _ in range(_CHAIN):
        behind = link.__cause__ or link.__context__
        if behind is None:
            break
        if not _arrives(behind):
            link.__cause__, link.__context__ = told(behind), None
            break
        link = behind
    return error


def told(error: BaseException) -> Exception:
    """An exception in words: its type, its message and its traceback."""
    found = error_in(of_error(error, "safe"), "safe")
    return found if isinstance(found, Exception) else RuntimeError(str(found))


def _arrives(error: BaseException) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - whatever its pickling, or its __init__ on the other side, raises
        return False
