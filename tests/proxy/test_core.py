"""Which core is in use: it is built where it can be, left out where asked, never half of one, and says so."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import Any

import pytest

from proxyfab.cli.machine import examine_machine
from proxyfab.proxy import core, kind_of, make

HERE = Path(core.__file__).parent


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def compiled() -> Any:
    if core.compiled is None:
        pytest.skip(f"no C core: {core.why_pure}")
    return core.compiled


def test_it_is_built_where_it_can_be() -> None:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler) or not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("no C compiler, or no headers of Python: proxies are pure Python here")
    if core.compiled is None and (os.environ.get("PROXYFAB_PURE", "0") != "0" or not os.environ.get("CI")):
        pytest.skip(f"no C core: {core.why_pure}")  # whoever works on something else need not build it
    assert core.compiled is not None, core.why_pure


def test_pure_python_can_be_chosen() -> None:
    code = """
        from proxyfab.proxy import core, make
        print(core.compiled is None, core.why_pure, type(make(list)).__mro__[2].__module__)
    """
    assert run(code, PROXYFAB_PURE="1") == "True PROXYFAB_PURE is set proxyfab.proxy.layout"


def test_doctor_says_which_it_is() -> None:
    [found] = [finding for finding in examine_machine() if finding.check == "proxies"]
    assert found.detail == ("C core" if core.compiled is not None else f"pure Python: {core.why_pure}")
    code = "from proxyfab.cli.machine import examine_machine; print([f.detail for f in examine_machine()])"
    assert "pure Python: PROXYFAB_PURE is set" in run(code, PROXYFAB_PURE="1")


def test_a_core_from_other_sources_is_not_used(compiled: Any) -> None:
    code = """
        import importlib, sys, types
        stale = types.ModuleType("proxyfab.proxy._core")
        stale.REVISION, stale.__file__ = -1, "stale.so"
        sys.modules["proxyfab.proxy._core"] = stale
        from proxyfab.proxy import core, make
        print(core.compiled, core.why_pure, len(make(list)))
    """
    assert run(code) == "None stale.so was built from other sources: install proxyfab anew 0"


@pytest.mark.parametrize("reader", ["0", "1"])
def test_pickles_pass_from_one_core_to_the_other(reader: str, tmp_path: Path) -> None:
    for writer in ("0", "1"):
        code = f"""
            import pickle
            from pathlib import Path
            from proxyfab.proxy import make, kind_of, resolve, is_proxy
            p = make(list, kind_of([]))
            Path({str(tmp_path / writer)!r}).write_bytes(pickle.dumps([p, resolve, is_proxy, make]))
        """
        run(code, PROXYFAB_PURE=writer)
        code = f"""
            import pickle
            from pathlib import Path
            p, resolve, is_proxy, make = pickle.loads(Path({str(tmp_path / writer)!r}).read_bytes())
            print(is_proxy(p), resolve(p), type(p).__name__, len(make(list)))
        """
        assert run(code, PROXYFAB_PURE=reader) == "True [] Proxy[list] 0"


_TAIL = b"\x8c\x08builtins\x8c\x04list\x93"
OLD = b"\x80\x04\x8c\x0eproxyfab.proxy\x8c\x07rebuild\x93" + _TAIL + b"\x8c\rbuiltins:list\x8a\x05\x04\0\xe8{\x1c\x87R."
NEW = b"\x80\x04\x8c\x08proxyfab\x8c\x06_again\x93" + _TAIL + b"\x8c\x18builtins:list:1c7be80004\x86R."


@pytest.mark.parametrize("pure", ["0", "1"])
def test_pickles_of_both_forms_are_read_and_the_newer_is_written(pure: str) -> None:
    code = f"""
        import pickle, pickletools
        from proxyfab.proxy import is_resolved, kind_of, make, resolve
        for data in {OLD!r}, {NEW!r}:
            p = pickle.loads(data)
            print(is_resolved(p), kind_of(p) == kind_of([]), resolve(p))
            print(pickletools.optimize(pickle.dumps(p, 4)).endswith({NEW!r}[2:]))
    """
    assert run(code, PROXYFAB_PURE=pure).split("\n") == ["False True []", "True"] * 2


def test_nobody_derives_from_a_class_of_proxies(compiled: Any) -> None:
    cls: type = type(make(list, kind_of([])))
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (cls,), {})
    with pytest.raises(TypeError):
        compiled.Body()


def test_functions_of_the_core_refuse_what_they_cannot_take(compiled: Any) -> None:
    for call in (
        lambda: compiled.make(),
        lambda: compiled.make(list, None, 3),
        lambda: compiled.make(list, sort=None),
        lambda: compiled.make(list, 3),
        lambda: compiled.resolve(),
        lambda: compiled.resolve(1, within=2),
        lambda: compiled.reduce([]),
        lambda: compiled.unsettle([]),
        lambda: compiled.again(),
        lambda: compiled.again(list, ("builtins:list", 1)),
        lambda: compiled.register(1, 2, 3, 4),
        lambda: compiled.register(("", 0), int, {}, ":0"),
        lambda: compiled.new_class(int, [], False),
        lambda: compiled.connect(build=list),
    ):
        with pytest.raises((TypeError, AttributeError)):
            call()
    for call in (compiled.target_of, compiled.factory_of):
        with pytest.raises(AttributeError):
            call([])
    assert len(make(lambda: [1], kind_of([]))) == 1  # and is none the worse for it


def test_at_the_end_of_the_interpreter_proxies_do_no_harm() -> None:
    code = """
        import atexit, sys
        from proxyfab.proxy import make, kind_of

        class Late:
            def __init__(self, p): self.p = p
            def __del__(self):
                try:
                    len(self.p), repr(self.p), self.p.anything
                except BaseException:
                    pass

        kept = [Late(make(list, kind_of([]))) for _ in range(3)]
        sys.late = Late(make(list))
        sys.modules["nowhere"] = Late(make(dict, kind_of({})))
        kept.append(kept)
        print("ended")
    """
    assert run(code) == "ended"


ENDLESS = {
    "a proxy of a proxy of a proxy": "[p := make(lambda q=p: q, kind_of([])) for _ in range(100_000)]; len(p)",
    "whose factory is a proxy": "[p := make(p) for _ in range(100_000)]; len(p)",
    "that calls itself": "p = make(lambda: partial(p), kind_of(partial(list))); p()",
}


@pytest.mark.parametrize("pure", ["0", "1"])
@pytest.mark.parametrize("use", ENDLESS.values(), ids=ENDLESS)
def test_no_depth_overflows_the_stack(use: str, pure: str) -> None:
    code = f"""
        from functools import partial
        from proxyfab.proxy import make, kind_of
        p = make(list, kind_of([]))
        try:
            {use}
        except RecursionError:
            print("too deep")
    """
    assert run(code, PROXYFAB_PURE=pure) == "too deep"


ROUND = """
    import operator, weakref
    from functools import partial
    from itertools import chain
    from types import GenericAlias, MappingProxyType, MethodType
    from proxyfab.proxy import make, resolve

    def reads_on(p):
        found = type("Ring", (), {"x": property(operator.attrgetter("p.x"))})()
        found.p = p
        return found

    uses = {
        MappingProxyType: (len, iter, operator.itemgetter(1), lambda p: 1 in p, lambda p: p | {}, lambda p: {} | p),
        weakref.proxy: (
            len, iter, next, bool, int, float, bytes, complex, dir, operator.index, operator.neg, operator.length_hint,
            lambda p: p.x, lambda p: setattr(p, "x", 1), lambda p: p[1], lambda p: 1 in p, lambda p: isinstance(p, int),
            lambda p: operator.setitem(p, 1, 2), lambda p: operator.delitem(p, 1), lambda p: isinstance(1, p),
            lambda p: p + 1, lambda p: 1 + p, lambda p: operator.iadd(p, 1), lambda p: p ** 2,
        ),
        lambda p: (p,): (hash,),
        lambda p: GenericAlias(p, int): (hash, lambda p: p.x),
        lambda p: MethodType(p, 1): (hash, lambda p: p.x, lambda p: p()),
        partial: (lambda p: p(),),
        lambda p: type("Ring", (), {"__call__": p})(): (lambda p: p(),),
        lambda p: type("Ring", (), {"x": property(partial(getattr, p, "x"))})(): (lambda p: p.x,),
        reads_on: (lambda p: p.x, lambda p: getattr(p, "x", None)),
        chain: (next, list, lambda p: [*p]),
        lambda p: map(str, chain(p)): (next, list),
        lambda p: zip(chain(p)): (next, list),
        lambda p: enumerate(filter(None, chain(p))): (next, list),
    }
    ends = []
    for around, ways in uses.items():
        p = make(lambda: around(p))
        resolve(p)
        for way in ways:
            try:
                way(p)
            except RecursionError:
                ends.append(way)
            else:
                print("came back", around, way)
    print(len(ends) == sum(map(len, uses.values())))
"""


@pytest.mark.parametrize("pure", ["0", "1"])
def test_what_holds_a_proxy_of_itself_is_an_error(pure: str) -> None:
    """Nothing but C is on the way round, where nobody but the proxy counts."""
    assert run(ROUND, PROXYFAB_PURE=pure) == "True"


SUB = """
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("proxyfab.proxy._core", PATH)
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    class Base(core.Body):
        __slots__ = ()
    own = {}
    def build(kind):
        return core.register(kind, core.new_class(Base, {"__len__", "__call__", "__add__"}, False), own, repr(kind))
    def no(*args):
        raise RuntimeError("not asked")
    core.connect(unknown=("", 0), build=build, probed=no, text=no,
                 arrived=lambda cls: (build((cls.__name__, 1)), False), names=no, misled=no, timed=no,
                 join=no, told_too_little=no, rebuild=no, late=OSError)
    for _ in range(1000):
        p = core.make(lambda: [1, 2], None)
        assert len(p) == 2 and p + [3] == [1, 2, 3]
    assert core.is_proxy(p) and not core.is_proxy([])
"""


def test_each_sub_interpreter_has_a_core_of_its_own(compiled: Any) -> None:
    names = {"3.11": "_xxsubinterpreters", "3.12": "_xxsubinterpreters"}
    interpreters = pytest.importorskip(names.get(f"3.{sys.version_info.minor}", "_interpreters"))
    code = f"PATH = {compiled.__file__!r}\n{textwrap.dedent(SUB)}"
    before = len(make(lambda: [1, 2, 3], kind_of([])))
    for _ in range(3):
        sub = interpreters.create()
        try:
            failed = interpreters.run_string(sub, code)
            assert failed is None
        finally:
            interpreters.destroy(sub)
    assert len(make(lambda: [1, 2, 3], kind_of([]))) == before
    assert len(pickle.loads(pickle.dumps(make(list, kind_of([]))))) == 0
