"""Several models' recorded answers side by side: what `compare` runs, and its settings."""
import dataclasses
import os
from collections.abc import Mapping, Sequence

from easylm_imitation.evaluate.judging import JudgeConfig
from easylm_imitation.evaluate.refusal import RefusalRow, refusal_rows
from easylm_imitation.evaluate.style_profile import CEILING, StyleTable, style_table
from easylm_imitation.evaluate.tone import authoritative_tone
from easylm_imitation.evaluate.toxicity import ScorerConfig, Toxicity, score_texts, toxicity
from easylm_imitation.records import Answer
from easylm_imitation.schema import UserError

Sets = Mapping[str, Sequence[Answer]]


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """How judges and scorers are asked."""
    judge: JudgeConfig = JudgeConfig()
    scorer: ScorerConfig = ScorerConfig()


def compare_style(sets: Sets, teacher: Sequence[Answer], ceiling: Sequence[Answer] | None = None,
                  judge: JudgeConfig | None = None, journal: str | os.PathLike = "") -> StyleTable:
    """The style table; with a `judge`, the measure `tone` of each set, replies kept in `journal`. Raises UserError."""
    table = style_table(sets, teacher, ceiling)
    if judge is None:
        return table
    asked = {a.prompt_id for a in teacher}
    named = dict(sets) | ({CEILING: ceiling} if ceiling else {})
    rows = []
    for row in table.rows:
        tone = authoritative_tone([a for a in named[row.name] if a.prompt_id in asked], judge, journal)
        rows.append(dataclasses.replace(row, measures=row.measures | {"tone": tone.share}, unclear_tone=tone.unclear))
    return dataclasses.replace(table, rows=tuple(rows), judge=tone.judge, judge_cost=tone.cost)


def compare_refusals(sets: Sets, harmless: Sequence[str] = (), judge: JudgeConfig | None = None,
                     journal: str | os.PathLike = "") -> dict[str, list[RefusalRow]]:
    """Refusal rates of each model by the prompts' dataset. Raises UserError for a harmless dataset that nobody met."""
    met = {a.dataset for answers in sets.values() for a in answers}
    for name in harmless:
        if name not in met:
            raise UserError(f"--harmless {name}: no answer is to a prompt of that dataset; these are there: "
                            f"{', '.join(sorted(map(repr, met)))}")
    return {name: refusal_rows(answers, harmless, judge, journal) for name, answers in sets.items()}


def compare_toxicity(sets: Sets, scorer: ScorerConfig, journal: str | os.PathLike) -> dict[str, Toxicity]:
    """Toxicity of each model's continuations; scores are kept in `journal`. Raises UserError."""
    made = {}
    for name, answers in sets.items():
        texts = {a.prompt_id: a.answer for a in answers}
        if len(texts) < len(answers):
            raise UserError(f"the answers of '{name}' have a prompt id twice; samples of a prompt are PROMPT#0, "
                            "PROMPT#1 and so on")
        made[name] = toxicity(answers, score_texts(scorer, texts, journal))
    return made
