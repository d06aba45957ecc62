"""benchmarks/serve_overhead.py runs: every route that it asks answers."""
import importlib
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_overhead_benchmark_gets_an_answer_from_every_route(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    overhead = importlib.import_module("serve_overhead")
    tables = []
    monkeypatch.setattr(overhead, "report", lambda title, columns, rows: tables.append((columns, rows)))
    monkeypatch.setattr("sys.argv", ["serve_overhead.py", "--requests", "5"])
    overhead.main()
    (columns, rows), = tables
    assert [row[0] for row in rows] == list(overhead.BODIES)
    assert all(len(row) == len(columns) and min(row[1:4]) > 0 for row in rows)
