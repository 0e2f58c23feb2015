"""The report: one HTML file that holds everything: pictures, figures, numbers, what is real and what is computed."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from proxyfab.demo.result import Result, busy, machine, versions
from proxyfab.demo.result import figures as numbers
from proxyfab.demo.summary import (
    size,
    table_of_passes,
    table_of_sites,
    table_of_stream,
    verdict_of_sites,
    verdict_of_stream,
)
from proxyfab.demo.trip import STAGES

_CSS = """
:root { --ink: #1e293b; --faint: #64748b; --line: #e2e8f0; --paper: #fff; --ground: #f8fafc; --accent: #0f766e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 40px 0 12px; }
p { margin: 0 0 12px; max-width: 78ch; }
.lead { color: var(--faint); font-size: 17px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 24px 0; }
.tile, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; color: var(--accent); font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: 14px; }
.card { margin: 0 0 16px; } .card img { display: block; width: 100%; height: auto; }
.dark { background: #000; border-color: #000; padding: 8px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px; }
figure { margin: 0; } figcaption { color: var(--faint); font-size: 14px; margin-top: 8px; }
.dark figcaption { color: #94a3b8; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--faint); font-weight: 600; }
code { font: 14px ui-monospace, monospace; background: #eef2f7; padding: 1px 5px; border-radius: 4px; }
.flow { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; font-size: 13px; line-height: 1.4; }
.flow div { border: 1px solid var(--line); border-radius: 8px; padding: 7px 10px; background: var(--ground); }
.flow i { color: var(--faint); font-style: normal; }
"""


def render(result: Result, drawn: Mapping[str, bytes]) -> str:
    """The whole page."""
    body = "\n".join(
        (
            _head(result),
            _tiles(result),
            _figure(drawn["picture"], "card", _picture_caption(result)),
            _figure(drawn["montage"], "card dark", "All slices, as the main process assembled them."),
            _flow(result),
            "<h2>With and without references</h2>",
            f'<div class="card">{_table(*table_of_passes(result.passes))}</div>',
            f'<div class="two">{_figure(drawn["stages"])}{_figure(drawn["throughput"])}</div>',
            _figure(drawn["timeline"]),
            _stream(result, drawn),
            _sites(result, drawn),
            "<h2>The stages</h2>",
            f'<div class="card">{_table(("stage", "what it is"), STAGES.items(), plain=True)}</div>',
            "<h2>What ran, what is real, what is computed</h2>",
            f'<div class="card">{_honesty(result)}</div>',
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>proxyfab: a scan by reference</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _head(result: Result) -> str:
    setup = result.passes[0].setup
    return f"""<h1>A tomography scan, streamed by reference</h1>
<p class="lead">{setup.frames} rotations of {setup.angles} &times; {setup.size} counts went from an instrument process
through a dispatcher to {setup.workers} reconstructing workers, and back as pictures. The dispatcher saw references; the
bytes moved once, through the store.</p>"""


def _tiles(result: Result) -> str:
    first = numbers(result.passes[0])
    tiles = [
        (f"{first['frames_per_second']:.1f} /s", "frames, measured to reconstructed"),
        (size(first["control_bytes"]), "through control flow, by reference"),
    ]
    if len(result.passes) > 1:
        second = numbers(result.passes[1])
        tiles.append((size(second["control_bytes"]), "through control flow, by value"))
        ratio = second["control_bytes"] / first["control_bytes"]
        tiles.append((f"{ratio:,.0f} &times;", "fewer bytes through control flow"))
    tiles.append((f"{result.merit.psnr:.1f} dB", f"median PSNR, SSIM {result.merit.ssim:.3f}"))
    boxes = "".join(f'<div class="tile"><b>{figure}</b><span>{what}</span></div>' for figure, what in tiles)
    return f'<div class="tiles">{boxes}</div>'


def _picture_caption(result: Result) -> str:
    same = {True: " Both passes gave the same pictures, bit for bit.", False: " The two passes differ!", None: ""}
    return (
        f"One frame all the way. Worst PSNR over {result.slices} slices {result.merit.worst_psnr:.1f} dB."
        f"{same[result.merit.identical]}"
    )


def _flow(result: Result) -> str:
    loaded = result.passes[0].reports["dispatcher"]["loaded"]
    without = "no NumPy in the process" if not loaded else f"has loaded {', '.join(loaded)}"
    steps = (
        ("instrument", "projects, counts, stores"),
        ("dispatcher", f"routes; {without}"),
        (f"{result.passes[0].setup.workers} workers", "load, reconstruct, store"),
        ("dispatcher", "routes back"),
        ("main process", "assembles"),
    )
    boxes = "<i>→</i>".join(f"<div><b>{name}</b><br>{does}</div>" for name, does in steps)
    note = "<p>Each arrow is a message of some hundred bytes that holds a reference.</p>"
    return f'<h2>The way of a frame</h2><div class="card">{note}<div class="flow">{boxes}</div></div>'


def _stream(result: Result, drawn: Mapping[str, bytes]) -> str:
    """The second act."""
    if result.course is None:
        return _not_run("The second act", verdict_of_stream(result)) if result.without else ""
    kill = result.course.kill
    return f"""<h2>The second act: a stream, and a worker killed in it</h2>
<p>The same scan once more. There is no dispatcher: the instrument sends each rotation as an event to a topic at
<code>{escape(result.course.broker)}</code>, workers share them as members of a group, and acknowledge a slice when the
broker has the event of its picture. While {kill.worker} worked on frame {kill.frame} it was killed with SIGKILL, and
{kill.replaced_by} was started. What {kill.worker} had not acknowledged came again to the others.
<b>{escape(verdict_of_stream(result))}</b></p>
{_figure(drawn["course"], caption="Outlined: delivered more than once. Red: what was under work at the kill.")}
<div class="card">{_table(("", ""), table_of_stream(result.course))}</div>"""


def _sites(result: Result, drawn: Mapping[str, bytes]) -> str:
    """The third act."""
    if result.passage is None:
        return _not_run("The third act", verdict_of_sites(result)) if result.apart else ""
    cut = result.passage.cut
    return f"""<h2>The third act: two facilities, and the link between them cut</h2>
<p>The same scan once more. The instrument stands at site <code>aps</code> and measures at its own pace, workers stand
at site <code>alcf</code>; between them lies an emulated link. Each site has a gateway, and a process speaks to that of
its own site only. The instrument's counts go into its gateway's memory; an event with a reference goes to the broker
at <code>alcf</code>; a worker resolves it through <em>its</em> gateway, which fetches the counts over the link. While
frame {cut.frame} was on its way the link was cut, without a word to either side, and healed
{cut.ended - cut.began:.1f} s later. Nobody was restarted. <b>{escape(verdict_of_sites(result))}</b></p>
{_figure(drawn["passage"], caption="All packets that came to alcf, each 0.25 s; below, the backlog and its end.")}
<div class="card">{_table(("", ""), table_of_sites(result.passage))}</div>"""


def _not_run(title: str, why: str) -> str:
    return f'<h2>{title}</h2><div class="card"><p>{escape(why)}</p></div>'


def _honesty(result: Result) -> str:
    setup = result.passes[0].setup
    voxels = " &times; ".join(map(str, result.shape))
    again = f"{setup.frames} frames repeat the slices with new noise." if setup.frames > result.slices else ""
    packages = ", ".join(f"{escape(name)} {escape(number)}" for name, number in versions().items())
    here = {name: escape(str(value)) for name, value in machine().items()}
    return f"""
<p><b>Real:</b> the specimen, <code>{escape(result.source)}</code>, a magnetic resonance scan of a human head of
{voxels} voxels, of which {result.slices} different slices were measured; the processes, messages, bytes and times;
and the reconstruction, which has nothing but the noisy counts.</p>
<p><b>Computed:</b> the measurement. Slices were resampled (cubic) to {setup.size} &times; {setup.size} pixels and
taken as X-ray attenuation. Their projections are line integrals by the Fourier slice theorem, made before the clock
starts; photons are counted with Poisson noise by a detector of uneven sensitivity, with dark and flat exposures. No
X-rays and no beamline were involved. {again}</p>
<p><b>The comparison:</b> the second pass is the same program with one switch thrown: the body of a message is the
pickled array in place of a pickled reference. Both have the same processes, channels, frames and noise. Bytes are
counted at every channel, each hop once. Times are those of this one run, and other work on the machine shows in
them. <b>{busy()}</b></p>{_second(result)}{_third(result)}
<p><b>Machine:</b> {here["system"]}, {here["processor"]}, {here["cores"]} cores, Python {here["python"]};
{packages}. The references pointed into <code>{escape(setup.store)}</code>. The whole run took {result.seconds:.1f}
s.</p>"""


def _second(result: Result) -> str:
    if result.course is None:
        return ""
    return f"""
<p><b>The second act:</b> real processes, a real broker, a real kill. Bytes at the broker are those of its records, with
references and what is said of each event; acknowledgements and what the protocol adds are not among them. Bytes moved
count the arrays of {len(result.course.slices)} pictures and of the counts behind them; what the killed worker had
fetched and not finished is not known, and not counted. Rate and time begin with the first rotation and hold the pause
until what the dead worker held comes again.</p>"""


def _third(result: Result) -> str:
    if result.passage is None:
        return ""
    return """
<p><b>The third act:</b> real processes, gateways and TCP in network namespaces of this machine. The link is a program:
it passes packets on at its rate, after its delay, or not at all. It was never checked between two real facilities.
Packets are counted at the link's two ends, with events and what TCP and TLS add. The instrument's pace is set, so that
the scan has a middle to be cut.</p>"""


def _figure(png: bytes, style: str = "card", caption: str = "") -> str:
    image = f'<img alt="{escape(caption or "figure")}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return f'<figure class="{style}">{image}{f"<figcaption>{escape(caption)}</figcaption>" if caption else ""}</figure>'


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]], *, plain: bool = False) -> str:
    style = ' style="text-align:left"' if plain else ""
    top = "".join(f"<th{style}>{escape(str(cell))}</th>" for cell in head)
    lines = ("".join(f"<td{style}>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
