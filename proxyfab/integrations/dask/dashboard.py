"""A page in Dask's dashboard: what was kept off the scheduler and off sockets, and what lives now.

It is plain HTML that loads itself anew, at `/individual-proxyfab`, and the same as JSON with `?json`. So it can be
added to a scheduler that runs already, and needs no Bokeh; where Dask's own dashboard is on, it stands in its menu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from dask.utils import format_bytes
from distributed.http.utils import RequestHandler

from proxyfab.integrations.dask.figures import total
from proxyfab.integrations.dask.worker import NAME

PATH = "individual-proxyfab"
Counts = Callable[[], Mapping[str, float]]
_HELD = {
    "objects": "objects in the store",
    "bytes": "bytes in the store",
    "uses": "uses by tasks",
    "results": "results in the store",
    "evicted": "evicted",
    "failures": "failures of the store",
}
_MOVED = {
    "lent": "copied out by a peer",
    "lent_bytes": "bytes",
    "published": "through shared memory",
    "published_bytes": "bytes ",
    "received": "received",
    "received_bytes": "bytes  ",
    "fallbacks": "fallbacks to sockets",
    "lost": "lost",
    "live": "waiting",
    "live_bytes": "bytes waiting",
}


class Page(RequestHandler):  # type: ignore[misc]  # Dask has no types
    """What is known to the scheduler, as of the workers' last heartbeats."""

    def initialize(self, dask_server: Any = None, counts: Counts = dict) -> None:
        super().initialize(dask_server=dask_server)
        self.counts = counts

    def get(self, *_: str) -> None:
        told = known(self.server, self.counts)
        if "json" in self.request.query:
            self.write(told)
        else:
            self.write(_page(told))


def add_page(scheduler: Any, counts: Counts) -> None:
    """Add the page to a scheduler, which may be running.

    Args:
        scheduler: Dask's.
        counts: Tells what lies in the store.
    """
    words = {"dask_server": scheduler, "counts": counts}
    scheduler.http_application.add_handlers(".*", [(rf"(?:/.*)?/{PATH}", Page, words)])
    try:
        from distributed.dashboard.scheduler import template_variables
    except ImportError:  # no Bokeh, so no menu
        return
    plots = template_variables(scheduler)["plots"]
    if all(plot["url"] != PATH for plot in plots):
        plots.append({"url": PATH, "name": "Proxyfab"})


def known(scheduler: Any, counts: Counts) -> dict[str, Any]:
    """What the scheduler knows: of the store, and of each worker's transport."""
    workers = {address: dict(worker.metrics.get(NAME) or {}) for address, worker in scheduler.workers.items()}
    return {"scheduler": dict(counts()), "workers": workers, "total": total(workers.values())}


def _page(told: Mapping[str, Any]) -> str:
    rows = [("all workers", told["total"]), *sorted(told["workers"].items())]
    return _HTML.format(
        store=_table(_HELD, [("", told["scheduler"])]),
        transport=_table(_MOVED, rows),
    )


def _table(names: Mapping[str, str], rows: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in names.values())
    body = "".join(
        f"<tr><th>{escape(title)}</th>{''.join(f'<td>{_value(name, row)}</td>' for name in names)}</tr>"
        for title, row in rows
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _value(name: str, row: Mapping[str, float]) -> str:
    value = row.get(name, 0)
    return str(format_bytes(int(value))) if name.endswith("bytes") else f"{value:,.0f}"


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Dask: Proxyfab</title>
<style>body {{ font: 14px sans-serif; margin: 2em }} table {{ border-collapse: collapse; margin-bottom: 2em }}
th, td {{ padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd }} th {{ font-weight: 600 }}
</style></head>
<body><h2>Kept off the scheduler</h2>{store}<h2>Kept off sockets between workers</h2>{transport}</body></html>
"""
