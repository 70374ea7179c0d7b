"""Files on servers: a server of HTTP in a thread, in all the moods that servers have, and a file system in memory."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from urllib.parse import parse_qsl

import fsspec
import numpy as np
import pytest
from root_tools import A, B, C, assert_same_bits, check, columns, events, read_store, write_tree

import mmdask as mm
from mmdask.cli import main
from mmdask.sources import remote
from mmdask.sources.address import check_address
from mmdask.sources.converting.inputs import find_inputs

pytest.importorskip("aiohttp", reason="HTTP needs aiohttp: pip install 'mmdask[http]'")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.reply(body=False)

    def do_GET(self):
        self.reply(body=True)

    def reply(self, body):
        mood = self.server.mood
        name = self.path.partition("?")[0].strip("/")
        asked = self.headers.get("Range")
        self.server.log.append((self.command, name, asked))
        token = dict(parse_qsl(self.path.partition("?")[2])).get("token")
        if mood["status"] is not None or mood["token"] not in (None, token):
            return self.send(mood["status"] or 403, b"no", {}, body)
        if not name:
            links = "".join(f'<a href="/{f}">{f}</a>' for f in sorted(self.server.files))
            return self.send(200, links.encode(), {"Content-Type": "text/html"}, body)
        if name not in self.server.files:
            return self.send(404, b"no such file", {}, body)
        content, headers = self.server.files[name]
        if asked is None or not mood["ranges"]:
            return self.send(200, content, headers, body)
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups()
        part = content[int(first) : int(last) + 1]
        if body and int(first) >= mood["drop_from"] and self.server.drops():
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return self.send(206, part, {**headers, "Content-Range": where}, body)

    def send(self, status, content, headers, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    lock = threading.Lock()

    def handle_error(self, *_):
        """Clients that go away are none of ours."""

    def drops(self):
        """Whether this answer is one of those that break off; several may be asked for at once."""
        with self.lock:
            self.mood["drop"] -= (dropped := self.mood["drop"] > 0)
            return dropped

    def put(self, name, path, when="Sat, 21 Nov 2026 10:00:00 GMT", **headers):
        content = path.read_bytes() if hasattr(path, "read_bytes") else path
        self.files[name] = (content, {"Last-Modified": when, **headers} if when else headers)

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.01, 0.02))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.log = {}, []
        server.mood = {"status": None, "ranges": True, "drop": 0, "drop_from": 0, "token": None}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        fsspec.clear_instance_cache() if hasattr(fsspec, "clear_instance_cache") else None


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def local(tmp_path, file, chunks, **kwargs):
    write_tree(tmp_path / file, chunks, **kwargs)
    return tmp_path / file


def run(sources, out, **kwargs):
    return mm.from_root(sources, out, progress=False, **kwargs)


def got(server, name=None):
    return [line for line in server.log if line[0] == "GET" and (name is None or line[1] == name)]


# What comes ---------------------------------------------------------------------------------------------------------


def test_a_file_on_a_server_is_read_in_parts(tmp_path, server):
    chunks = [events(50_000, seed) for seed in range(3)]
    path = local(tmp_path, "a.root", chunks)
    server.put("data/a.root", path)
    out = tmp_path / "s.mm"
    ds = run({f"{server.url('data/a.root')}:events": {"process": "ttbb"}}, out, fields=["met"])
    assert_same_bits(read_store(out)["met"], np.concatenate([c["met"] for c in chunks]))
    assert ds.sources[0].uri == server.url("data/a.root")
    assert ds.sources[0].tree == "events"
    asked = [re.findall(r"\d+", r) for _, _, r in got(server) if r]
    n = sum(int(b) - int(a) + 1 for a, b in asked)
    assert n < 0.6 * path.stat().st_size  # one branch of three
    assert all(r for _, _, r in got(server))


@pytest.mark.parametrize("format", ["ttree", "rntuple"])
def test_both_formats_come_as_from_a_disk(tmp_path, server, format):
    ds = mm.from_arrays({"x": np.arange(1000), "j": [[1.5] * (i % 4) for i in range(1000)]}, tmp_path / "w.mm")
    ds.to_root(tmp_path / "f.root", "nominal", format=format, progress=False)
    server.put("f.root", tmp_path / "f.root")
    here, there = run(tmp_path / "f.root", tmp_path / "a.mm"), run(server.url("f.root"), tmp_path / "b.mm")
    assert here.fields == there.fields
    for name in here.fields:
        assert here[name].compute().tolist() == there[name].compute().tolist()


def test_the_same_call_again_asks_for_the_size_and_time_alone(tmp_path, server):
    out = tmp_path / "s.mm"
    server.put("a.root", local(tmp_path, "a.root", A))
    server.put("b.root", local(tmp_path, "b.root", B))
    names = [server.url("a.root"), server.url("b.root")]
    run(names, out)
    check(out, *A, *B)
    generation = mm.open(out).generation
    server.log.clear()
    run(names, out)
    assert mm.open(out).generation == generation
    assert {line[0] for line in server.log} == {"HEAD"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"when": "Sat, 21 Nov 2026 10:00:01 GMT"}),
        ({"ETag": '"one"'}, {"ETag": '"two"'}),
        ({"when": None, "ETag": '"one"'}, {"when": None, "ETag": '"two"'}),
    ],
)
def test_what_changed_is_read_again(tmp_path, server, before, after):
    out = tmp_path / "s.mm"
    same_size = [{**B[0]}, {**B[1]}]
    a, b = local(tmp_path, "a.root", A, compression=None), local(tmp_path, "b.root", A[::-1], compression=None)
    assert a.stat().st_size == b.stat().st_size
    server.put("a.root", a, **before)
    server.put("other.root", local(tmp_path, "other.root", same_size))
    names = [server.url("a.root"), server.url("other.root")]
    run(names, out)
    server.put("a.root", b, **after)
    server.log.clear()
    run(names, out)
    check(out, *A[::-1], *B)
    assert not got(server, "other.root")


def test_a_hash_of_the_contents(tmp_path, server):
    out = tmp_path / "s.mm"
    server.put("a.root", local(tmp_path, "a.root", A))
    run(server.url("a.root"), out, check="hash")
    generation = mm.open(out).generation
    server.put("a.root", tmp_path / "a.root", when="Sat, 21 Nov 2026 11:11:11 GMT")  # the same, copied again
    run(server.url("a.root"), out, check="hash")
    assert mm.open(out).generation == generation


def test_wildcards_where_the_server_lists_its_files(tmp_path, server):
    for name, chunks in (("a", A), ("b", B), ("c", C)):
        server.put(f"{name}.root", local(tmp_path, f"{name}.root", chunks))
    server.put("notes.txt", b"hello")
    run(f"{server.url('')}[ab]*.root:events", tmp_path / "s.mm")
    check(tmp_path / "s.mm", *A, *B)
    with pytest.raises(mm.SourceNotFoundError, match="no file matches"):
        run(f"{server.url('')}z*.root", tmp_path / "no.mm")


def test_wildcards_with_what_lets_one_in(tmp_path, server):
    server.mood["token"] = "ab/c="
    for name, chunks in (("a", A), ("b", B)):
        server.put(f"{name}.root", local(tmp_path, f"{name}.root", chunks))
    pattern = server.url("*.root")
    for call in range(2):
        ds = run(f"{pattern}?token=ab/c=", tmp_path / "s.mm", tree="events")
        check(tmp_path / "s.mm", *A, *B)
        if not call:
            read = len(server.log)
    assert not any(line[2] for line in server.log[read:]), "nothing is new, though all is looked for again"
    assert [source.uri for source in ds.sources] == [server.url("a.root"), server.url("b.root")]
    assert "ab/c" not in "".join(p.read_text() for p in (tmp_path / "s.mm").rglob("*.json"))
    with pytest.raises(mm.SourceError, match="the server lists no files .*403") as wrong:
        run(f"{pattern}?token=wrong", tmp_path / "no.mm", tree="events")
    assert "wrong" not in str(wrong.value)
    with pytest.raises(mm.SourceNotFoundError, match=r"no file matches .*z\*\.root$"):
        run(f"{server.url('z*.root')}?token=ab/c=", tmp_path / "no.mm")
    (source,), _ = find_inputs(f"{server.url('a.root')}?token=ab/c=&like=*", None)  # no wildcard of a file
    assert source.location.endswith("like=*")


def test_an_address_of_github_is_no_password(tmp_path):
    for name in ("github://org:repo@main/a.root", "github://org:re.po@v1.0/*.root:events"):
        check_address(name)
    for name in (
        "github://org:ghp_0123456789@main/a.root",
        "github://me:github_pat_1@main/a.root",
        "s3://me:key@b/a.root",
    ):
        with pytest.raises(mm.OptionError, match="has a password"):
            check_address(name)


def test_names_of_trees_and_ports(tmp_path, server):
    server.put("a.root", local(tmp_path, "a.root", A, name="one"))
    url = server.url("a.root")
    for name, tree in [(url, ""), (f"{url}:one", "one"), (f"{url}?x=a.root:1", ""), (f"{url}:dir/one;2", "dir/one;2")]:
        (source,), absent = find_inputs(name, None)
        assert (source.tree, absent) == (tree, [])
        assert source.location == (f"{url}?x=a.root:1" if "?" in name else url)
        assert source.size == len(server.files["a.root"][0])
    assert find_inputs(url, "one")[0][0].tree == "one"
    with pytest.raises(mm.OptionError, match="named twice"):
        find_inputs([url, url], None)


def test_a_look_at_a_file_on_a_server(tmp_path, server, capsys):
    path = local(tmp_path, "a.root", A)
    server.put("a.root", path)
    here, there = mm.inspect_root(path), mm.inspect_root(server.url("a.root"))
    assert there.trees == here.trees
    assert main(["inspect", server.url("a.root")]) == 0
    assert capsys.readouterr().out.startswith(f"{server.url('a.root')}: ")


def test_workers_read_from_servers(tmp_path, server):
    for name, chunks in (("a", A), ("b", B)):
        server.put(f"{name}.root", local(tmp_path, f"{name}.root", chunks))
    run([server.url("a.root"), server.url("b.root")], tmp_path / "s.mm", workers=2)
    check(tmp_path / "s.mm", *A, *B)


def test_a_file_url_is_a_file(tmp_path):
    path = local(tmp_path, "a.root", A)
    run(f"file://{path}:events", tmp_path / "s.mm")
    check(tmp_path / "s.mm", *A)
    assert mm.open(tmp_path / "s.mm").sources[0].uri == str(path)


def test_any_file_system_of_fsspec(tmp_path, memory):
    for name, chunks in (("a", A), ("b", B), ("c", C)):
        memory.pipe(f"/data/{name}.root", local(tmp_path, f"{name}.root", chunks).read_bytes())
    out = tmp_path / "s.mm"
    run("memory://data/[ab].root:events", out)
    check(out, *A, *B)
    generation = mm.open(out).generation
    run("memory://data/[ab].root:events", out)
    assert mm.open(out).generation == generation
    memory.pipe("/data/a.root", (tmp_path / "c.root").read_bytes())
    run("memory://data/[ab].root:events", out)
    check(out, *C, *B)
    with pytest.raises(mm.SourceError, match="is a folder"):
        run("memory://data", out)
    memory.rm("/data/b.root")
    with pytest.raises(mm.SourceNotFoundError):
        run(["memory://data/a.root", "memory://data/b.root"], out)
    run(["memory://data/a.root", "memory://data/b.root"], out, missing="drop")
    check(out, *C)


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_a_server_that_ignores_ranges_is_told_and_not_downloaded(tmp_path, server):
    server.mood["ranges"] = False
    server.put("a.root", local(tmp_path, "a.root", [events(100_000)]))
    with pytest.raises(mm.SourceError, match="sends whole files only.*copy the file to this machine first"):
        run(server.url("a.root"), tmp_path / "s.mm")
    assert not (tmp_path / "s.mm" / "manifest.json").exists()
    assert len(got(server)) <= 2


def test_a_connection_that_breaks_is_tried_again(tmp_path, server):
    server.put("a.root", local(tmp_path, "a.root", A))
    server.mood |= {"drop": 2, "drop_from": 200}
    run(server.url("a.root"), tmp_path / "s.mm")
    assert server.mood["drop"] == 0
    check(tmp_path / "s.mm", *A)


def test_a_connection_that_stays_broken_is_an_error_and_no_missing_field(tmp_path, server):
    out = tmp_path / "s.mm"
    server.put("a.root", local(tmp_path, "a.root", [events(20_000)]))
    run_first = server.url("a.root")
    server.mood |= {"drop": 10**9, "drop_from": 2000}
    with pytest.raises(mm.SourceError, match=r"a\.root: the server or the way to it failed .*; call again") as caught:
        run(run_first, out)
    assert not isinstance(caught.value, mm.SourceNotFoundError)
    assert not (out / "manifest.json").exists()
    server.mood["drop"] = 0
    run(run_first, out)
    check(out, events(20_000))


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_server_that_refuses_is_not_a_file_that_is_gone(tmp_path, server, status):
    out = tmp_path / "s.mm"
    server.put("a.root", local(tmp_path, "a.root", A))
    run(server.url("a.root"), out)
    server.mood["status"] = status
    with pytest.raises(mm.SourceError, match=str(status)) as caught:
        run(server.url("a.root"), out, missing="drop")
    assert not isinstance(caught.value, mm.SourceNotFoundError)
    assert len(mm.open(out)) == 10


def test_a_file_that_is_gone(tmp_path, server):
    out = tmp_path / "s.mm"
    for name, chunks in (("a", A), ("b", B)):
        server.put(f"{name}.root", local(tmp_path, f"{name}.root", chunks))
    both = [server.url("a.root"), server.url("b.root")]
    run(both, out)
    del server.files["b.root"]
    with pytest.raises(mm.SourceNotFoundError, match=re.escape(f"no file {both[1]}")):
        run(both, out)
    run(both, out, missing="drop")
    check(out, *A)


def test_nobody_answers(tmp_path, server):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # so that nobody else gets the port, and it does not listen
        with pytest.raises(mm.SourceError, match="cannot be read: ") as caught:
            run(f"http://127.0.0.1:{other.getsockname()[1]}/a.root", tmp_path / "s.mm")
    assert not isinstance(caught.value, mm.SourceNotFoundError)


def test_what_is_no_root_file(tmp_path, server):
    server.put("a.root", b"<html>" + b"x" * 500)
    with pytest.raises(mm.SourceError, match="not a ROOT file: it begins with b'<htm'"):
        run(server.url("a.root"), tmp_path / "s.mm")
    server.put("b.root", local(tmp_path, "b.root", A).read_bytes()[:-200])
    with pytest.raises(mm.SourceError, match="truncated"):
        run(server.url("b.root"), tmp_path / "s.mm")
    server.put("c.root", b"root")
    with pytest.raises(mm.SourceError, match="truncated"):
        run(server.url("c.root"), tmp_path / "s.mm")


def test_a_file_that_changes_while_it_is_read(tmp_path, server, monkeypatch):
    server.put("a.root", local(tmp_path, "a.root", A))
    before = remote.RemoteFile.read

    def read(self, ranges):
        found = before(self, ranges)
        server.put("a.root", tmp_path / "a.root", when="Sat, 21 Nov 2026 12:00:00 GMT")
        return found

    monkeypatch.setattr(remote.RemoteFile, "read", read)
    with pytest.raises(mm.SourceError, match="changed while it was converted"):
        run(server.url("a.root"), tmp_path / "s.mm")


def test_what_needs_another_package(tmp_path):
    with pytest.raises((mm.MissingDependencyError, mm.SourceError), match="root://server//a.root"):
        run("root://server//a.root", tmp_path / "s.mm")
    with pytest.raises(mm.SourceError, match="nonsense"):
        run("nonsense://server/a.root", tmp_path / "s.mm")


def test_how_xrootd_says_that_a_file_is_gone(memory, monkeypatch):
    def info(self, path, **_):
        raise OSError(f"File stat request failed: [ERROR] Server responded with an error: {said}")

    monkeypatch.setattr(type(memory), "info", info)
    said = "[3011] No such file or directory"
    with pytest.raises(mm.SourceNotFoundError, match="no file memory://a.root"):
        remote.remote_state("memory://a.root")
    said = "[3010] permission denied"
    with pytest.raises(mm.SourceError, match="permission denied") as caught:
        remote.remote_state("memory://a.root")
    assert not isinstance(caught.value, mm.SourceNotFoundError)


# Pure ---------------------------------------------------------------------------------------------------------------


def test_times_of_all_spellings():
    ns = remote._nanoseconds
    noon = 1795262400 * 10**9
    assert ns("Sat, 21 Nov 2026 12:00:00 GMT") == noon
    assert ns("2026-11-21T12:00:00Z") == ns("2026-11-21T12:00:00+00:00") == noon
    assert ns(1795262400.0) == ns("1795262400") == noon
    assert ns(None) == ns("yesterday") == ns("") == 0
    assert time.gmtime(noon // 10**9)[:4] == (2026, 11, 21, 12)


def test_ranges_near_each_other_are_asked_for_together(memory, monkeypatch):
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 3_000_000, "u1").tobytes()
    memory.pipe("/f.root", content)
    reader = remote.RemoteFile("memory://f.root")
    asked = []
    before = reader._fs.cat_ranges

    def cat_ranges(paths, starts, ends, **kwargs):
        asked.extend(zip(starts, ends, strict=True))
        return before(paths, starts, ends, **kwargs)

    monkeypatch.setattr(reader._fs, "cat_ranges", cat_ranges)
    for _ in range(30):
        starts = rng.integers(0, len(content) - 50_000, rng.integers(1, 8))
        ranges = [(int(a), int(a) + int(rng.integers(0, 50_000))) for a in starts]
        assert reader.read(ranges) == [content[a:b] for a, b in ranges]
    asked.clear()
    reader.read([(100, 200), (0, 50), (250, 300), (2_000_000, 2_000_010)])
    assert asked == [(0, 300), (2_000_000, 2_000_010)]


def test_columns_are_what_the_tests_think():
    assert columns(A)["met"] == [*A[0]["met"], *A[1]["met"]]


def test_a_look_takes_few_requests(tmp_path, server):
    names = [f"b{i}" for i in range(60)]
    chunk = {name: np.zeros(20_000, "i4") for name in names}
    server.put("a.root", local(tmp_path, "a.root", [chunk]))
    (tree,) = mm.inspect_root(server.url("a.root")).trees
    assert {c.codec for c in tree.columns} == {"ZLIB"}
    assert len(server.log) < 30
