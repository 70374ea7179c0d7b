"""Elements of columns of an RNTuple: every encoding, any range, large pages in pieces, what is damaged."""

from __future__ import annotations

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from rntuple_tools import C, Cluster, F, paged, write_rntuple

from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root import pages as pages_module
from mmdask.sources.root.pages import Pages, Stored

N = 3000
INTS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def columns():
    """(column, elements as they are given, as they come back) of every encoding."""
    rng = np.random.default_rng(7)
    found = []

    def add(kind, elements, back=None, **more):
        found.append((C(len(found), kind, **more), elements, elements if back is None else back))

    for kind in INTS:
        limits = np.iinfo(kind)
        elements = rng.integers(limits.min, limits.max, N, dtype=kind, endpoint=True)
        elements[:2] = limits.min, limits.max
        add(kind, elements)
        if limits.bits > 8:
            add(f"split{kind}", elements)
    for bits in (16, 32, 64):
        elements = rng.normal(size=N).astype(f"f{bits // 8}")
        elements[:3] = np.nan, -0.0, np.inf
        add(f"real{bits}", elements)
        add(f"splitreal{bits}", elements)
    for kind in ("index32", "index64", "splitindex32", "splitindex64"):
        add(kind, np.cumsum(rng.integers(0, 5, N)))
    add("bit", rng.random(N) < 0.3)
    add("char", rng.integers(0, 256, N).astype("u1"))
    add("byte", rng.integers(0, 256, N).astype("u1"))
    for bits in (10, 16, 23, 31):
        elements = rng.normal(size=N).astype("f4")
        words = elements.view("u4")
        add("real32trunc", elements, (words >> (32 - bits) << (32 - bits)).view("f4"), nbits=bits)
    for bits in (1, 7, 20, 32):
        steps = rng.integers(0, 2**bits, N).astype("f8")
        elements = -3.0 + steps * 8.0 / (2**bits - 1)
        add("real32quant", elements, elements.astype("f4"), nbits=bits, range=(-3.0, 5.0))
    return found


COLUMNS = columns()


@pytest.fixture(scope="module", params=["checksums", "raw", "blocks"])
def ntuple(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "a.root"
    fields = [F(f"f{i}", "") for i in range(len(COLUMNS))]
    pages = [paged(elements, 5, 0, 1200) for _, elements, _ in COLUMNS]
    options = {
        "checksums": {},
        "raw": {"compress": False, "checksums": False},
        "blocks": {"block": 700, "checksums": True},
    }[request.param]
    write_rntuple(path, fields, [c for c, *_ in COLUMNS], [Cluster(N, pages)], **options)
    with uproot.open({path: None}) as file:
        yield file["nt"]


def test_uproot_agrees(ntuple):
    """The pages are encoded as uproot understands the specification."""
    for column, _, back in COLUMNS:
        if "index" not in column.type:
            array = ntuple[f"f{column.field}"].array(library="np", array_cache=None)
            assert array.dtype == back.dtype, column
            assert array.tobytes() == back.tobytes(), column


@pytest.mark.parametrize("small", [False, True])
def test_all_elements(ntuple, monkeypatch, small):
    if small:
        monkeypatch.setattr(pages_module, "PIECE_NBYTES", 1024)
        monkeypatch.setattr(pages_module, "_PACKED_ELEMENTS", 64)
        monkeypatch.setattr(pages_module, "RECENT_NBYTES", 4096)
    pages = Pages(ntuple)
    for i, (column, _, back) in enumerate(COLUMNS):
        assert pages.count(0, Stored((i,))) == N
        out = np.empty(N, back.dtype)
        pages.fill(0, Stored((i,)), 0, out)
        assert out.tobytes() == back.tobytes(), column


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_range(ntuple, data):
    """In any order, so that what was decoded before is used again; in any size of pieces."""
    piece = data.draw(st.sampled_from([512, 1024, 4096, 2**21]))
    recent = data.draw(st.sampled_from([0, 3000, 2**20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages_module, "PIECE_NBYTES", piece)
        patch.setattr(pages_module, "_PACKED_ELEMENTS", 64)
        patch.setattr(pages_module, "RECENT_NBYTES", recent)
        pages = Pages(ntuple)
        for _ in range(4):
            i = data.draw(st.integers(0, len(COLUMNS) - 1))
            start = data.draw(st.integers(0, N))
            stop = data.draw(st.integers(start, N))
            column, _, back = COLUMNS[i]
            out = np.empty(stop - start, back.dtype)
            pages.fill(0, Stored((i,)), start, out)
            assert out.tobytes() == back[start:stop].tobytes(), (column, start, stop)
            if "index" in column.type and start < N:
                assert pages.item(0, Stored((i,)), start) == back[start]


def test_elements_are_cast(ntuple):
    pages = Pages(ntuple)
    kinds = [c.type for c, *_ in COLUMNS]
    for kind, dtype in (("real16", "f4"), ("splitreal32", "f8"), ("char", "i1"), ("splitint16", "i8")):
        i = kinds.index(kind)
        out = np.empty(N - 3, dtype)
        pages.fill(0, Stored((i,)), 3, out)
        assert np.array_equal(out, COLUMNS[i][2][3:].astype(dtype), equal_nan=True)


def test_offsets_of_32_bits_have_no_sign(tmp_path):
    """uproot takes them for signed."""
    ends = np.array([1, 2**31 - 1, 2**31, 2**32 - 1])
    fields = [F("a", ""), F("b", "")]
    pages = [paged(ends.astype("u4").view("i4"), 2)] * 2
    write_rntuple(tmp_path / "a.root", fields, [C(0, "index32"), C(1, "splitindex32")], [Cluster(4, pages)])
    with uproot.open({tmp_path / "a.root": None}) as file:
        pages = Pages(file["nt"])
        for i in range(2):
            out = np.empty(4, np.int64)
            pages.fill(0, Stored((i,)), 0, out)
            assert out.tolist() == ends.tolist()
            assert pages.item(0, Stored((i,)), 2) == 2**31


@pytest.mark.parametrize(("start", "n"), [(-1, 2), (0, N + 1), (N, 1)])
def test_elements_that_are_not_there(ntuple, start, n):
    with pytest.raises(UnreadableError, match=r"damaged: elements .* of a column are asked for, of 3000"):
        Pages(ntuple).fill(0, Stored((0,)), start, np.empty(n, "i1"))


def flip(path, where):
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("piece", [512, 2**21])
@pytest.mark.parametrize("compress", [True, False])
def test_every_byte_of_a_page_is_checked(tmp_path, monkeypatch, compress, piece):
    monkeypatch.setattr(pages_module, "PIECE_NBYTES", piece)
    path = tmp_path / "a.root"
    elements = np.arange(900) // 7
    pages = [paged(elements, 300)]
    write_rntuple(
        path, [F("x", "std::int32_t")], [C(0, "splitint32")], [Cluster(900, pages)], compress=compress, block=600
    )
    whole = path.read_bytes()
    with uproot.open({path: None}) as file:
        locators = [p.locator for p in file["nt"].page_link_list[0][0].pages]
    where = [int(p.offset) + k for p in locators for k in range(0, int(p.num_bytes) + 8, 13)]
    for at in where:
        path.write_bytes(whole)
        flip(path, at)
        with uproot.open({path: None}) as file, pytest.raises(UnreadableError, match="the checksum of a page"):
            Pages(file["nt"]).fill(0, Stored((0,)), 0, np.empty(900, "i4"))


@pytest.mark.parametrize("piece", [512, 2**21])
def test_blocks_that_do_not_make_a_page(tmp_path, monkeypatch, piece):
    """uproot would give what was in memory by chance."""
    monkeypatch.setattr(pages_module, "PIECE_NBYTES", piece)
    path = tmp_path / "a.root"
    write_rntuple(path, [F("x", "std::int32_t")], [C(0, "int32")], [Cluster(900, [[np.zeros(900)]])], checksums=False)
    with uproot.open({path: None}) as file:
        where = int(file["nt"].page_link_list[0][0].pages[0].locator.offset)
    data = bytearray(path.read_bytes())
    data[where + 6] -= 4  # uncompressed bytes in the header of the block
    path.write_bytes(data)
    with (
        uproot.open({path: None}) as file,
        pytest.raises(UnreadableError, match="a page has 3596 uncompressed bytes, should be 3600"),
    ):
        Pages(file["nt"]).fill(0, Stored((0,)), 0, np.empty(900, "i4"))


def test_pages_are_read_once_and_together(tmp_path):
    """Neighbouring pages come with one request; those of which a part was needed are not read again."""
    path = tmp_path / "a.root"
    elements = np.random.default_rng(0).integers(0, 100, 1000)
    pages = [paged(elements, *[100] * 9)]
    write_rntuple(path, [F("x", "std::int32_t")], [C(0, "splitint32")], [Cluster(1000, pages)])
    with uproot.open({path: None}) as file:
        source = file["nt"].file.source
        pages = Pages(file["nt"])
        out = np.empty(1000, "i4")
        before = source.num_requests
        pages.fill(0, Stored((0,)), 0, out[:450])
        pages.fill(0, Stored((0,)), 450, out[450:])
        assert source.num_requests - before == 2
        assert source.num_requested_bytes < len(path.read_bytes()) + 10_000
        assert out.tolist() == elements.tolist()


def test_equal_pages_are_one_in_the_file(tmp_path):
    """ROOT writes them once: they lie anywhere, also before those that come first."""
    path = tmp_path / "a.root"
    a, b = np.arange(100), np.arange(100)[::-1]
    elements = np.concatenate([a, b, a, b, a])
    write_rntuple(path, [F("x", "std::int32_t")], [C(0, "int32")], [Cluster(500, [paged(elements, *[100] * 4)])])
    with uproot.open({path: None}) as file:
        offsets = [p.locator.offset for p in file["nt"].page_link_list[0][0].pages]
        assert len(set(offsets)) == 2
        out = np.empty(500, "i4")
        Pages(file["nt"]).fill(0, Stored((0,)), 0, out)
    assert out.tolist() == elements.tolist()
