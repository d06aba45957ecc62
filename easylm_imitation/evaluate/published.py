"""Scores that others published, as results: labelled, without items, so that nothing is paired with them.

    model: ChatGPT
    source: arXiv 2306.04751, Table 3
    role: teacher
    scores:
      - {task: gsm8k_cot@published, metric: exact_match, score: 0.76, shots: 8}
"""
import dataclasses
import datetime
import pathlib
from typing import Literal

import yaml

from easylm_imitation.evaluate.tasks.files import FOLDER
from easylm_imitation.files import digest
from easylm_imitation.records import Lineage, Results, TaskResult, code_version
from easylm_imitation.schema import UserError, build, nearest

PUBLISHED = FOLDER.parent / "published_scores"


@dataclasses.dataclass(frozen=True)
class Score:
    """One published number; `score` as a share, 0 to 1."""
    task: str
    metric: str
    score: float
    shots: int = 0
    prompts: tuple[Literal["raw", "chat"], ...] = ("raw", "chat")   # the forms of ours that it may stand beside
    form: Literal["choices", "generation", "style"] = "generation"
    group: Literal["substance", "style"] = "substance"


@dataclasses.dataclass(frozen=True)
class Published:
    """A file of published numbers of one model."""
    model: str
    source: str                     # where they are printed
    scores: tuple[Score, ...]
    role: Literal["", "base", "imitation", "teacher"] = "teacher"


def published_results(path: str, command: str = "") -> Results:
    """The results of a file of published numbers (YAML or JSON), or of a bundled one by its name.

    Raises UserError for a file that is absent or of another form, and for a score that is no share.
    """
    file = pathlib.Path(path)
    if not file.exists() and not file.suffix:
        names = {p.stem: p for p in PUBLISHED.glob("*.yaml")}
        if path not in names:
            raise UserError(f"--published {path}: no such file, nor a bundled one{nearest(path, names)}")
        file = names[path]
    try:
        given = build(Published, yaml.safe_load(file.read_text(encoding="utf-8")), str(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not a readable file of published scores ({' '.join(str(error).split())})") from None
    bad = next((s for s in given.scores if not 0 <= s.score <= 1), None)
    if bad or not given.scores:
        told = f"the score of '{bad.task}' is {bad.score}; write shares, 0 to 1" if bad else "no scores in it"
        raise UserError(f"{file}: {told}")
    own = digest(["published", given.model])
    tasks = [TaskResult(s.task, prompt, s.form, s.metric, s.score, (), s.shots, "", "published", s.group)
             for s in given.scores for prompt in s.prompts]
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    lineage = Lineage(id=own, name=given.model, base=own, base_name=given.model)
    return Results(lineage, tuple(tasks), given.role, command, date, code_version(), {"source": given.source})
