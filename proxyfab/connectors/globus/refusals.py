"""Refusals: what the SDK raises and what the service says of a task, as proxyfab's errors with the service's reason.

Promises: each error names the reason in the service's words, the task's page where there is a task, and what to do; a
consent or a login that is missing comes with the command that mends it. No token is ever part of a message.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from proxyfab.errors import (
    AccessDenied,
    ConnectorError,
    ConsentRequired,
    CredentialsExpired,
    ProxyfabError,
    TransferFailed,
    TransferPaused,
    TransferStalled,
)

T = TypeVar("T")
Document = Mapping[str, Any]
_FINE = {"", "OK", "QUEUED"}


def asked(what: str, call: Callable[[], T]) -> T:
    """`call()`, whose failures come as proxyfab's."""
    import globus_sdk
    from globus_sdk.token_storage import TokenValidationError

    try:
        return call()
    except TokenValidationError as error:
        raise _no_login(f"Globus cannot be asked to {what}: {error}") from error
    except globus_sdk.GlobusAPIError as error:
        raise _refused(what, error) from error
    except globus_sdk.NetworkError as error:
        raise ConnectorError(
            f"Globus cannot be reached to {what} ({type(error).__name__}); objects that lie at this site can be read "
            "all the same."
        ) from error
    except (globus_sdk.GlobusError, ValueError) as error:  # of tokens that it does not expect it says ValueError
        raise ConnectorError(f"The SDK of Globus refuses to {what}: {error}") from error


def _refused(what: str, error: Any) -> ProxyfabError:
    said = f"{error.code}: {error.message}"
    consent = error.info.consent_required
    if consent:
        scopes = tuple(str(scope) for scope in consent.required_scopes or ())
        words = " ".join(f"--consent {shlex.quote(scope)}" for scope in scopes)
        wanted = ConsentRequired(
            f"Globus wants a consent before it can {what} ({said}); run: proxyfab globus login {words}"
        )
        wanted.scopes = scopes
        return wanted
    if error.http_status == 401:
        return _no_login(f"Globus does not accept this login to {what} ({said})")
    if error.http_status == 403:
        return AccessDenied(f"Globus refuses to {what} ({said}); look at the collection's permissions.")
    return ConnectorError(f"Globus failed to {what} (HTTP {error.http_status}, {said}).")


def _no_login(why: str) -> CredentialsExpired:
    return CredentialsExpired(f"{why}; run: proxyfab globus login")


def page(task_id: str) -> str:
    """The task's page in the web application."""
    return f"https://app.globus.org/activity/{task_id}"


def _of_task(kind: type[TransferFailed], task_id: str, code: str, sentence: str) -> TransferFailed:
    error = kind(f"{sentence} See {page(task_id)}")
    error.code, error.link = code, page(task_id)
    return error


def ended(task: Document) -> ProxyfabError | None:
    """Why a task is over and has not succeeded, or rests until somebody acts; None while it works or has succeeded."""
    id, status = task["task_id"], task["status"]
    if status == "FAILED":
        fatal = task.get("fatal_error") or {}
        code = fatal.get("code") or "unknown"
        return _of_task(
            TransferFailed,
            id,
            code,
            f"A transfer by Globus failed ({code}: {fatal.get('description') or 'no reason'}).",
        )
    if task.get("is_paused"):
        return _of_task(
            TransferPaused,
            id,
            "PAUSED",
            "A transfer by Globus is paused; ask who manages the collections to resume it.",
        )
    if status == "INACTIVE":
        return _no_login(f"A transfer by Globus waits for new credentials ({_nice(task)}, {page(id)})")
    return None


def ails(task: Document) -> bool:
    """Whether a task that is active reports an error; it may yet recover."""
    return task["status"] == "ACTIVE" and str(task.get("nice_status") or "").upper() not in _FINE


def stalled(task: Document, why: str) -> TransferFailed:
    """For a task that was cancelled because it got nowhere."""
    code = str(task.get("nice_status") or task["status"])
    return _of_task(TransferStalled, task["task_id"], code, f"A transfer by Globus {why} ({_nice(task)}).")


def skipped(task_id: str, path: str, code: str, details: str) -> TransferFailed:
    """For one file of many that a task passed over."""
    return _of_task(TransferFailed, task_id, code, f"Globus could not read {path} ({code}: {details}).")


def _nice(task: Document) -> str:
    details = task.get("nice_status_details") or task.get("nice_status_short_description")
    return ": ".join(str(word) for word in (task.get("nice_status") or task["status"], details) if word)
