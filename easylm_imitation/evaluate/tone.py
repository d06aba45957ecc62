"""The last row of the paper's Table 2: the share of answers with an authoritative tone, as a judge hears it.

The paper says "authoritative tone according to GPT-4" and prints no prompt; ours puts that phrase to the judge as a
question about tone alone. Replies that are neither yes nor no are counted, and left out of the share.
"""
import dataclasses
import os
from collections.abc import Sequence

from easylm_imitation.evaluate.judging import JudgeConfig, ask_judge, question, yes_or_no
from easylm_imitation.evaluate.style_profile import Measure, mean
from easylm_imitation.records import Answer
from easylm_imitation.schema import UserError

_QUESTION = """Here are a question and an answer to it. Judge the tone of the answer alone, not whether it is right:
is it written in an authoritative tone? Reply with one word, yes or no.

[Question]
{prompt}

[Answer]
{answer}"""


@dataclasses.dataclass(frozen=True)
class Tone:
    """The share of a set's answers that the judge finds authoritative, and what it took to learn that."""
    share: Measure
    unclear: int                    # replies that were neither yes nor no
    judge: str
    cost: float                     # US dollars, of the whole journal
    heard: dict[str, bool | None]   # by prompt id; None where unclear


def authoritative_tone(answers: Sequence[Answer], config: JudgeConfig, journal: str | os.PathLike) -> Tone:
    """Asks the judge about each answer; resumes from `journal`. Raises UserError when no reply is a yes or a no."""
    questions = {a.prompt_id: question(_QUESTION.format(prompt=a.prompt, answer=a.answer)) for a in answers}
    judged = ask_judge(config, questions, journal)
    heard = {i: yes_or_no(reply.text) for i, reply in judged.replies.items()}
    clear = [float(said) for said in heard.values() if said is not None]
    if not clear:
        raise UserError(f"the judge '{judged.judge}' replied neither yes nor no to any of {len(heard)} questions; "
                        f"see {journal}, and name a judge that follows instructions")
    return Tone(mean(clear), len(heard) - len(clear), judged.judge, judged.cost, heard)
