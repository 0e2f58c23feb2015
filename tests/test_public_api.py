"""The names that users rely on are there, sorted, and reached without logic in the package's root."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pickle
from pathlib import Path

import pytest

import proxyfab
from proxyfab import errors

PACKAGE = Path(proxyfab.__file__).parent
CORE = [
    "Key",
    "Proxy",
    "Ref",
    "Store",
    "is_proxy",
    "is_resolved",
    "open_store",
    "prefetch",
    "ref_of",
    "resolve",
    "unwrap",
]
ERRORS = {
    "KeyNotFound": "LookupError",
    "ObjectLost": "LookupError",
    "ObjectReleased": "LookupError",
    "TopicNotFound": "LookupError",
    "TransferFailed": "ConnectionError",
    "TransferStalled": "ConnectionError",
    "TransferPaused": "ConnectionError",
    "ConsentRequired": "PermissionError",
    "CredentialsExpired": "PermissionError",
    "Conflict": "ValueError",
    "WorkerDied": "RuntimeError",
    "KeyExists": "ValueError",
    "ConnectorError": "ConnectionError",
    "ResolveTimeout": "TimeoutError",
    "IntegrityError": "ValueError",
    "SealError": "ValueError",
    "SerializationError": "ValueError",
    "CapacityError": "MemoryError",
    "AccessDenied": "PermissionError",
    "BorrowError": "RuntimeError",
    "CapabilityError": "NotImplementedError",
    "MissingDependency": "ImportError",
    "BackPressureError": "RuntimeError",
    "StaleEpoch": "RuntimeError",
    "LifetimeEnded": "RuntimeError",
    "RemoteError": "RuntimeError",
    "ConfigurationError": "ValueError",
}
CONNECTORS = [
    "BoundedConnector",
    "FileConnector",
    "MemoryConnector",
    "RedisConnector",
    "RoutedConnector",
    "SharedMemoryConnector",
    "TieredConnector",
]
STORE = {
    "put": ["obj", "key", "ttl", "replace"],
    "get": ["key", "default"],
    "put_many": ["objs"],
    "get_many": ["keys", "default"],
    "exists": ["key"],
    "evict": ["key"],
    "exists_many": ["keys"],
    "evict_many": ["keys"],
    "proxy": ["obj", "once", "ttl"],
    "proxy_many": ["objs"],
    "ref": ["obj", "once", "ttl"],
    "ref_from_key": ["key"],
    "proxy_from_key": ["key"],
    "reserve": [],
    "aput": ["obj"],
    "aget": ["key", "default"],
    "aproxy": ["obj"],
    "aevict": ["key"],
    "close": [],
    "clear": [],
    "stats": [],
}
REF = ["key", "nbytes", "store", "resolve", "exists", "evict", "proxy", "__call__", "__await__"]


def subpackages() -> list[Path]:
    return sorted(PACKAGE.glob("**/__init__.py"))


def test_the_root_lists_its_names_sorted() -> None:
    assert sorted(proxyfab.__all__) == proxyfab.__all__
    assert sorted(CORE) == proxyfab.__all__
    assert all(hasattr(proxyfab, name) for name in CORE)


@pytest.mark.parametrize("name", CONNECTORS)
def test_connectors_are_reached_by_name(name: str) -> None:
    module = importlib.import_module("proxyfab.connectors")

    assert name in module.__all__
    assert inspect.isclass(getattr(module, name))


@pytest.mark.parametrize(("name", "parameters"), STORE.items())
def test_a_store_has_the_verbs(name: str, parameters: list[str]) -> None:
    found = [p for p in inspect.signature(getattr(proxyfab.Store, name)).parameters.values() if p.name != "self"]

    assert [p.name for p in found[: len(parameters)]] == parameters
    extra = found[len(parameters) :]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in extra)


def test_a_store_takes_a_connector_and_options_by_keyword() -> None:
    connector, *options = inspect.signature(proxyfab.Store).parameters.values()

    assert (connector.name, connector.default) == ("connector", "shm://")
    assert {p.name for p in options} >= {"name", "cache", "inline_below", "serializer", "seal"}
    assert all(p.kind is p.KEYWORD_ONLY for p in options)


@pytest.mark.parametrize("name", REF)
def test_a_ref_has_the_verbs(name: str) -> None:
    assert hasattr(proxyfab.Ref, name)


@pytest.mark.parametrize(("name", "builtin"), ERRORS.items())
def test_an_error_is_a_fitting_builtin_and_pickles(name: str, builtin: str) -> None:
    error = getattr(errors, name)("what failed, on what, what to do")
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(error, errors.ProxyfabError)
    assert isinstance(error, getattr(builtins, builtin))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_every_error_is_in_the_table() -> None:
    found = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }

    assert found == {"ProxyfabError", *ERRORS}


@pytest.mark.parametrize("path", subpackages(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_init_lists_names_and_holds_no_logic(path: Path) -> None:
    docstring, *rest = ast.parse(path.read_text()).body
    logic = [node for node in rest if not is_listing(node)]

    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    assert logic == [], f"{path.parent.name}/__init__.py:{logic[0].lineno} is logic; it belongs into a module"


def is_listing(node: ast.stmt) -> bool:
    """Imports, a table, `if TYPE_CHECKING`, and the `__getattr__` that loads what the table names."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.FunctionDef):
        return node.name in {"__getattr__", "__dir__"}
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign))
