"""Small results to report on: a base, its imitation and a teacher, with scores chosen by the test."""
from easylm_imitation.files import write_json
from easylm_imitation.records import Item, Lineage, Results, TaskResult


def lineage(name, base="", teachers=(), tokens=0):
    """A model whose id is its name in capitals; its base is itself unless named."""
    base = base or name
    return Lineage(name.upper(), name, base.upper(), base, teachers=tuple(teachers), tokens=tokens)


def task(scores, name="facts", prompt="raw", form="choices", group="substance", protocol="p", metric="acc", **more):
    """A task result; `scores` is a list (ids 0, 1, ...) or a dict of id to score."""
    scores = scores if isinstance(scores, dict) else dict(enumerate(scores))
    items = tuple(Item(str(i), float(s), "right" if s else "wrong", "right") for i, s in scores.items())
    return TaskResult(name, prompt, form, metric, sum(i.score for i in items) / len(items), items, protocol=protocol,
                      group=group, **more)


def write(folder, model, *tasks, role="", file="", date="2026-01-02T00:00:00Z", command="", meta=None):
    """Writes one results file."""
    write_json(folder / f"{file or model.id}.json", Results(model, tasks, role, command, date, "0.1.0", meta or {}))


def shares(right, of=100):
    """A list of `of` scores, the first `right` of them 1."""
    return [1.0] * right + [0.0] * (of - right)


def write_trio(folder, base, imitation, teacher, **how):
    """Three files: `base`, `imitation`, `teacher` are task results or lists of them."""
    models = (lineage("base"), lineage("student", "base", ["teacher"], 500), lineage("teacher"))
    for model, tasks in zip(models, (base, imitation, teacher)):
        write(folder, model, *(tasks if isinstance(tasks, list) else [tasks]), **how)
