"""Studies of answers that say who wrote them, so that a test knows what raters must not."""
import contextlib

from easylm_imitation.evaluate import people
from easylm_imitation.files import write_jsonl
from easylm_imitation.records import Answer

TEACHER = "the teacher"


def spoken(who, i):
    """What `who` answers to prompt i."""
    return f"Answer of {who} to {i}."


def write_answers(folder, models=1, prompts=6, say=spoken):
    """Files a0.jsonl, a1.jsonl, ... and teacher.jsonl; their names."""
    names = {f"a{n}.jsonl": f"model {n}" for n in range(models)} | {"teacher.jsonl": TEACHER}
    for file, who in names.items():
        write_jsonl(folder / file, [Answer(f"p{i}", f"Question {i}", say(who, i), who) for i in range(prompts)])
    return [str(folder / file) for file in names]


def make_study(folder, config, *, checks=None, **sizes):
    """(sets, an open study)."""
    folder.mkdir(exist_ok=True)
    *models, reference = write_answers(folder, **sizes)
    sets = people.read_sets(models, reference, config, checks=checks)
    return sets, people.Study(people.study_path(folder / "people.json"), sets, config)


@contextlib.contextmanager
def open_study(folder, config, **more):
    """Yields (an open study, its sets)."""
    sets, study = make_study(folder, config, **more)
    try:
        yield study, sets
    finally:
        study.close()


def ask(client, token, path, body=None):
    """One call of the study's API."""
    headers = {"Authorization": f"Bearer {token}".strip().encode()}
    url = f"/api/{path}"
    return client.get(url, headers=headers) if body is None else client.post(url, headers=headers, json=body)
