"""The tree of errors: every leaf pickles, is a fitting built-in, and is in the picture that the docstring draws."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pickle
import pkgutil
import re

import pytest

import proxyfab
from proxyfab import errors
from proxyfab.errors import ProxyfabError
from proxyfab.testing import roles
from proxyfab.testing.processes import run

BUILT_IN = {
    "KeyNotFound": LookupError,
    "ObjectLost": errors.KeyNotFound,
    "ObjectReleased": errors.KeyNotFound,
    "TopicNotFound": LookupError,
    "Conflict": ValueError,
    "KeyExists": ValueError,
    "ConnectorError": ConnectionError,
    "TransferFailed": errors.ConnectorError,
    "TransferStalled": errors.TransferFailed,
    "TransferPaused": errors.TransferFailed,
    "ResolveTimeout": TimeoutError,
    "IntegrityError": ValueError,
    "SealError": errors.IntegrityError,
    "SerializationError": ValueError,
    "CapacityError": MemoryError,
    "AccessDenied": PermissionError,
    "ConsentRequired": errors.AccessDenied,
    "CredentialsExpired": errors.AccessDenied,
    "BorrowError": RuntimeError,
    "LifetimeEnded": RuntimeError,
    "StaleEpoch": errors.LifetimeEnded,
    "CapabilityError": NotImplementedError,
    "MissingDependency": ImportError,
    "BackPressureError": RuntimeError,
    "WorkerDied": RuntimeError,
    "RemoteError": RuntimeError,
    "ConfigurationError": ValueError,
}
SENTENCE = "Nothing lies under a@b in shm://~1: put it again."


def import_everything() -> None:
    for module in pkgutil.walk_packages(proxyfab.__path__, "proxyfab."):
        if not module.name.startswith(("proxyfab.demo", "proxyfab.integrations", "proxyfab.__main__")):
            with contextlib.suppress(ModuleNotFoundError):  # an optional package; no error is defined where it is used
                importlib.import_module(module.name)


def tree(top: type[ProxyfabError] = ProxyfabError) -> list[type[ProxyfabError]]:
    import_everything()
    return [top, *(leaf for child in top.__subclasses__() for leaf in tree(child))]


ALL = tree()


def by_name(kind: type) -> str:
    return kind.__qualname__


def test_the_names_are_the_contract() -> None:
    ours = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}

    assert set(ours) == {"ProxyfabError", *BUILT_IN}


def test_the_docstring_draws_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\w+)  ", errors.__doc__ or ""))

    assert drawn == {name: built_in.__name__ for name, built_in in BUILT_IN.items()}


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_is_a_fitting_built_in(name: str) -> None:
    kind = getattr(errors, name)

    assert issubclass(kind, BUILT_IN[name])
    assert issubclass(kind, ProxyfabError)
    with pytest.raises(BUILT_IN[name], match="a sentence"):
        raise kind("a sentence")


@pytest.mark.parametrize("kind", ALL, ids=by_name)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_each_pickles_whole(kind: type[ProxyfabError], protocol: int) -> None:
    error = kind(SENTENCE)
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error, protocol))

    assert type(again) is kind
    assert str(again) == str(error) == SENTENCE
    assert again.args == error.args
    assert again.__notes__ == ["a note"]
    assert str(copy.copy(error)) == str(copy.deepcopy(error)) == SENTENCE


@pytest.mark.parametrize("kind", ALL, ids=by_name)
def test_each_says_what_it_means(kind: type[ProxyfabError]) -> None:
    assert kind.__doc__
    assert repr(kind(SENTENCE)) == f"{kind.__name__}({SENTENCE!r})"


@pytest.mark.parametrize("kind", ALL, ids=by_name)
def test_each_is_made_by_its_own_new(kind: type[ProxyfabError]) -> None:
    """As packages do that make errors anew beside their tracebacks."""
    made = kind.__new__(kind, SENTENCE)

    assert made.args == (SENTENCE,)
    assert type(made) is kind


def test_an_empty_error_pickles_too() -> None:
    assert [type(pickle.loads(pickle.dumps(kind()))) for kind in ALL] == ALL


def test_each_crosses_to_another_process_and_back() -> None:
    back = run(roles.give_back, [kind(SENTENCE) for kind in ALL])

    assert [(type(error), str(error)) for error in back] == [(kind, SENTENCE) for kind in ALL]


def test_catching_the_root_catches_all() -> None:
    for kind in ALL:
        with pytest.raises(ProxyfabError):
            raise kind(SENTENCE)


def test_no_error_inherits_what_asks_for_more_than_a_sentence() -> None:
    """OSError and its kind change class or text by their number of arguments; ours have one."""
    assert type(errors.AccessDenied("a", "b")) is errors.AccessDenied
    assert str(errors.ConnectorError("one sentence")) == "one sentence"
