"""Files stay under 400 lines and functions under 40: each can be read in one sitting. Split by idea, not by length."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import proxyfab

PACKAGE = Path(proxyfab.__file__).parent
ROOT = Path(__file__).parent.parent
SOURCES = {path.relative_to(PACKAGE): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
LONGEST_FILE = 400
LONGEST_FUNCTION = 40
DRAWERS = {"utils", "helpers", "common", "misc"}


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]  # parsed from source


def functions_in(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_a_file_can_be_read_in_one_sitting() -> None:
    too_long = [str(path) for path, source in SOURCES.items() if source.count("\n") > LONGEST_FILE]
    for path, source in SOURCES.items():
        long = [node for node in functions_in(ast.parse(source)) if body_length(node) > LONGEST_FUNCTION]
        too_long += [f"{path}: {node.name} has {body_length(node)} lines" for node in long]

    assert too_long == []


def test_the_map_has_the_floors_that_the_imports_keep_to() -> None:
    layers = (ROOT / ".importlinter").read_text().partition("layers =\n")[2].partition("\n\n")[0]
    rooms = re.findall(r"^  (\w+)\S* .* (\d+)(?: \|)?$", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    drawn: dict[str, set[str]] = {}
    for name, floor in rooms:
        drawn.setdefault(floor, set()).add(name)
    kept = [set(layer.strip().split(" | ")) for layer in layers.splitlines()][1:]  # __main__ has no floor

    assert drawn == {str(number): layer for number, layer in enumerate(reversed(kept))}


def test_a_file_is_named_by_an_idea_and_begins_by_saying_it() -> None:
    assert [str(path) for path in SOURCES if path.stem in DRAWERS] == []
    silent = [str(path) for path, source in SOURCES.items() if not re.match(r'(#.*\n)*r?"""\S', source)]
    assert silent == [], "the first lines of a module say what it is"
