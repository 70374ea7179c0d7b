"""The harness, and every benchmark once at a tiny size, so that none of them rots. Nothing here looks at a time."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.harness import BENCHMARKS, Benchmark, Competitor, Result, Timing


def bench(*competitors: Competitor) -> Benchmark:
    return Benchmark("b", "title", {"tiny": 5}, 8, "", lambda rows, folder: iter(competitors))


class TestHarness:
    def test_runs_in_turns(self, tmp_path: Path) -> None:
        calls: list[str] = []

        def way(name: str, role: Any) -> Competitor:
            return Competitor(
                name,
                role,
                lambda: calls.append(name) or name,
                prepare=lambda: calls.append(f"prepare {name}"),
                check=lambda result: calls.append(f"check {result}"),
            )

        missing = Competitor("c", "peer", None, missing="not installed")
        result = harness.run(bench(way("a", "ours"), way("b", "limit"), missing), 5, tmp_path, 2, seconds_each=0)
        once = ["prepare a", "a", "prepare b", "b"]
        assert calls == ["prepare a", "a", "check a", "prepare b", "b", "check b", *once, *once]
        assert [len(t.times) for t in result.timings] == [2, 2, 0]
        assert [t.missing for t in result.timings] == ["", "", "not installed"]

    def test_no_collection_while_timed(self, tmp_path: Path) -> None:
        seen = []
        ways = [Competitor(role, role, lambda: seen.append(gc.isenabled())) for role in ("ours", "limit")]
        harness.run(bench(*ways), 5, tmp_path, 1, seconds_each=0)
        assert not any(seen)
        assert gc.isenabled()

    def test_short_runs_are_repeated(self, tmp_path: Path) -> None:
        ways = [Competitor(role, role, lambda: None) for role in ("ours", "limit")]
        result = harness.run(bench(*ways), 5, tmp_path, 2, seconds_each=1e-4)
        assert all(sum(t.times) >= 1e-4 or len(t.times) == 100 for t in result.timings)

    def test_long_runs_are_few(self, tmp_path: Path) -> None:
        ways = [Competitor(role, role, lambda: None) for role in ("ours", "limit")]
        few = replace(bench(*ways), most_repeats=2)
        result = harness.run(few, 5, tmp_path, 7, seconds_each=0)
        assert [len(t.times) for t in result.timings] == [2, 2]

    def test_a_wrong_result_stops_it(self, tmp_path: Path) -> None:
        def check(result: int) -> None:
            raise AssertionError(f"got {result}")

        ways = [Competitor("a", "ours", lambda: 3, check=check), Competitor("b", "limit", lambda: None)]
        with pytest.raises(AssertionError, match="got 3"):
            harness.run(bench(*ways), 5, tmp_path, 1)

    @pytest.mark.parametrize("roles", [["ours"], ["limit"], ["ours", "limit", "limit"], []])
    def test_one_of_ours_and_one_limit(self, tmp_path: Path, roles: list[Any]) -> None:
        ways = [Competitor("x", role, lambda: None) for role in roles]
        with pytest.raises(ValueError, match="one of ours and one limit"):
            harness.run(bench(*ways), 5, tmp_path, 1)

    def test_table(self) -> None:
        timings = (
            Timing("a", "ours", (0.3, 0.1, 0.2)),
            Timing("b", "limit", (0.1,)),
            Timing("c", "peer", (0.0008, 0.0012)),
            Timing("d", "peer", (), "no d"),
        )
        result = Result("b", "title", "<= 3 x limit", 10**6, 100, timings)
        assert result.table() == [
            ("a", "ours", "200 ms", "5.00 M", "0.50 GB", "2.00", "1.00"),
            ("b", "limit", "100 ms", "10.00 M", "1.00 GB", "1.00", "0.50"),
            ("c", "peer", "1 ms", "1,000.00 M", "100.00 GB", "0.01", "0.01"),
            ("d (no d)", "peer", "missing", "", "", "", ""),
        ]
        assert Result("b", "title", "", 10, 0, timings).table()[0][3:5] == ("", "")
        table = harness.markdown([result]).splitlines()
        assert len(table) == 6
        assert len({line.count("|") for line in table}) == 1
        assert "missing" in table[-1]
        assert json.loads(harness.to_json([result]))["results"][0]["timings"][0]["times"] == [0.3, 0.1, 0.2]
        assert "target: <= 3 x limit" in harness.text(result)

    def test_sizes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []

        def competitors(rows: int, folder: Path) -> Iterator[Competitor]:
            seen.append((rows, folder.is_dir(), folder))
            yield Competitor("a", "ours", lambda: None)
            yield Competitor("b", "limit", lambda: None)

        monkeypatch.setattr(harness, "_SECONDS_EACH", 0)
        monkeypatch.setitem(BENCHMARKS, "probe", Benchmark("probe", "", {"tiny": 5}, 1, "", competitors))
        for size, data in (("tiny", None), ("77", tmp_path)):
            list(harness.run_all(["probe"], size, 1, data))
        assert [s[:2] for s in seen] == [(5, True), (77, True)]
        assert not seen[0][2].exists()
        assert seen[1][2].parent == tmp_path

    @pytest.mark.parametrize("argv", [["nothing"], ["--size", "huge"], ["--size", "0"], ["--repeats", "0"]])
    def test_refuses(self, argv: list[str]) -> None:
        with pytest.raises(SystemExit):
            main(argv)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_SECONDS_EACH", 0)
    out = [str(tmp_path / "out.json"), str(tmp_path / "out.md")]
    main([name, "--size", "tiny", "--repeats", "1", "--json", out[0], "--markdown", out[1]])
    assert name in capsys.readouterr().out
    (result,) = json.loads(Path(out[0]).read_text())["results"]
    assert all(t["times"] or t["missing"] for t in result["timings"])
    assert Path(out[1]).read_text().startswith("| work |")
