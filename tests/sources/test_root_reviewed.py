"""What a review of all of ROOT found: addresses with secrets, and whatever fell between the parts."""

from __future__ import annotations

import logging
import struct
import traceback
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import A, B, check, events, rewrite, write_tree
from test_remote import got, local, memory, server  # noqa: F401 (fixtures)

import mmdask as mm
from mmdask.sources.address import check_address, public_address
from mmdask.sources.converting import conversion, jobs
from mmdask.sources.root.reader import RootFiles


def run(sources, out, **kwargs):
    return mm.from_root(sources, out, progress=False, **kwargs)


def everything(folder):
    return b"".join(p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file())


SIGNED = "?X-Amz-Expires=60&X-Amz-Signature=S3CR3T"


@pytest.mark.parametrize(
    "address",
    [
        "https://me:S3CR3T@server/a.root",
        "https://S3CR3T@server/a.root:nominal",
        "https://me:S3CR3T/S3CR3T@server/a.root",
        "https://me:pw@S3CR3T/S3CR3T@server/a.root",
        "https://me:S3CR3T@server/a.root?sig=S3CR3T:nominal",
        "root://me:S3CR3T@server//a.root",
        "s3://me:S3CR3T@bucket/a.root?x=1",
        "simplecache::https://me:S3CR3T@server/a.root",
        "zip://a.root::https://me:S3CR3T@server/a.zip",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path, address):
    for sources in (address, {address: {"process": "a"}}, [address]):
        with pytest.raises(mm.OptionError, match=r"password.*fsspec\.config\.conf") as error:
            run(sources, tmp_path / "out.mm")
        assert "S3CR3T" not in "".join(traceback.format_exception(error.value))
    with pytest.raises(mm.OptionError, match="password") as error:
        mm.inspect_root(address)
    assert "S3CR3T" not in str(error.value)
    assert not (tmp_path / "out.mm").exists()


def test_what_looks_like_a_password_and_is_none(tmp_path):
    for address in ("root://me@server//a:b@c.root", "https://[::1]:80/a@b.root", "https://server:80/a@b.root:t"):
        check_address(address)


def test_a_signed_address_is_not_kept(tmp_path, server, caplog):  # noqa: F811
    caplog.set_level(logging.DEBUG)
    server.put("a.root", local(tmp_path, "a.root", A))
    out = tmp_path / "out.mm"
    url = server.url("a.root")
    ds = run(url + SIGNED, out)
    check(out, *A)
    assert [s.uri for s in ds.sources] == [url]
    assert b"S3CR3T" not in everything(out)
    assert mm.inspect_root(url + SIGNED).path == url
    # signed anew, or not at all, it is the same file
    server.log.clear()
    for again in (url + SIGNED.replace("S3CR3T", "S3CR3T2"), url):
        assert run(again, out, plan=True).is_empty
    assert "GET" not in {method for method, *_ in server.log}
    server.put("a.root", local(tmp_path, "a.root", B), when="Sat, 21 Nov 2026 11:00:00 GMT")
    run(url + SIGNED, out, workers=2, check="hash")
    check(out, *B)
    assert b"S3CR3T" not in everything(out)
    assert "S3CR3T" not in repr(mm.from_root(url + SIGNED, out, plan=True, progress=False))


def test_a_query_that_says_which_file_it_is(tmp_path, server):  # noqa: F811
    server.put("get", local(tmp_path, "a.root", A))
    one, two = (server.url("get") + f"?file={n}&token=S3CR3T" for n in (1, 2))
    out = tmp_path / "out.mm"
    ds = run([one, two], out)
    check(out, *A, *A)
    assert len({s.uri for s in ds.sources}) == 2
    assert b"S3CR3T" not in everything(out)
    assert run([one.replace("S3CR3T", "x"), two], out, plan=True).is_empty
    with pytest.raises(mm.OptionError, match="named twice") as error:
        run([one, one.replace("S3CR3T", "S3CR3T2")], out)
    assert "S3CR3T" not in str(error.value)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_no_error_repeats_a_token(tmp_path, server, status):  # noqa: F811
    server.put("a.root", local(tmp_path, "a.root", A))
    server.mood["status"] = status
    with pytest.raises(mm.SourceError) as error:
        run(server.url("a.root") + SIGNED, tmp_path / "out.mm")
    assert "S3CR3T" not in "".join(traceback.format_exception(error.value))
    server.mood.update(status=None, ranges=False)
    with pytest.raises(mm.SourceError) as error:
        run(server.url("a.root") + SIGNED, tmp_path / "out.mm")
    assert "S3CR3T" not in "".join(traceback.format_exception(error.value))
    server.mood.update(ranges=True, drop=10**6, drop_from=200)
    with pytest.raises(mm.SourceError) as error:
        run(server.url("a.root") + SIGNED, tmp_path / "out.mm")
    assert "S3CR3T" not in "".join(traceback.format_exception(error.value))
    server.mood.update(drop=0)
    server.put("a.root", b"nothing" * 100)
    with pytest.raises(mm.SourceError, match="not a ROOT file") as error:
        run(server.url("a.root") + SIGNED, tmp_path / "out.mm")
    assert "S3CR3T" not in "".join(traceback.format_exception(error.value))


def test_local_names_are_as_they_are(tmp_path):
    name = str(tmp_path / "a?b=c.root")
    assert public_address(name) == name
    write_tree(name, A)
    ds = run(name, tmp_path / "out.mm")
    assert [s.uri for s in ds.sources] == [name]


def with_offset(path, k, value):
    """A file with three lists of floats, of which the basket says that list `k` begins at another byte."""
    counts = [2, 0, 3]
    with uproot.recreate(path, compression=None) as file:
        file.mktree("t", {"x": "i4", "jet": "var * float32"})
        items = ak.unflatten(np.arange(5, dtype="f4") + 1, counts)
        file["t"].extend({"x": np.arange(3, dtype="i4"), "jet": items})
    with uproot.open(path) as file:
        branch = file["t"]["jet"]
        header = branch.basket(0).member("fKeylen")
        at = int(branch.member("fBasketSeek")[0]) + header + 4 * sum(counts) + 4 * (k + 1)
    data = bytearray(path.read_bytes())
    assert struct.unpack_from(">i", data, at) == (header + 4 * sum(counts[:k]),)
    struct.pack_into(">i", data, at, header + value)
    path.write_bytes(data)


@pytest.mark.parametrize(("k", "value"), [(0, -64), (0, 4), (1, 400), (2, -8), (2, 4)])
def test_lists_that_do_not_fit_their_items(tmp_path, k, value):
    """uproot gives memory that nobody wrote for items that are not there."""
    with_offset(tmp_path / "a.root", k, value)
    with pytest.warns(mm.SkippedFieldsWarning, match="'jet'"):
        ds = run(tmp_path / "a.root", tmp_path / "out.mm")
    assert "jet" not in ds.fields
    assert ds["x"].compute().tolist() == [0, 1, 2]
    with pytest.raises(mm.SourceError, match="'jet'.*items"):
        run(tmp_path / "a.root", tmp_path / "named.mm", fields=["jet"])


def test_a_plan_counts_the_rows_of_all_parts_that_go(tmp_path):
    for file in ("a.root", "b.root"):
        write_tree(tmp_path / file, [events(40, seed) for seed in range(6)])
    out = tmp_path / "out.mm"
    run([tmp_path / "a.root", tmp_path / "b.root"], out, part_nbytes=1)
    plan = run([tmp_path / "a.root"], out, part_nbytes=1, missing="drop", plan=True)
    assert [(i.action, i.rows) for i in plan] == [("keep", None), ("drop", 240)]


def test_a_plan_knows_what_a_dead_call_left_of_a_merged_part(tmp_path, monkeypatch):
    """Of a merged part one file changed; its rows and copies of the others were there, and only the commit was not."""
    monkeypatch.setattr(jobs, "MANY", 1)
    files = [tmp_path / f"{name}.root" for name in "abc"]
    for file in files:
        write_tree(file, A)
    out = tmp_path / "out.mm"
    run(files, out)
    rewrite(files[1], B)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conversion, "commit", killed)
        run(files, out)
    plan = run(files, out, plan=True)
    assert [i.action for i in plan] == ["resume"] * 3
    assert (plan.nbytes, plan.parts, plan.is_empty) == (0, 0, False)
    monkeypatch.setattr(RootFiles, "open", None)  # nothing is decoded
    run(files, out)
    check(out, *A, *B, *A)
