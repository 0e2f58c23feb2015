"""How objects become payloads: nothing large is copied, pickle before cloudpickle, and errors that say what to do."""

import functools
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, IntegrityError, MissingDependency, SerializationError
from proxyfab.serialize import dumps, loads, pickling, register, table
from proxyfab.serialize.rows import rows_of
from proxyfab.testing.interrupts import Interrupt
from proxyfab.wire.payload import Payload, decode, encode
from tests.serialize.models import Sample, Slotted, Stubborn

LARGE = 32 << 20
ROOT = Path(__file__).parents[2]
loads(dumps(pl.Series([1])))  # polars opens descriptors of its own once, which is no leak


def wire(payload):
    return decode(Frames([encode(payload, checksum=True).tobytes()]))


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", ["top", "fortran", "in a dict", "in a dataclass", "masked", "pandas", "xarray", "bytes"]
)
def test_large_buffers_are_not_copied_on_either_way(shape):
    array = np.zeros(LARGE // 8).reshape(64, -1)
    objects = {
        "top": lambda: array,
        "fortran": lambda: array.T,
        "in a dict": lambda: {"a": [array]},
        "in a dataclass": lambda: Sample("s", array),
        "masked": lambda: np.ma.array(array, mask=False, shrink=False),
        "pandas": lambda: pytest.importorskip("pandas").DataFrame(array, copy=False),
        "xarray": lambda: pytest.importorskip("xarray").DataArray(array),
        "bytes": lambda: memoryview(array).cast("B"),
    }
    obj = objects[shape]()
    received = [encode(dumps(obj), checksum=False).tobytes()]
    loads(decode(Frames(received)))  # imports what it needs
    tracemalloc.start()
    try:
        frames = encode(dumps(obj), checksum=True)
        assert frames.nbytes >= LARGE
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        del frames
        tracemalloc.reset_peak()
        back = loads(decode(Frames(received)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        del back
    finally:
        tracemalloc.stop()


def test_a_slice_is_copied_once():
    array = np.zeros((64, LARGE // 512))[:, ::2]
    dumps(array)
    tracemalloc.start()
    try:
        payload = dumps(array)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes + (1 << 20)
        assert payload.nbytes == array.nbytes
    finally:
        tracemalloc.stop()


def test_a_slice_of_an_arrow_table_does_not_take_its_parent_along():
    pa = pytest.importorskip("pyarrow")
    parent = pa.table({"a": np.zeros(LARGE // 8)})
    assert dumps(parent).nbytes >= LARGE
    assert dumps(parent.slice(5, 10)).nbytes < 1000


@pytest.mark.parametrize("obj", [np.arange(5000.0), np.ma.array([1.0] * 5000, mask=[0] * 5000), np.float64(2)])
def test_arrays_come_back_read_only(obj):
    back = loads(wire(dumps(obj)))
    if isinstance(back, np.ndarray):
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 1
    assert not loads(wire(dumps({"a": np.arange(5000)})))["a"].flags.writeable


def test_arrays_are_aligned():
    back = loads(wire(dumps([np.arange(n + 200.0) for n in range(5)])))
    base = min(array.ctypes.data for array in back)
    assert all((array.ctypes.data - base) % 64 == 0 for array in back)


def test_small_buffers_stay_in_the_stream():
    assert len(dumps({"a": np.arange(10)}).buffers) == 1
    assert len(dumps({"a": np.arange(1000)}).buffers) == 2


# -- pickle and cloudpickle --------------------------------------------------------------------------------------------


def test_what_pickle_can_do_is_left_to_pickle():
    payload = dumps(Sample("a"))
    assert (payload.codec, payload.type) == ("pickle", "tests.serialize.models:Sample")


def test_lambdas_and_local_classes_go_by_value():
    class Local:
        value = 3

    assert dumps(Local()).codec == "cloudpickle"
    assert loads(wire(dumps(lambda x: x + 1)))(1) == 2
    assert loads(wire(dumps(Local()))).value == 3
    assert loads(wire(dumps({"a": np.arange(1000), "f": functools.partial(lambda a, b: a + b, 1)})))["f"](2) == 3


def test_what_a_script_defines_is_read_by_another(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom proxyfab.serialize import dumps\nfrom proxyfab.wire.payload import encode\n"
        "class Mine:\n    def __init__(self): self.x = 5\n    def double(self): return 2 * self.x\n"
        "sys.stdout.buffer.write(encode(dumps(Mine()), checksum=True).tobytes())\n"
    )
    written = subprocess.run([sys.executable, str(script)], capture_output=True, check=True, cwd=ROOT).stdout
    payload = decode(Frames([written]))
    assert (payload.codec, payload.type) == ("cloudpickle", "__main__:Mine")
    assert loads(payload).double() == 10


@pytest.mark.parametrize(
    ("obj", "path", "kind"),
    [
        (threading.Lock(), "", "_thread.lock"),
        ({"a": [1, {"b": threading.Lock()}]}, r"obj\['a'\]\[1\]\['b'\]", "_thread.lock"),
        (Sample("a", pixels=(1, threading.Lock())), r"obj\.pixels\[1\]", "_thread.lock"),
        (Slotted(1, threading.Lock()), r"obj\.second", "_thread.lock"),
        ((lambda lock: lambda: lock)(threading.Lock()), "obj<captured lock>", "_thread.lock"),
        ([(each for each in ())], r"obj\[0\]", "builtins.generator"),
    ],
)
def test_an_object_that_cannot_be_pickled_is_named(obj, path, kind):
    with pytest.raises(SerializationError, match=f"{path}.*") as caught:
        dumps(obj)
    assert kind in str(caught.value) or not path
    assert "register() a codec" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_missing_module_or_class_is_named_with_the_host_that_has_it():
    stream = pickle.dumps(Sample("a"), 5)
    for old, new, said in [
        (b"tests.serialize.models", b"tests.serialize.nodels", r"module 'tests\.serialize\.nodels'"),
        (b"Sample", b"Simple", r"class or function Simple of the module 'tests\.serialize\.models'"),
    ]:
        payload = Payload("pickle", "lab.images:Sample", None, [stream.replace(old, new)], "beamline7")
        with pytest.raises(SerializationError, match=said) as caught:
            loads(wire(payload))
        assert "beamline7" in str(caught.value)
        assert "lab.images.Sample" in str(caught.value)


def test_an_object_that_fails_to_come_back_tells_its_reason():
    with pytest.raises(SerializationError, match="RuntimeError: no way back"):
        loads(wire(dumps(Stubborn())))


@pytest.mark.parametrize("stream", [b"", b"\x80", b"nonsense", b"\x80\x05\x97.", pickle.dumps([1] * 100, 5)[:-5]])
def test_a_damaged_pickle_is_an_error_of_ours(stream):
    with pytest.raises(SerializationError):
        loads(Payload("pickle", "t:T", None, [stream]))
    with pytest.raises(SerializationError):
        loads(Payload("pickle", "t:T", None, []))


def test_no_pickle_runs_before_the_bytes_were_verified():
    class Bomb:
        def __reduce__(self):
            return os._exit, (3,)

    whole = bytearray(encode(dumps([Bomb(), "padding"]), checksum=True).tobytes())
    for position in (5, 40, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        with pytest.raises(IntegrityError):
            loads(decode(Frames([damaged])))


# -- the garbage collector ---------------------------------------------------------------------------------------------


class Witness:
    def __reduce__(self):
        return gc.isenabled, ()


def test_the_collector_is_off_while_a_large_stream_is_loaded():
    assert loads(wire(dumps([Witness()]))) == [True]
    assert loads(wire(dumps([Witness(), *map(str, range(50_000))])))[0] is False
    assert gc.isenabled()
    gc.disable()
    try:
        loads(wire(dumps([str(each) for each in range(50_000)])))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_comes_back_after_errors_threads_and_forks():
    large = Payload("pickle", "t:T", None, [pickle.dumps(list(range(50_000)), 5)[:-1]])
    with pytest.raises(SerializationError):
        loads(large)
    assert gc.isenabled()
    good = wire(dumps([str(each) for each in range(50_000)]))
    threads = [threading.Thread(target=lambda: [loads(good) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
    assert loads(wire(dumps([Forking(), *map(str, range(50_000))])))[0] == 1
    assert gc.isenabled()


class Forking:
    """Unpickled, it is the exit code of a fork that another thread makes meanwhile: whether the child collects."""

    def __reduce__(self):
        return _fork_in_a_thread, ()


def _fork_in_a_thread():
    assert not gc.isenabled()
    codes = []

    def fork():
        child = multiprocessing.get_context("fork").Process(target=_exit_with_collector)
        child.start()
        child.join()
        codes.append(child.exitcode)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    return codes[0]


def test_the_collector_comes_back_after_an_interrupt_at_any_instruction():
    """Of a load that turns it off."""
    good = wire(dumps([str(each) for each in range(10_000)]))
    assert len(good.buffers[0]) >= pickling._LARGE
    number, came = 1, True
    while came:
        interrupt = Interrupt(number)
        interrupt.run(lambda: loads(good))
        assert gc.isenabled(), interrupt.where
        number, came = number + 1, interrupt.came
    assert number > 5


def _exit_with_collector():
    os._exit(int(gc.isenabled()))


# -- safe mode ---------------------------------------------------------------------------------------------------------


def test_safe_mode_reads_no_pickle():
    for obj in (Sample("a"), lambda: 1, {1}):
        with pytest.raises(SerializationError, match="does not unpickle"):
            loads(wire(dumps(obj)), mode="safe")


@pytest.mark.parametrize("obj", [Sample("a"), [Sample("a")], {"a": {1: (Sample("a"),)}}, {Sample: 1}, object()])
def test_safe_mode_names_the_type_it_refuses(obj):
    with pytest.raises(SerializationError, match=r"tests\.serialize\.models:Sample|builtins:type|builtins:object"):
        dumps(obj, mode="safe")


def test_safe_mode_does_not_change_types_in_silence():
    for obj in ([bytearray(b"a")], {"a": (memoryview(b"a"),)}, {"a": {"b": [bytearray()]}}):
        with pytest.raises(SerializationError, match="inside a container"):
            dumps(obj, mode="safe")


def test_safe_mode_survives_what_is_endless_or_deep():
    endless = []
    endless.append(endless)
    deep = ()
    for _ in range(5000):
        deep = (deep,)
    for obj in (endless, deep):
        with pytest.raises(SerializationError, match="too deep"):
            dumps(obj, mode="safe")


@pytest.mark.parametrize("pandas_object", [{"a": [object()]}, {("a", 1): [1], "b": [2]}, {"a": [1, "x"]}])
def test_safe_mode_refuses_frames_that_arrow_would_change(pandas_object):
    pd = pytest.importorskip("pandas")
    with pytest.raises(SerializationError):
        dumps(pd.DataFrame(pandas_object), mode="safe")


def test_safe_mode_refuses_an_index_that_arrow_would_change():
    pd = pytest.importorskip("pandas")
    days = pd.date_range("2020", periods=3, freq=pd.offsets.CustomBusinessDay(holidays=["2020-01-02"]))
    for index in (days, pd.Index([1, 2, 3], name=5)):
        with pytest.raises(SerializationError, match="index"):
            dumps(pd.DataFrame({"a": [1, 2, 3]}, index=index), mode="safe")


@pytest.mark.parametrize("index", [[1, 2], ["2020-01-01", "2020-01-05"]])
@pytest.mark.parametrize("frequency", ["D", "nonsense", 7])
def test_a_frequency_that_the_index_has_not_is_an_error_of_ours(index, frequency):
    pd = pytest.importorskip("pandas")
    honest = dumps(pd.DataFrame({"a": index}, index=pd.to_datetime(index) if index[0] != 1 else index), mode="safe")
    with pytest.raises(IntegrityError):
        loads(Payload("pandas", honest.type, ["frame", None, frequency], honest.buffers), mode="safe")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigurationError, match="default, safe"):
        dumps(1, mode="fast")
    with pytest.raises(ConfigurationError, match="default, safe"):
        loads(dumps(1), mode="fast")


# -- descriptions that lie ---------------------------------------------------------------------------------------------


LIES = {
    "object-dtype": ("numpy", ["|O", [1], False], [b"x" * 8]),
    "object-field": (
        "numpy",
        [{"names": ["a"], "formats": ["|O"], "offsets": [0], "titles": [None], "itemsize": 8}],
        [b""],
    ),
    "too-long": ("numpy", ["<f8", [2], False], [b"x" * 8]),
    "too-short": ("numpy", ["<f8", [1], False], [b"x" * 16]),
    "negative": ("numpy", ["<f8", [-1, -1], False], [b"x" * 8]),
    "overflow": ("numpy", ["<f8", [2**62, 4], False], [b""]),
    "no-type": ("numpy", ["f8,O", [1], False], [b"x" * 8]),
    "no-meta": ("numpy", None, [b"x"]),
    "no-buffer": ("numpy", ["<f8", [1], False], []),
    "too-many-buffers": ("bytes", None, [b"", b""]),
    "text": ("str", None, [b"\xff\xfe"]),
    "view": ("memoryview", ["d", [3]], [b"x" * 8]),
    "scalar": ("numpy.scalar", "|O", [b"x" * 8]),
    "mask": ("numpy.masked", [["<f8", [2], False], ["|b1", [1], False], None, False], [b"x" * 16, b"x"]),
    "arrow": ("arrow", "table", [b"x" * 800]),
    "pandas": ("pandas", ["frame", None], [b"x" * 800]),
    "polars": ("polars", "frame", [b"x" * 800]),
    "plain": ("plain", None, [b"\xc1"]),
    "plain-deep": ("plain", None, [b"\x91" * 100_000]),
    "plain-deep-tuples": ("plain", None, [b"\x92\xc7\x05\x01tuple" * 100_000 + b"\xc0"]),
    "plain-nested": ("plain", None, [b"\xc7\x0b\x07" + b"\x94\xa5plain\xc0\x00\x01", b"\xc0"]),
    "plain-pickle": ("plain", None, [b"\xc7\x0b\x07" + b"\x94\xa6pickle\xc0\x00\x01", b"N."]),
    "plain-unhashable": ("plain", None, [b"\x81\x90\xc0"]),
    "plain-unknown": ("plain", None, [b"\xc7\x01\x63x"]),
}


@pytest.mark.parametrize("name", LIES)
def test_a_description_that_lies_is_an_error_of_ours(name):
    codec, meta, buffers = LIES[name]
    with pytest.raises((IntegrityError, SerializationError)):
        loads(wire(Payload(codec, "t:T", meta, buffers)))


def test_arrow_with_wrong_offsets_does_not_crash():
    pa = pytest.importorskip("pyarrow")
    whole = bytearray(dumps(pa.table({"s": ["abc", "de"] * 100}), mode="safe").buffers[0])
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        try:
            loads(Payload("arrow", "t:T", "table", [damaged])).to_pylist()
        except (IntegrityError, SerializationError):
            pass


# -- other people's codecs ---------------------------------------------------------------------------------------------


class SampleCodec:
    name = "tests.sample"
    safe = True

    def dump(self, obj, /):
        return None if obj.name == "pickle me" else ([obj.name], (obj.pixels,))

    def load(self, meta, buffers, /):
        return Sample(meta[0], bytes(buffers[0]), ["by codec"])


@pytest.fixture
def codec():
    register("tests.serialize.models:Sample", SampleCodec())
    yield
    del table._registered["tests.serialize.models:Sample"], table._by_name["tests.sample"]
    for known in table.MODES.values():
        known.clear()


@pytest.mark.usefixtures("codec")
def test_a_registered_codec_is_used():
    payload = dumps(Sample("a", b"data"), mode="safe")
    assert payload.codec == "tests.sample"
    assert loads(wire(payload), mode="safe") == Sample("a", b"data", ["by codec"])
    assert loads(wire(dumps([Sample("a", b"data")], mode="safe")), mode="safe") == [Sample("a", b"data", ["by codec"])]
    assert dumps(Sample("pickle me", b"")).codec == "pickle"
    with pytest.raises(SerializationError, match=r"tests\.sample.*models:Sample"):
        dumps(Sample("a", 5.5))


def test_a_codec_that_is_not_here_is_named():
    with pytest.raises(SerializationError, match=r"'lab\.image'.*install the package"):
        loads(Payload("lab.image", "lab:Image", None, []))


def test_a_package_that_is_not_here_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.delitem(sys.modules, "proxyfab.serialize.codecs.polars", raising=False)
    monkeypatch.delitem(table._by_name, "polars", raising=False)
    with pytest.raises(MissingDependency, match="pip install polars"):
        loads(Payload("polars", "polars:DataFrame", "frame", [b""]))


@pytest.mark.parametrize(
    ("name", "codec_name"), [("Image", "x"), ("", "x"), ("a:", "x"), ("a:B", "numpy"), ("a:B", "pickle")]
)
def test_names_that_make_no_sense_are_refused(name, codec_name):
    made = SampleCodec()
    made.name = codec_name
    with pytest.raises(ConfigurationError):
        register(name, made)


def test_an_installed_package_brings_its_codec(tmp_path):
    (tmp_path / "lab.py").write_text(
        "class Image:\n    def __init__(self, data): self.data = data\n"
        "class Codec:\n    name = 'lab.Image'\n    safe = True\n"
        "    def dump(self, obj, /): return None, (obj.data,)\n"
        "    def load(self, meta, buffers, /): return Image(bytes(buffers[0]))\n"
    )
    info = tmp_path / "lab-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[proxyfab.serializers]\nlab.Image = lab:Codec\n")
    script = (
        "import lab\nfrom proxyfab.serialize import dumps, loads, table\n"
        "payload = dumps(lab.Image(b'abc'))\nassert payload.codec == 'lab.Image', payload\n"
        "table._by_name.pop('lab.Image')\nassert loads(payload, mode='safe').data == b'abc'\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": path})


# -- torch -------------------------------------------------------------------------------------------------------------


def test_torch_tensors_keep_type_and_memory_of_their_own():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(3))
    for tensor in (torch.arange(6).reshape(2, 3).to(torch.bfloat16), torch.tensor(3.0), torch.empty(0, 3), parameter):
        back = loads(wire(dumps(tensor, mode="safe")), mode="safe")
        assert type(back) is type(tensor)
        assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
        assert torch.equal(back, tensor)
        with torch.no_grad():
            back.zero_()


def test_torch_tensors_keep_the_order_of_their_dimensions():
    torch = pytest.importorskip("torch")
    image = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for tensor in (image[0, 0].T, image.to(memory_format=torch.channels_last), image.permute(3, 0, 2, 1)):
        payload = dumps(tensor)
        assert payload.buffers[0].nbytes == tensor.nbytes
        back = loads(wire(payload))
        assert torch.equal(back, tensor)
        assert back.stride() == tensor.stride()
        assert rows_of(payload.codec, payload.meta, [payload.nbytes]) is None  # its rows do not lie in a row
    for gaps in (image[:, ::2], torch.ones(1, 5).expand(4, 5)):
        back = loads(wire(dumps(gaps)))
        assert torch.equal(back, gaps)
        assert back.is_contiguous()


def test_torch_tensors_inside_other_objects_go_out_of_band():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(100, 200), torch.nn.ReLU(), torch.nn.Linear(200, 1))
    for obj in (model.state_dict(), model, {"f": lambda: 1, "model": model}):
        payload = dumps(obj)
        assert len(payload.buffers) == 2
        assert payload.buffers[0].nbytes < 8000
        back = loads(wire(payload))
        assert type(back) is type(obj)
    assert all(
        torch.equal(one, other) for one, other in zip(model.parameters(), back["model"].parameters(), strict=True)
    )
    assert back["model"][0].weight.requires_grad
    mixed = loads(wire(dumps([torch.ones(3).to_sparse(), torch.ones(600, dtype=torch.bfloat16), np.arange(600)])))
    assert mixed[0].is_sparse
    assert mixed[1].sum() == 600


def test_large_text_goes_from_where_it_lies_and_lives_as_long_as_that_is_looked_at():
    text = "".join(["text", "a" * (1 << 22)])
    tracemalloc.start()
    payload = dumps(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text) // 10
    view = payload.buffers[0][1:]
    del text, payload
    gc.collect()
    assert view.readonly
    assert bytes(view[:4]) == b"exta"
    assert len(view) == 3 + (1 << 22)
    for several in ("a" * (1 << 20), "ä" * (1 << 20), "a\0\ud800" * (1 << 19), "😀" * (1 << 18)):
        assert loads(wire(dumps(several))) == several


# -- cost of import ----------------------------------------------------------------------------------------------------


def test_importing_brings_nothing_heavy():
    script = (
        "import sys, types\n"
        "root = types.ModuleType('proxyfab'); root.__path__ = [sys.argv[1]]; sys.modules['proxyfab'] = root\n"
        "import proxyfab.serialize, proxyfab.wire.payload\n"
        "heavy = {'numpy', 'cloudpickle', 'dataclasses', 'asyncio', 'pandas', 'importlib.metadata', 'inspect'}\n"
        "sys.exit(repr(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)\n"
    )
    subprocess.run(
        [sys.executable, "-S", "-c", script, str(ROOT / "proxyfab")],
        check=True,
        env={**os.environ, "PYTHONPATH": _site()},
    )


def _site():
    return os.pathsep.join([str(ROOT), *[path for path in sys.path if path.endswith("site-packages")]])
