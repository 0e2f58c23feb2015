"""What was raised as text, for those who tell of it: logs, journals, dead letters.

Promises: telling never raises, whatever an exception's own methods do, and what it answers is text that can be written
as UTF-8: a file's name that is not (a lone surrogate) is told with its code.
"""

from __future__ import annotations

import traceback

MOST = 500


def story_of(error: BaseException, most: int = MOST) -> str:
    """Type and message of an exception, `most` characters of it."""
    try:
        text = str(error)
    except Exception as trouble:  # noqa: BLE001 - whatever its __str__ raises must not hide that it happened
        text = f"(its text cannot be had: {type(trouble).__name__})"
    return _written(f"{type(error).__name__}: {text}"[:most])


def traceback_of(error: BaseException) -> str:
    """How it came to be raised."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as trouble:  # noqa: BLE001 - as above
        text = f"(its traceback cannot be told: {type(trouble).__name__})"
    return _written(text)


def _written(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
