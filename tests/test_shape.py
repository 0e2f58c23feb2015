"""Files stay under 400 lines and functions under 40: each can be read in one sitting. Split by idea, not by length."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import proxyfab

PACKAGE = Path(proxyfab.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 40
DRAWERS = {"utils", "helpers", "common", "misc"}


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]  # parsed from source


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    source = path.read_text()
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    too_long = [f"{node.name}: {body_length(node)}" for node in functions if body_length(node) > LONGEST_FUNCTION]

    assert source.count("\n") <= LONGEST_FILE
    assert too_long == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_named_by_an_idea_and_begins_by_saying_it(path: Path) -> None:
    assert path.stem not in DRAWERS
    assert ast.get_docstring(ast.parse(path.read_text())), "the first lines of a module say what it is"
