"""The HTTP side: which request is answered how, and which never is.

    with GlobusServer({"aaaa": tmp_path / "a", "bbbb": tmp_path / "b"}) as server:
        os.environ.update(server.environment)       # the SDK, and proxyfab's account, now talk to it
        server.faults.outcome = "fail"

Speaks `POST /v2/oauth2/token`, what a person's login needs (`grants`) and, under `/v0.10`, `submission_id`,
`transfer`, `delete`, `task_list`, `task/<id>` with `cancel` and `skipped_errors`, `endpoint/<id>`, and
`operation/endpoint/<id>/stat`. Everything else is a 404.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import re
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from proxyfab.testing.globus.grants import ALL, Grants, Refusal
from proxyfab.testing.globus.tasks import Document, Faults, Tasks

_SECRET = "not-a-secret"


class GlobusServer:
    """The server, in threads of this process.

    Attributes:
        faults: What goes wrong.
        requests: `METHOD /path` of every request.

    Args:
        collections: Directories by collection; a path on the collection is a path under it.
        seconds: How long a task takes.
        slots: Tasks that are worked on at a time.
    """

    def __init__(self, collections: dict[str, Path], *, seconds: float = 0.05, slots: int = 3) -> None:
        self.collections = collections
        self.faults = Faults()
        self.requests: list[str] = []
        self.tasks = Tasks(self.faults, seconds, slots)
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.globus = self
        self._url = f"http://127.0.0.1:{self._http.server_address[1]}/"
        self._grants = Grants(self._url)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> GlobusServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and working."""
        self._http.shutdown()
        self._http.cut()
        self._http.server_close()
        self._thread.join(10)
        self.tasks.close()

    @property
    def environment(self) -> dict[str, str]:
        """What sends the SDK here, as a service with credentials."""
        return {
            "GLOBUS_SDK_SERVICE_URL_AUTH": self._url,
            "GLOBUS_SDK_SERVICE_URL_TRANSFER": self._url,
            "PROXYFAB_GLOBUS_CLIENT_ID": str(uuid.UUID(int=1)),
            "PROXYFAB_GLOBUS_CLIENT_SECRET": _SECRET,
        }

    def expire_tokens(self) -> None:
        """Every token that was given out counts no more."""
        self._grants.expire()

    def agree(self, scopes: str) -> str:
        """The code that a browser shows a person who agrees."""
        return str(self._grants.authorize({"scope": scopes})["code"])

    def answer(self, method: str, path: str, body: bytes, token: str) -> Document:
        """The answer to one request.

        Raises:
            Refusal: It is not 200.
        """
        where = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(where.query).items()}
        if where.path == "/v2/oauth2/token":
            return self._grants.grant({name: values[0] for name, values in parse_qs(body.decode()).items()})
        if where.path == "/v2/oauth2/authorize":
            return self._grants.authorize(query)
        if where.path == "/.well-known/openid-configuration":
            return self._grants.configuration()
        if where.path == "/jwk.json":
            return self._grants.keys()
        if token not in self._grants.scopes:
            raise Refusal(401, "AuthenticationFailed")
        for (verb, pattern), call in _ROUTES.items():
            match = re.fullmatch(f"/v0.10/{pattern}", where.path)
            if match and verb == method:
                document = json.loads(body) if body else {}
                answer: Document = call(self, *match.groups(), query=query, document=document, token=token)
                return answer
        raise Refusal(404, "ClientError.NotFound")

    def _path(self, collection: str, path: str) -> Path:
        if collection not in self.collections:
            raise Refusal(404, "EndpointNotFound")
        return self.collections[collection] / path.lstrip("/")

    def _submission_id(self, **_: object) -> Document:
        return {"DATA_TYPE": "submission_id", "value": str(uuid.uuid4())}

    def _submit(self, document: Document, token: str, **_: object) -> Document:
        deletes = document["DATA_TYPE"] == "delete"
        ends = (
            [document["endpoint"]] * 2 if deletes else [document["source_endpoint"], document["destination_endpoint"]]
        )
        for collection in self.faults.consent.intersection(ends):
            scope = f"{ALL}[*https://auth.globus.org/scopes/{collection}/data_access]"
            if not self.faults.grants_consents or "data_access" not in self._grants.scopes[token]:
                raise Refusal(403, "ConsentRequired", required_scopes=[scope])
        pairs: list[tuple[Path | None, Path, str]] = []
        for item in document["DATA"]:
            if deletes:
                pairs.append((None, self._path(ends[0], item["path"]), item["path"]))
            else:
                source = self._path(ends[0], item["source_path"])
                pairs.append((source, self._path(ends[1], item["destination_path"]), item["source_path"]))
        deadline = datetime.datetime.fromisoformat(document["deadline"]).timestamp()
        kept = {"label": document["label"], "submission_id": document["submission_id"]}
        kept |= {"type": "DELETE" if deletes else "TRANSFER", "destination_endpoint_id": ends[1]}
        return kept | self.tasks.submit(kept, pairs, deadline)

    def _task_list(self, query: dict[str, str], **_: object) -> Document:
        wanted = dict(part.split(":", 1) for part in query.get("filter", "").split("/") if part)
        found = [work.document for work in self.tasks.all.values()]
        for name, values in wanted.items():
            found = [document for document in found if document[name] in values.split(",")]
        return {"DATA_TYPE": "task_list", "DATA": [dict(document) for document in found]}

    def _cancel(self, id: str, **_: object) -> Document:
        self.tasks.cancel(id)
        return {"DATA_TYPE": "result", "code": "Canceled"}

    def _skipped(self, id: str, **_: object) -> Document:
        return {"DATA_TYPE": "skipped_errors", "DATA": self.tasks.all[id].errors, "next_marker": None}

    def _endpoint(self, id: str, **_: object) -> Document:
        self._path(id, "/")
        kind = "GCSv5_mapped_collection" if id in self.faults.consent else "GCSv5_guest_collection"
        return {"DATA_TYPE": "endpoint", "id": id, "entity_type": kind, "high_assurance": False}

    def _stat(self, id: str, query: dict[str, str], **_: object) -> Document:
        path = self._path(id, query["path"])
        if not path.is_file():
            raise Refusal(404, "NotFound")
        return {"DATA_TYPE": "file", "name": path.name, "type": "file", "size": path.stat().st_size}


_ROUTES: dict[tuple[str, str], Any] = {
    ("GET", "submission_id"): GlobusServer._submission_id,
    ("POST", "(?:transfer|delete)"): GlobusServer._submit,
    ("GET", "task_list"): GlobusServer._task_list,
    ("POST", "task/([^/]+)/cancel"): GlobusServer._cancel,
    ("GET", "task/([^/]+)/skipped_errors"): GlobusServer._skipped,
    ("GET", "endpoint/([^/]+)"): GlobusServer._endpoint,
    ("GET", "operation/endpoint/([^/]+)/stat"): GlobusServer._stat,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    globus: GlobusServer

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self._open.add(accepted)
        return accepted, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def cut(self) -> None:
        """End every connection."""
        for each in list(self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        globus = self.server.globus
        path = urlsplit(self.path).path
        globus.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        replies = globus.faults.replies
        rule = next((each for each in replies if each[0] in path), None)
        if rule is not None:
            replies.remove(rule)
        if globus.faults.down:
            self.close_connection = True
            return
        status = 200
        answer: Document = {}
        if rule is not None and rule[1]:
            status, answer = rule[1], {"code": "Fault", "message": "as asked for"}
        else:
            try:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                answer = globus.answer(self.command, self.path, body, token)
            except Refusal as refusal:
                status, answer = refusal.status, refusal.body
        if rule is not None and not rule[1]:
            self.close_connection = True
        else:
            self._reply(status, answer)

    do_POST = do_GET

    def _reply(self, status: int, answer: Document) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(text)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """By the service's clock."""
        return email.utils.formatdate((timestamp or time.time()) + self.server.globus.faults.skew, usegmt=True)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
