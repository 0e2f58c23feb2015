"""Seals: whatever is done to sealed bytes, nothing of them is decoded."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab import Store, ref_of
from proxyfab import ref as ref_module
from proxyfab import store as store_module
from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConfigurationError, IntegrityError, SealError
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.osio.files import write_all
from proxyfab.osio.memory import is_private
from proxyfab.ref import load
from proxyfab.seal import Seal
from proxyfab.serialize import dumps, loads
from proxyfab.wire.payload import encode
from proxyfab.wire.sealed import AES, ALGORITHMS, CHACHA, ED25519, HEADER, SIGN, TAG, Header, content_of, is_sealed

MODES = ("encrypt", "encrypt-chacha20", "sign", "ed25519")
MODE_ALGORITHMS = {"encrypt": AES, "encrypt-chacha20": CHACHA, "sign": SIGN, "ed25519": ED25519}
DATA = bytes(range(256)) * 4
BITS = 6  # segments of 64 bytes


@pytest.fixture(autouse=True)
def ring(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    ring = Keyring()
    for kind in ("symmetric", "sign"):
        for id in ("lab", "other"):
            ring.make(kind, id)
    return ring


@pytest.fixture
def decoded(monkeypatch):
    """Every payload that reached a deserializer."""
    seen = []
    for module in (store_module, ref_module):
        monkeypatch.setattr(module, "loads", lambda payload, **mode: seen.append(payload) or loads(payload, **mode))
    return seen


def refused(seal: Seal, data: bytes, realm: str = "run", name: str = "k") -> None:
    with pytest.raises(SealError):
        seal.open(Frames([data]), realm, name)


def parts(mode: str, nbytes: int = 300, **options) -> tuple[Seal, bytearray]:
    seal = Seal(mode, "lab")
    return seal, bytearray(seal.seal(Frames([DATA[:nbytes]]), "run", "k", **options).tobytes())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [BITS, 20])
def test_each_bit_counts(mode, bits):
    """Header, proofs, padding and content."""
    seal, sealed = parts(mode, 300 - HEADER, bits=bits)
    for place in range(len(sealed) * 8):
        sealed[place // 8] ^= 1 << place % 8
        refused(seal, bytes(sealed))
        sealed[place // 8] ^= 1 << place % 8
    assert seal.open(Frames([sealed]), "run", "k").tobytes() == DATA[: 300 - HEADER]


@pytest.mark.parametrize("mode", MODES)
def test_each_length_counts(mode):
    """Cut anywhere, or lengthened."""
    seal, sealed = parts(mode, bits=BITS)
    for length in range(len(sealed)):
        refused(seal, bytes(sealed[:length]))
    for more in (b"\0", b"\0" * 16, bytes(sealed[-80:])):
        refused(seal, bytes(sealed + more))


@pytest.mark.parametrize("mode", MODES)
def test_segments_stay_in_their_places(mode):
    """Exchanged, repeated, left out, and one taken for the last, header adjusted or not."""
    seal, sealed = parts(mode, 256, bits=BITS)
    header = Header.parse(Frames([sealed]))
    head, body = bytes(sealed[: header.start]), bytes(sealed[header.start :])
    step = header.stride
    pieces = [body[low : low + step] for low in range(0, len(body), step)]
    assert len(pieces) == 4
    for order in ([1, 0, 2, 3], [0, 0, 2, 3], [0, 1, 2], [3], [0, 1, 2, 3, 3], [0, 1, 3, 2]):
        mixed = b"".join(pieces[number] for number in order)
        refused(seal, head + mixed)
        shorter = header._replace(nbytes=64 * len(order))
        proofs = head[HEADER : shorter.start].ljust(shorter.start - HEADER, b"\0")
        refused(seal, shorter.pack() + proofs + mixed)


def test_proofs_stay_with_their_segments():
    """A signed object's tags exchanged together with its segments."""
    seal, sealed = parts("sign", 256, bits=BITS)
    start = Header.parse(Frames([sealed])).start
    sealed[HEADER : HEADER + 2 * TAG] = sealed[HEADER + TAG : HEADER + 2 * TAG] + sealed[HEADER : HEADER + TAG]
    sealed[start : start + 128] = sealed[start + 64 : start + 128] + sealed[start : start + 64]
    refused(seal, bytes(sealed))


@pytest.mark.parametrize("mode", MODES)
def test_an_object_stays_where_it_belongs(mode):
    """Its name, its namespace, and no way to write one for the other."""
    seal, sealed = parts(mode)
    for realm, name in (("run", "K"), ("ru", "nk"), ("runk", ""), ("", "runk"), ("run2", "k"), ("", "k")):
        refused(seal, bytes(sealed), realm, name)
    refused(Seal(mode, "other"), bytes(sealed))


def test_another_key_of_the_same_id_is_another_key(ring):
    """As after a key was made anew under an old id."""
    for mode in MODES:
        _, sealed = parts(mode)
        for kind in ("symmetric", "sign"):
            if ring.remove(kind, "lab"):
                ring.make(kind, "lab")
        refused(Seal(mode, "lab"), bytes(sealed))


@pytest.mark.parametrize("asked", MODES)
@pytest.mark.parametrize("there", MODES)
def test_a_store_gets_the_seal_that_it_asks_for(asked, there):
    """Nothing weaker, nothing else; both ciphers are encryption."""
    _, sealed = parts(there)
    if asked.partition("-")[0] == there.partition("-")[0]:
        assert Seal(asked, "lab").open(Frames([sealed]), "run", "k").tobytes() == DATA[:300]
    else:
        refused(Seal(asked, "lab"), bytes(sealed))
    for algorithm in {*range(8), *ALGORITHMS}:
        relabelled = bytearray(sealed)
        if relabelled[5] != algorithm:
            relabelled[5] = algorithm
            refused(Seal(asked, "lab"), bytes(relabelled))
            refused(Seal(there, "lab"), bytes(relabelled))


def test_no_seal_is_no_seal():
    """Plain objects where sealed ones belong."""
    for frames in (Frames(), Frames([b""]), Frames([b"PFSL"]), encode(dumps(b"x" * 500), checksum=True)):
        for mode in MODES:
            refused(Seal(mode, "lab"), frames.tobytes())


def test_who_has_the_public_key_verifies_and_cannot_sign(ring, tmp_path):
    """The secret half stays with the writer."""
    _, sealed = parts("ed25519")
    theirs = Keyring(tmp_path / "theirs")
    theirs.add("verify", "lab", next(held.public for held in ring.held() if (held.kind, held.id) == ("sign", "lab")))
    reader = Seal("ed25519", "lab", theirs)
    assert reader.open(Frames([sealed]), "run", "k").tobytes() == DATA[:300]
    with pytest.raises(SealError, match="no sign key"):
        reader.seal(Frames([b"x"]), "run", "k")


def test_the_same_bytes_are_never_sealed_twice_alike():
    """Each time with a salt, hence a key, of its own."""
    for mode in MODES:
        assert len({bytes(parts(mode)[1][16:32]) for _ in range(50)}) == 50


@pytest.mark.parametrize("mode", ["encrypt", "encrypt-chacha20"])
@pytest.mark.parametrize("nbytes", [3 << 20, (9 << 20) + 5])
def test_what_is_encrypted_while_it_is_stored_is_what_is_encrypted_at_once(mode, nbytes):
    """Written in pieces, copied in pieces or taken whole, by one thread or several; and each time under a new key."""
    content = bytearray(os.urandom(nbytes))
    seal = Seal(mode, "lab")
    frames = seal.seal(Frames([memoryview(content)[:1000], memoryview(content)[1000:]]), "run", "k")
    copied = bytearray(frames.nbytes + 7)
    assert frames.copy_into(memoryview(copied), 7) == len(copied)
    written = bytearray(frames.nbytes)
    with open(os.memfd_create("x"), "r+b") as file:
        assert write_all(file.fileno(), frames.parts) == frames.nbytes
        file.seek(0)
        file.readinto(written)
    sealed = [bytes(copied[7:]), bytes(written), frames.tobytes()]
    assert all(seal.open(Frames([data]), "run", "k").tobytes() == content for data in sealed)
    assert len({data[16:32] for data in sealed}) == 3

    content[:] = bytes(nbytes)
    assert frames.tobytes() == sealed[2]
    again = bytearray(frames.nbytes)
    frames.copy_into(memoryview(again))
    assert seal.open(Frames([again]), "run", "k").tobytes() == bytes(nbytes)
    assert bytes(again[16:32]) not in {data[16:32] for data in sealed}


def test_pieces_are_encrypted_where_nobody_else_can_change_them(tmp_path):
    """Or a tag would be computed of what somebody else has made of a segment."""
    frames = Seal("encrypt", "lab").seal(Frames([bytes(9 << 20)]), "run", "k")
    for part in frames.parts:
        assert all(is_private(piece) for _, piece in part.pieces())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 128, 1000])
def test_any_cut_and_any_range(mode, nbytes):
    """Over one buffer or many, whole or in parts, equal to the plain bytes."""
    seal = Seal(mode, "lab")
    plain = Frames([DATA[:3], b"", DATA[3:100], DATA[100:]]).slice(0, nbytes)
    sealed = Frames([seal.seal(plain, "run", "k", bits=BITS).tobytes()])
    cut = Frames([sealed.views[0][:50], sealed.views[0][50:170], sealed.views[0][170:]])
    for frames in (sealed, cut):
        assert seal.open(frames, "run", "k").tobytes() == DATA[:nbytes]
        for offset in (0, 1, 63, 64, 65, 127, 128, 500, 2000):
            for length in (0, 1, 64, 65, 3000):
                found = seal.open_range(frames.slice, offset, length, "run", "k")
                assert found.tobytes() == DATA[:nbytes][offset : offset + length]


def test_a_range_reads_only_its_segments():
    """And refuses a changed one, also where a shorter header would leave nothing to read."""
    seal, sealed = parts("encrypt", 1000, bits=BITS)
    asked = []

    def read(offset, length):
        asked.append(length)
        return Frames([bytes(sealed)]).slice(offset, length)

    assert seal.open_range(read, 500, 10, "run", "k").tobytes() == DATA[500:510]
    assert sum(asked) < 300
    sealed[HEADER + 7 * 80] ^= 1
    assert seal.open_range(read, 0, 64, "run", "k").tobytes() == DATA[:64]
    with pytest.raises(SealError):
        seal.open_range(read, 450, 10, "run", "k")
    shorter = Header.parse(Frames([sealed]))._replace(nbytes=64)
    sealed[:HEADER] = shorter.pack()
    with pytest.raises(SealError):
        seal.open_range(read, 500, 10, "run", "k")


def test_what_others_could_change_is_copied_before_it_is_verified(tmp_path):
    """A signed object in a mapped file does not change under the reader once it was verified."""
    with FileConnector(tmp_path / "place", name="run", mapped=True) as files, Store(files, seal="sign:lab") as store:
        key = store.put(b"a" * 3_000_000)
        frames = store.connector.get(Key.parse(str(key)))
        path = max((path for path in (tmp_path / "place").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
        with open(path, "r+b") as file:
            file.seek(-1000, 2)
            file.write(b"b" * 1000)
        assert frames.tobytes().endswith(b"a" * 1000)
        with pytest.raises(SealError, match="cannot be opened"):
            store.connector.get(key)


@pytest.mark.parametrize("algorithm", [1, 2, 3, 4])
def test_a_size_that_nothing_has_is_refused(algorithm):
    """Before anything is looked for at an offset that no file knows."""
    header = Header(algorithm, "lab", (1 << 64) - 1, bytes(16), 6)
    with pytest.raises(SealError):
        Header.parse(Frames([header.pack()]))


def test_content_is_told_from_the_size():
    """So that a store's statistics are those of its objects."""
    for algorithm in ALGORITHMS:
        for nbytes in (0, 1, 63, 64, 2**20 - 1, 2**20, 2**20 + 1, 5 * 2**20, 7 * 2**32 + 1):
            assert content_of(Header(algorithm, "x", nbytes, b"").total, algorithm) == nbytes


@pytest.mark.parametrize("name", ["sign", "encrypt", "encrypt-chacha20", "ed25519"])
def test_golden(name, monkeypatch):
    """What version 1 sealed is opened by every later version."""
    from tests.golden.make_sealed import CONTENT, KEYS

    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value)
    data = (Path(__file__).parent / "golden" / f"sealed-v1-{name}.bin").read_bytes()
    assert Seal(name, "golden").open(Frames([data]), "golden", "object").tobytes() == CONTENT
    assert is_sealed(Frames([data]))


# -- through a store -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_store_decodes_nothing_that_was_tampered_with(mode, decoded):
    """Flipped, stripped, exchanged, from another namespace and from another store: not one call of a deserializer."""
    below, neighbour = MemoryConnector(f"a-{mode}"), MemoryConnector(f"b-{mode}")
    with Store(below, seal=f"{mode}:lab", cache=0, inline_below=0) as store:
        key, other = store.put([1, 2, 3], key="one"), store.put([4], key="two")
        good, elsewhere = below.get(key), below.get(other)
        plain = encode(dumps([5]), checksum=True)
        flipped = bytearray(good.tobytes())
        flipped[-1] ^= 1
        for bad in (Frames([flipped]), elsewhere, plain, good.slice(0, good.nbytes - 1), Frames()):
            below.put(bad, key=key, replace=True)
            for attempt in (
                lambda: store.get(key),
                lambda: store.get_many([other, key]),
                lambda: store.resolve(key),
                lambda: store.proxy_from_key(key) == [1],
                lambda: pickle.loads(pickle.dumps(store.ref_from_key(key))).resolve(),
                lambda: store.connector.get_range(key, 0, 10),
                lambda: store.connector.compare_and_set(key, good, good),
            ):
                with pytest.raises(SealError):
                    attempt()
        below.put(good, key=key, replace=True)
        neighbour.put(good, key=Key("one"), replace=True)
        with Store(neighbour, seal=f"{mode}:lab", cache=0) as next_door, pytest.raises(SealError):
            next_door.get("one")
        told = f"sealed as {mode}:lab"
        with Store(MemoryConnector(f"a-{mode}"), seal=f"{mode}:other", cache=0) as wrong_key:
            with pytest.raises(SealError, match=told):
                wrong_key.get(key)
        with Store(MemoryConnector(f"a-{mode}"), cache=0) as unsealed:
            with pytest.raises(IntegrityError, match=f"open the store with seal='{mode}:lab'"):
                unsealed.get(key)
        assert decoded == []
        assert store.get(key) == [1, 2, 3]
        assert len(decoded) == 1
    below.clear()
    neighbour.clear()


@pytest.mark.parametrize("mode", MODES)
def test_what_travels_inside_a_reference_is_sealed_too(mode):
    """Not readable where encrypted, not changeable anywhere, and no way to pass an unsealed one off."""
    with Store("memory://", seal=f"{mode}:lab") as store, Store("memory://") as plain:
        ref = store.ref(b"canary in a reference")
        data = pickle.dumps(ref)
        assert (b"canary" in data) == (mode in ("sign", "ed25519"))
        assert pickle.loads(data) == ref
        assert pickle.loads(data).resolve() == ref.resolve() == b"canary in a reference"
        assert pickle.loads(pickle.dumps(ref.proxy())) == b"canary in a reference"
        url, packed, *rest = ref._state()
        for forged in (plain.ref(b"x")._state()[1], packed[:-1], packed[:-1] + bytes([packed[-1] ^ 1]), b"", None, 5):
            with pytest.raises(SealError):
                load(url, forged, *rest).resolve()
        with pytest.raises(SealError):
            load(plain.url, packed, *rest).resolve()
        key = store.put(b"stored")
        below = store.connector.child.get(key).tobytes()
        with pytest.raises(SealError):
            load(url, below, *rest).resolve()


def test_a_changed_target_goes_as_a_new_sealed_object():
    """As in a store without a seal."""
    with Store("memory://", seal="encrypt:lab") as store:
        proxy = store.proxy([1, 2])
        again = pickle.loads(pickle.dumps(proxy))
        again.append(3)
        third = pickle.loads(pickle.dumps(again))
        assert third == [1, 2, 3]
        assert proxy == [1, 2]
        assert ref_of(third) != ref_of(proxy)


def test_without_the_key_a_reference_is_passed_on(ring, tmp_path):
    """And opened behind, where the key is; in between it says what is missing."""
    with Store(f"file://{tmp_path}/place", name="run", seal="encrypt:lab") as store:
        data = [pickle.dumps(store.ref(obj)).hex() for obj in (b"inside", b"stored" * 1000)]
        code = (
            "import pickle, sys\n"
            "from proxyfab.errors import SealError\n"
            "for text in sys.argv[1:]:\n"
            "    ref = pickle.loads(bytes.fromhex(text))\n"
            "    try:\n        ref.resolve()\n"
            "    except SealError as error:\n        assert 'proxyfab keys make symmetric lab' in str(error)\n"
            "    else:\n        raise AssertionError\n"
            "    print(pickle.dumps(ref).hex())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *data],
            env={"PROXYFAB_KEYS": str(tmp_path / "none"), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        passed = [pickle.loads(bytes.fromhex(line)) for line in done.stdout.split()]
        assert [ref.resolve() for ref in passed] == [b"inside", b"stored" * 1000]


@pytest.mark.parametrize("mode", MODES)
def test_everything_else_works_through_a_seal(mode):
    """Replace, expiry, batches, ranges, compare-and-set, and seals named in several ways."""
    with Store("memory://", seal=Seal(mode, "lab"), cache=0, inline_below=0) as store:
        assert store.url.endswith(f"seal={mode}:lab")
        keys = store.put_many([[1], b"2" * 5_000_000, "3"])
        assert [obj if len(obj) < 9 else len(obj) for obj in store.get_many(keys)] == [[1], 5_000_000, "3"]
        store.put([9], key=keys[0], replace=True)
        assert store.get(keys[0]) == [9]
        connector, key = store.connector, Key("count")
        assert connector.compare_and_set(key, None, Frames([b"1"]))
        assert not connector.compare_and_set(key, None, Frames([b"1"]))
        assert not connector.compare_and_set(key, Frames([b"0"]), Frames([b"2"]))
        assert connector.compare_and_set(key, Frames([b"1"]), Frames([b"2"]))
        assert connector.get(key).tobytes() == b"2"
        assert connector.compare_and_set(key, Frames([b"2"]), None)
        assert connector.get(key) is None
        assert connector.get_range(keys[1], 4_000_000, 10).tobytes() == b"2" * 10
        store.put([1], key="soon", ttl=1e-3)
        assert connector.wait(keys[0], 1)
        assert {stat.nbytes for stat in connector.scan()} >= {connector.stat(keys[1]).nbytes}


def test_layers_stand_above_the_seal(tmp_path):
    """What is compressed or tried again is below the one and above the other."""
    with Store(f"retry+file://{tmp_path}", name="run", seal="encrypt:lab", cache=0) as store:
        key = store.put(b"x" * 10_000)
        assert type(store.connector).__name__ == "RetryLayer"
        assert store.connector.spec.startswith("retry+file://")
        assert is_sealed(FileConnector(tmp_path, name="run").get(key))
        assert pickle.loads(pickle.dumps(store.ref_from_key(key))).resolve() == b"x" * 10_000


@pytest.mark.parametrize("wrong", ["rot13:lab", "encrypt:", "", "encrypt:../lab", "os.system:lab", ":lab", 5, b"sign"])
def test_a_seal_that_makes_no_sense(wrong):
    """Said when the store is made; 'encrypt:' means the key 'default'."""
    if wrong == "encrypt:":
        assert Store("memory://", seal=wrong).url.endswith("seal=encrypt:default")
    else:
        with pytest.raises(ConfigurationError):
            Store("memory://", seal=wrong)


def test_processors_without_aes_use_the_other_cipher(monkeypatch):
    """And both read both."""
    monkeypatch.setattr("proxyfab.seal.has_aes", lambda: False)
    _, sealed = parts("encrypt")
    assert Header.parse(Frames([sealed])).algorithm == CHACHA
    monkeypatch.setattr("proxyfab.seal.has_aes", lambda: True)
    seal, now = parts("encrypt")
    assert Header.parse(Frames([now])).algorithm == AES != SIGN
    assert seal.open(Frames([sealed]), "run", "k").tobytes() == DATA[:300]


@given(st.binary(max_size=300), st.sampled_from(MODES), st.booleans())
def test_any_bytes(data, mode, sealed):
    """Only one error comes out, whatever is opened; also where it begins like something sealed."""
    if sealed:
        head = Header(MODE_ALGORITHMS[mode], "lab", len(data), bytes(16)).pack()
        data = head + data
    with pytest.raises(SealError):
        Seal(mode, "lab").open(Frames([data]), "run", "k")
