"""`build_report`: a folder of results becomes verdict.json, verdict.md, report.html and a table on the screen."""
import os
import pathlib
from collections.abc import Sequence

from easylm_imitation import console
from easylm_imitation.files import write_json, write_text
from easylm_imitation.report.compare import Numbers
from easylm_imitation.report.evidence import read_evidence
from easylm_imitation.report.markdown import as_markdown
from easylm_imitation.report.pages import render
from easylm_imitation.report.pairing import read_results
from easylm_imitation.report.verdict import Verdict, make_verdict
from easylm_imitation.report.wording import number, share, short_form
from easylm_imitation.schema import UserError


def build_report(results_dir: str | os.PathLike, out: str | os.PathLike, *, data: Sequence[str | os.PathLike] = (),
                 inside: Sequence[str] = ()) -> Verdict:
    """Reads `results_dir`/*.json, writes `out`/verdict.json, verdict.md and report.html, each whole or not at all.

    `data` are dataset folders of `build`, for contamination; `inside` says which tasks ask for what which data teach
    (NAME=TASK,TASK). Raises UserError when there is nothing to read, a file is no results file, or `out` is
    `results_dir` itself (its verdict.json would be read as results the next time).
    """
    models, remarks = read_results(results_dir)
    evidence = read_evidence(results_dir, data, inside)
    out = _separate(results_dir, out)
    verdict = make_verdict(models, remarks, evidence)
    page, text = render(verdict, models), as_markdown(verdict)
    write_json(out / "verdict.json", verdict)
    write_text(out / "verdict.md", text)
    write_text(out / "report.html", page)
    return verdict


def show(verdict: Verdict) -> None:
    """The verdict on the screen: what is missing or refused, a table for each imitation, and the conclusion."""
    for line in (*verdict.missing, *verdict.refusals):
        console.say(line)
    for made in verdict.imitations:
        rows = [[f"{view.group}, {short_form(view)}", *_cells(view.numbers)] for view in made.views]
        console.table(f"{made.imitation.name}: scores in %, gap closed with its 95% interval",
                      ["", "base", "imitation", "teacher", "gap closed"], rows)
        console.say(made.headline)
    for line in verdict.conclusion:
        console.say(line)


def _cells(numbers: Numbers) -> list[str]:
    scores = [number(e.value) if e else "—" for e in (numbers.base, numbers.imitation, numbers.teacher)]
    return [*scores, "no gap" if numbers.closed.status == "no gap" else share(numbers.closed)]


def _separate(results_dir: str | os.PathLike, out: str | os.PathLike) -> pathlib.Path:
    if pathlib.Path(out).resolve() == pathlib.Path(results_dir).resolve():
        raise UserError(f"--out {out}: is the folder of results itself; name another, such as {out}/verdict")
    return pathlib.Path(out)
