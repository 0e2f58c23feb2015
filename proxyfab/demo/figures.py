"""Figures of the report, drawn with Matplotlib, as PNG bytes."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from proxyfab.demo.between.passage import Passage
from proxyfab.demo.between.plan import RATE, ROUND_TRIP
from proxyfab.demo.instrument import Instrument
from proxyfab.demo.pipeline import Outcome
from proxyfab.demo.result import Merit, stage_medians
from proxyfab.demo.stream.course import Course, Kill, Slice
from proxyfab.demo.tomography import line_integrals
from proxyfab.demo.trip import STAGES

Image = npt.NDArray[np.float32]
COLOURS = {"reference": "#0f766e", "value": "#b45309"}
STAGE_COLOURS = dict(zip(STAGES, ("#64748b", "#0f766e", "#b45309", "#cbd5e1", "#7c3aed", "#1d4ed8"), strict=True))
_INK, _FAINT = "#1e293b", "#94a3b8"
_KILL, _AGAIN = "#dc2626", "#f59e0b"
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.dpi": 110,
}


def draw(passes: Sequence[Outcome], originals: Mapping[int, Image], merit: Merit) -> dict[str, bytes]:
    """All figures by name: picture, montage, stages, throughput, timeline."""
    with _styled():
        return {
            "picture": _picture(passes[0], originals, merit),
            "montage": _montage(passes[0].pictures),
            "stages": _stages(passes),
            "throughput": _throughput(passes),
            "timeline": _timeline(passes[0]),
        }


@contextmanager
def _styled() -> Iterator[None]:
    """Our style, and a drawing backend that needs no display; the caller's settings come back."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def _figure(width: float, height: float, layout: str = "constrained") -> Any:
    """A figure outside of pyplot: nothing global is made, so nothing is left behind."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue()


def _picture(outcome: Outcome, originals: Mapping[int, Image], merit: Merit) -> bytes:
    """One frame from the slice to the error of its picture."""
    setup = outcome.setup
    frame = min(setup.frames - 1, 13) if setup.frames >= 24 else setup.frames // 2
    instrument = Instrument(setup)  # measures the same counts again: they depend on the seed and the frame alone
    counts = instrument.measure(frame)
    sinogram = line_integrals(counts, *instrument.calibrate())
    before, after = originals[frame], outcome.pictures[frame]
    error = after - before
    psnr = 10 * np.log10(1 / np.mean(error**2))
    figure = _figure(13.2, 4.0)
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1))
    _panel(axes[0], before, "Before: the real slice", f"{setup.size} x {setup.size}, attenuation", "gray", (0, 1.05))
    under = f"{setup.angles} angles x {setup.size} pixels, from {counts.min():,} to {counts.max():,} counts"
    _panel(axes[1], sinogram, "Measured: its sinogram", under, "magma", (0, float(sinogram.max())))
    axes[1].set_aspect("auto")
    axes[1].set_box_aspect(1)
    _panel(axes[2], after, "After: reconstructed", f"filtered back-projection, frame {frame + 1}", "gray", (0, 1.05))
    _panel(axes[3], error, "Error: after minus before", f"PSNR {psnr:.1f} dB", "RdBu_r", (-0.1, 0.1))
    note = f"all {len(originals)} slices: median PSNR {merit.psnr:.1f} dB, SSIM {merit.ssim:.3f}"
    figure.text(0.995, 0.01, note, ha="right", va="bottom", fontsize=9, color=_FAINT)
    return _png(figure)


def _panel(axes: Any, image: Image, title: str, under: str, colours: str, limits: tuple[float, float]) -> None:
    drawn = axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="lanczos")
    axes.set_title(title)
    axes.set_xlabel(under, fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0)


def _montage(pictures: Mapping[int, Image]) -> bytes:
    """All pictures in one, as the main process assembled them."""
    edge = max(next(iter(pictures.values())).shape[0] // 160, 1)
    small = [picture[::edge, ::edge] for _, picture in sorted(pictures.items())]
    columns = min(12, len(small))
    rows = -(-len(small) // columns)
    height, width = small[0].shape
    sheet = np.zeros((rows * height, columns * width), np.float32)
    for place, picture in enumerate(small):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = picture
    figure = _figure(13.2, 13.2 * rows * height / (columns * width), "none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1.05)
    axes.set_axis_off()
    return _png(figure)


def _stages(passes: Sequence[Outcome]) -> bytes:
    """Median milliseconds per stage."""
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    names = [stage for stage in STAGES if stage != "wait"]
    thick = 0.8 / len(passes)
    for i, outcome in enumerate(passes):
        medians = stage_medians(outcome)
        places = np.arange(len(names)) + (i - (len(passes) - 1) / 2) * thick
        values = [1e3 * medians[name] for name in names]
        passing = outcome.setup.passing
        bars = axes.barh(places, values, thick * 0.92, color=COLOURS[passing], label=f"by {passing}")
        axes.bar_label(bars, [f" {value:.2f}" for value in values], fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds per frame (median, logarithmic)")
    axes.set_title("Time per stage")
    axes.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)
    return _png(figure)


def _throughput(passes: Sequence[Outcome]) -> bytes:
    """Pictures in place over time."""
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    for outcome in passes:
        times = [0.0, *(trip.collected - outcome.started for trip in outcome.trips)]
        rate = len(outcome.trips) / outcome.seconds
        label = f"by {outcome.setup.passing}: {rate:.1f} frames/s"
        axes.step(times, range(len(times)), where="post", color=COLOURS[outcome.setup.passing], lw=2, label=label)
    axes.set(xlabel="seconds since all processes were ready", ylabel="pictures in place", title="Throughput")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=9, loc="upper left")
    return _png(figure)


def _spans(outcome: Outcome) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Per process and stage the (start, duration) of each time it was at it."""
    spans = defaultdict(list)
    for trip in outcome.trips:
        for who, stage, start, end in (
            ("instrument", "acquire", trip.begun, trip.measured),
            ("instrument", "store", trip.measured, trip.packed),
            (trip.worker, "load", trip.taken, trip.loaded),
            (trip.worker, "reconstruct", trip.loaded, trip.reconstructed),
            (trip.worker, "store", trip.reconstructed, trip.repacked),
            ("main", "load", trip.arrived, trip.collected),
        ):
            spans[who, stage].append((start - outcome.started, end - start))
    return spans


def _timeline(outcome: Outcome) -> bytes:
    """Who did what when."""
    rows = ["instrument", *sorted({trip.worker for trip in outcome.trips}), "main"]
    figure = _figure(13.2, 0.55 * len(rows) + 1.0)
    axes = figure.subplots()
    for (row, stage), spans in _spans(outcome).items():
        axes.broken_barh(spans, (rows.index(row) - 0.31, 0.62), color=STAGE_COLOURS[stage])
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set(xlim=(0, outcome.seconds), xlabel="seconds since all processes were ready")
    axes.set_title(f"Who did what when, by {outcome.setup.passing}")
    shown = ("acquire", "store", "load", "reconstruct")
    handles = [axes.barh(0, 0, color=STAGE_COLOURS[stage], label=stage) for stage in shown]
    axes.legend(handles=handles, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9)
    return _png(figure)


def course(course: Course) -> bytes:
    """The second act: who did which slice, where the kill was, and what came again."""
    kill, start = course.kill, course.started
    rows = ["instrument", *sorted({kill.worker, kill.replaced_by, *course.shares}), "main"]
    with _styled():
        figure = _figure(13.2, 0.55 * len(rows) + 1.0)
        axes = figure.subplots()
        for each in course.slices:
            exposed = (each.begun - start, each.measured - each.begun)
            axes.broken_barh([exposed], (rows.index("instrument") - 0.31, 0.62), color=STAGE_COLOURS["acquire"])
            _bar(axes, rows.index(each.worker), each.taken - start, each.reconstructed - start, each)
            axes.plot(each.collected - start, rows.index("main"), "|", ms=14, color=STAGE_COLOURS["load"])
        _killed(axes, rows.index(kill.worker), kill, start)
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set(xlim=(0, course.seconds * 1.01), xlabel="seconds since the first rotation began")
        axes.set_title(f"Who did which slice, and what {kill.worker}'s death changed")
        return _png(figure)


def _bar(axes: Any, row: int, begin: float, end: float, what: Slice) -> None:
    """A slice under work, with its number."""
    again = {"edgecolor": _AGAIN, "linewidth": 1.8} if what.attempt > 1 else {"edgecolor": "white", "linewidth": 0.3}
    colour = STAGE_COLOURS["reconstruct"] if what.first else _FAINT
    axes.broken_barh([(begin, end - begin)], (row - 0.31, 0.62), facecolor=colour, **again)
    axes.text(
        (begin + end) / 2, row, str(what.frame), ha="center", va="center", fontsize=6, color="white", clip_on=True
    )


def _killed(axes: Any, row: int, kill: Kill, start: float) -> None:
    """Where a worker ended, and what it was at."""
    begin, end = kill.taken - start, kill.at - start
    axes.broken_barh([(begin, max(end - begin, 0.01))], (row - 0.31, 0.62), color=_KILL)
    axes.axvline(end, color=_KILL, lw=1, ls=":")
    axes.plot(end, row, "x", ms=9, mew=2.5, color=_KILL)
    axes.annotate(f"SIGKILL at frame {kill.frame}", (end, row), (8, 0), textcoords="offset points", va="center",
                  fontsize=9, color=_KILL)  # fmt: skip


def passage(passage: Passage) -> bytes:
    """The third act: MB/s over the link, and rotations and pictures, over time, with the cut."""
    times, rates = passage.throughput()
    began, ended = (moment - passage.started for moment in passage.cut[:2])
    with _styled():
        figure = _figure(13.2, 6.0)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for axes in (above, below):
            axes.axvspan(began, ended, color=_KILL, alpha=0.12, lw=0)
            axes.set(xlim=(0, passage.seconds * 1.01))
            axes.tick_params(labelsize=11)
        top = 1.15 * max(rates)
        above.stairs(rates, [*times, 2 * times[-1] - times[-2]], fill=True, color=COLOURS["reference"])
        above.set(ylim=(0, top))
        above.text((began + ended) / 2, top / 2, f"link cut\n{ended - began:.1f} s", ha="center", va="center",
                   fontsize=14, fontweight="bold", color=_KILL)  # fmt: skip
        above.set_ylabel("MB/s over the link", fontsize=12)
        way = f"a link of {RATE / 1e6:.0f} Mbit/s and {1e3 * ROUND_TRIP:.0f} ms"
        above.set_title(f"Throughput from aps to alcf, over {way}", fontsize=13)
        _backlog(below, passage)
        return _png(figure)


def _backlog(axes: Any, passage: Passage) -> None:
    """How many slices were measured, were at the other site, and were pictures, over time."""
    once = [each for each in passage.slices if each.first]
    for points, label, colour in (
        ([each.measured for each in once], "measured at aps", COLOURS["value"]),
        ([each.loaded for each in once], "fetched at alcf", COLOURS["reference"]),
        ([each.collected for each in once], "reconstructed", STAGE_COLOURS["reconstruct"]),
    ):
        times = [0.0, *sorted(point - passage.started for point in points), passage.seconds]
        axes.step(times, [*range(len(times) - 1), len(once)], where="post", color=colour, lw=2, label=label)
    axes.set(ylim=(0, 1.05 * passage.frames))
    axes.set_ylabel("slices", fontsize=12)
    axes.set_xlabel("seconds since the first rotation began", fontsize=12)
    axes.legend(fontsize=11, loc="lower right")
