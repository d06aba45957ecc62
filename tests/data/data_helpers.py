"""What the data tests share."""
import json

from easylm_imitation.data.convert import Reader, check
from easylm_imitation.data.formats import Cut
from easylm_imitation.data.sources import Drop


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def convert(record, source, dataset, number):
    """The conversations that a record of `source` holds; raises Drop when it, or one of them, is of no use."""
    made = [one for one in Reader(source, dataset).conversations(record, number) if not isinstance(one, Cut)]
    for conversation in made:
        if isinstance(conversation, Drop):
            raise conversation
        check(conversation.messages)
    return made


def listing(folder):
    """Everything below `folder`, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
