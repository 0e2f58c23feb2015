"""The demonstration as a whole: the same scan by reference, by value, as a stream, between facilities; and a report."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from proxyfab.demo.between.passage import Passage
from proxyfab.demo.pipeline import Outcome, Pipeline
from proxyfab.demo.result import Merit, Result
from proxyfab.demo.role import now
from proxyfab.demo.setup import Passing, Setup
from proxyfab.demo.stream.course import Course
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, MissingDependency
from proxyfab.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

AUTO = "nats://auto"
_NEEDED = ("numpy", "scipy", "nibabel", "skimage", "matplotlib")
Tell = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done and how much there is."""


def run(
    *,
    frames: int = 48,
    size: int = 512,
    workers: int = 2,
    out: str | Path = "demo",
    store: str = "shm://",
    compare: bool = True,
    stream: bool = True,
    broker: str = AUTO,
    sites: bool = True,
    deadline: float = 30.0,
    tell: Tell | None = None,
) -> Result:
    """Stream a tomography scan of a real volume through the fabric and write `report.html` and `report.png`.

    Args:
        frames: Rotations to measure, each of one slice.
        size: Detector pixels, and pixels along the edge of a picture; even, 32 to 2048.
        workers: Processes that reconstruct.
        out: Directory for the report; made if it is not there.
        store: URL of the store that references point into.
        compare: Run the same scan a second time with the arrays themselves in the messages.
        stream: Run the second act: the same scan as a stream, with a worker killed in the middle.
        broker: URL of its broker; by default this machine's own NATS, which is started for it.
        sites: Run the third act: the same scan between two emulated facilities, with the link cut for five seconds.
            Where that cannot be, as for everybody but root, the result says why.
        deadline: Seconds that any process waits for another.
        tell: Hears of progress.

    Raises:
        MissingDependency: The packages of the extra `demo` are not there.
        ConfigurationError: An argument makes no sense.
        DemoError: A process failed.
        AccessDenied: The report cannot be written.
    """
    begun = now()
    tell = tell or _nobody
    setup = _checked(Setup(frames, size, 3 * size // 2, workers, store=store, deadline=deadline))
    if stream:
        _check_broker(broker)
    folder = _writable(Path(out))
    passes = [_one_pass(setup, "reference", tell)]
    if compare:
        passes.append(_one_pass(setup, "value", tell))
    course, without = _second_act(setup, broker, tell) if stream else (None, "")
    passage, apart = _third_act(setup, tell) if sites else (None, "")
    return _written(Acts(passes, course, without, passage, apart), folder, begun, tell)


def _check_broker(url: str) -> None:
    """Whether it can be, before the work is done rather than after; what is missing is told in the report."""
    from proxyfab.demo.stream.act import own_broker  # here, because it needs NumPy

    with suppress(MissingDependency), own_broker(url) as broker:
        if url != AUTO:  # which is started when it is needed
            broker.ping()


def _second_act(setup: Setup, broker: str, tell: Tell) -> tuple[Course | None, str]:
    """How the second act went; or nothing, and why it could not be."""
    from proxyfab.demo.stream.act import perform  # here, because it needs NumPy

    tell("as a stream", 0, setup.frames)
    try:
        return perform(setup, broker, lambda done, total: tell("as a stream", done, total)), ""
    except MissingDependency as error:
        return None, str(error)


def _third_act(setup: Setup, tell: Tell) -> tuple[Passage | None, str]:
    """How the third act went; or nothing, and why it could not be."""
    from proxyfab.demo.between.act import perform  # here, because it needs NumPy
    from proxyfab.demo.between.place import facilities, lacking

    why = lacking()
    if why:
        return None, why
    what = "between sites"
    tell(what, 0, setup.frames)
    with ExitStack() as ends:
        try:
            world = ends.enter_context(facilities())
        except (ConfigurationError, ConnectorError) as error:  # a host that has all of it, and does not allow it
            return None, str(error).rstrip(".")
        return perform(setup, world, lambda done, total: tell(what, done, total)), ""


def _nobody(_what: str, _done: int, _total: int) -> None:
    """Hears of progress and does nothing."""


def _one_pass(setup: Setup, passing: Passing, tell: Tell) -> Outcome:
    """One scan. The store belongs to this process, so it is gone with it whatever happens to the others."""
    what = f"by {passing}"
    tell(what, 0, setup.frames)
    with Store(setup.store) as store, Pipeline(setup.at(store.url).by(passing)) as pipeline:
        try:
            return pipeline.run(lambda done, total: tell(what, done, total))
        finally:
            store.clear()  # now, not at exit: whoever calls this may live on


class Acts(NamedTuple):
    """What there is to report; fields as those of Result."""

    passes: list[Outcome]
    course: Course | None
    without: str
    passage: Passage | None
    apart: str


def _written(acts: Acts, folder: Path, begun: float, tell: Tell) -> Result:
    """Compare with the specimen, draw, write."""
    # Here, because whoever only wants to know what the demonstration is need not have the packages it runs on.
    from proxyfab.demo import figures, page
    from proxyfab.demo.specimen import Specimen

    tell("report", 0, 1)
    passes, course, passage = acts.passes, acts.course, acts.passage
    setup, pictures = passes[0].setup, passes[0].pictures
    specimen = Specimen(setup.size)
    program = specimen.slices(setup.frames)
    originals = {frame: specimen.image(which) for frame, which in enumerate(program[: len(pictures)])}
    merit = _merit(originals, passes)
    drawn = figures.draw(passes, originals, merit)
    picture, report, throughput = folder / "report.png", folder / "report.html", ""
    if course is not None:
        merit = replace(merit, streamed=_same(pictures, course.pictures))
        drawn["course"] = figures.course(course)
    if passage is not None:
        merit = replace(merit, carried=_same(pictures, passage.pictures))
        drawn["passage"] = figures.passage(passage)
        throughput = str(folder / "throughput.png")
        Path(throughput).write_bytes(drawn["passage"])
    result = Result(
        specimen.source, specimen.shape, len(set(program)), passes, merit, now() - begun, str(report), str(picture),
        course, acts.without, passage, acts.apart, throughput,
    )  # fmt: skip
    picture.write_bytes(drawn["picture"])
    report.write_text(page.render(result, drawn), encoding="utf-8")
    tell("report", 1, 1)
    return result


def _merit(originals: Mapping[int, npt.NDArray[np.float32]], passes: list[Outcome]) -> Merit:
    import numpy as np
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    pictures = passes[0].pictures
    psnr = [peak_signal_noise_ratio(image, pictures[frame], data_range=1) for frame, image in originals.items()]
    ssim = [structural_similarity(image, pictures[frame], data_range=1) for frame, image in originals.items()]
    identical: bool | None = None
    if len(passes) > 1:
        identical = _same(pictures, passes[1].pictures)
    return Merit(float(np.median(psnr)), float(np.median(ssim)), float(min(psnr)), identical)


def _same(some: Mapping[int, Any], others: Mapping[int, Any]) -> bool:
    """Whether they are the same pictures, bit for bit."""
    return some.keys() == others.keys() and all(some[frame].tobytes() == others[frame].tobytes() for frame in some)


def _checked(setup: Setup) -> Setup:
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingDependency(
            f"The demonstration needs {', '.join(missing)}: run `pip install 'proxyfab[demo]'` and try again."
        )
    for name, value, low, high in (
        ("frames", setup.frames, 1, 100_000),
        ("size", setup.size, 32, 2048),
        ("workers", setup.workers, 1, 64),
        ("deadline", setup.deadline, 0.1, 86_400),
    ):
        if not low <= value <= high:
            raise ConfigurationError(f"{name} is {value}; it must lie between {low} and {high}.")
    if setup.size % 2:
        raise ConfigurationError(f"size is {setup.size}; it must be even.")
    if setup.store.startswith("memory:"):
        raise ConfigurationError("memory:// is private to one process; the demonstration runs in several. Use shm://.")
    return setup


def _writable(folder: Path) -> Path:
    """The directory, found to be writable before the work is done rather than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AccessDenied(
            f"The report cannot be written to {folder}: {error.strerror}. Choose another with --out."
        ) from error
    return folder
