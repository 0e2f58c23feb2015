"""Service: the few requests that are made of Globus Transfer, each with its failures translated.

Promises: a task is submitted under an id that the caller has, and has written down, so that submitting again after a
crash or a lost reply makes no second task. Deadlines are told by the service's clock. Not thread-safe, as the SDK is
not: one courier uses it.
"""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from proxyfab.connectors.globus.account import Account, open_account
from proxyfab.connectors.globus.refusals import Document, asked
from proxyfab.errors import ConsentRequired

T = TypeVar("T")


class Job(NamedTuple):
    """What one task is to do: copy files between two collections or, without a source, delete them."""

    id: str
    """The submission's."""
    source: str
    target: str
    files: tuple[tuple[str, str], ...]
    """Paths at the source and at the target; `""` for the source of a deletion."""
    label: str
    seconds: float
    """Until the service gives up."""


class Service:
    """Globus Transfer, opened at first use."""

    def __init__(self) -> None:
        self._account: Account | None = None
        self._ahead = 0.0

    def submission_id(self) -> str:
        """An id for one task; hears the service's clock, too."""
        answer = self._ask("prepare a task", lambda client: client.get_submission_id())
        told = email.utils.parsedate_to_datetime(answer.headers.get("Date", email.utils.formatdate()))
        self._ahead = told.timestamp() - time.time()
        return str(answer["value"])

    def submit(self, job: Job) -> str:
        """The id of the task that does `job`: a new one, or the one that this submission made already."""
        from globus_sdk import DeleteData, TransferData

        quiet: dict[str, Any] = dict.fromkeys(("notify_on_succeeded", "notify_on_failed", "notify_on_inactive"), False)
        when = datetime.datetime.fromtimestamp(time.time() + self._ahead + job.seconds, datetime.UTC)
        quiet |= {"label": job.label, "submission_id": job.id, "deadline": when.isoformat(timespec="seconds")}
        if not job.source:
            deletion = DeleteData(job.target, ignore_missing=True, recursive=job.files[0][1].endswith("/"), **quiet)
            for _, path in job.files:
                deletion.add_item(path)
            return str(self._ask("delete", lambda client: client.submit_delete(deletion))["task_id"])
        data = TransferData(
            job.source, job.target, encrypt_data=True, verify_checksum=True, skip_source_errors=True, **quiet
        )
        for source, target in job.files:
            data.add_item(source, target)
        return str(self._ask("transfer", lambda client: client.submit_transfer(data))["task_id"])

    def tasks(self, ids: Sequence[str]) -> dict[str, Document]:
        """What the service says of these tasks, in one request."""
        wanted = f"task_id:{','.join(ids)}"
        answer = self._ask("look at tasks", lambda client: client.task_list(filter=wanted, limit=len(ids)))
        return {task["task_id"]: task for task in answer["DATA"]}

    def under_way(self, target: str, label: str) -> list[str]:
        """The tasks with this label that bring files to a collection now."""
        wanted = "status:ACTIVE,INACTIVE/type:TRANSFER"
        answer = self._ask("look for tasks", lambda client: client.task_list(filter=wanted, limit=100))
        return [
            task["task_id"]
            for task in answer["DATA"]
            if task.get("label") == label and task.get("destination_endpoint_id") == target
        ]

    def cancel(self, task_id: str) -> None:
        """End a task."""
        self._ask("cancel a task", lambda client: client.cancel_task(task_id))

    def passed_over(self, task_id: str) -> dict[str, tuple[str, str]]:
        """Paths at the source that a task could not read, with code and reason."""
        answer = self._ask("look at a task's errors", lambda client: client.task_skipped_errors(task_id))
        return {
            item["source_path"]: (item.get("error_code") or "unknown", item.get("error_details") or "no reason")
            for item in answer["DATA"]
        }

    def stat(self, collection: str, path: str) -> Document | None:
        """A file at a collection; None when there is none."""
        import globus_sdk

        def look(client: Any) -> Document | None:
            try:
                found: Document = client.operation_stat(collection, path=path).data
            except globus_sdk.GlobusAPIError as error:
                if error.http_status == 404:
                    return None
                raise
            return found

        return self._ask(f"look at {path}", look)

    def close(self) -> None:
        """Give connections back; the next request opens anew."""
        account, self._account = self._account, None
        if account is not None:
            account.close()

    def _ask(self, what: str, call: Callable[[Any], T]) -> T:
        if self._account is None:
            self._account = open_account()
        account = self._account
        try:
            return asked(what, lambda: call(account.client))
        except ConsentRequired as wanted:
            if not account.service:
                raise
            self._consent(account, wanted)
        return asked(what, lambda: call(account.client))

    def _consent(self, account: Account, wanted: ConsentRequired) -> None:
        """A service gives itself the consents that it may give; nobody is prompted."""
        from globus_sdk.gare import GlobusAuthorizationParameters

        scopes = GlobusAuthorizationParameters(required_scopes=list(wanted.scopes))
        asked("consent", lambda: account.app.login(auth_params=scopes))
