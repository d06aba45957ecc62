"""What the data tests share."""
import json


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def listing(folder):
    """Everything below `folder`, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
