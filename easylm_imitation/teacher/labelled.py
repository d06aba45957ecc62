"""Reading text whose parts stand under labels, `Input: ...`, however a model has decorated them.

Line by line, not by one large pattern: over the endless line breaks of a weak model that would go back and forth for
hours.
"""
import re


def sections(text: str, *labels: str) -> list[tuple[str, str]]:
    """(label, what stands under it) in order; ("", ...) is what stands before the first.

    A label opens its line, but for numbers, bold type, bullets and `#`, and ends with a colon; its own number is passed
    over. Labels come in the spelling of `labels`, contents are stripped. A line of `#` alone ends what is before it and
    has the label "#".

    >>> sections("Sure!\\n1. **Input 1:** a\\nb\\n###\\noutput: c", "Input", "Output")
    [('', 'Sure!'), ('Input', 'a\\nb'), ('#', ''), ('Output', 'c')]
    """
    opens = re.compile(rf"[\s*#>-]*+(?:\d++\s*+[.):][\s*]*+)?({'|'.join(labels)})\s*+\d*+[\s*]*+:(?:\*\*)?(.*)",
                       re.IGNORECASE | re.DOTALL)
    spelt = {label.lower(): label for label in labels}
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        if match := opens.match(line):
            found.append((spelt[match[1].lower()], [match[2]]))
        elif line.strip() and not line.strip().strip("#"):
            found.append(("#", []))
        else:
            found[-1][1].append(line)
    made = [(label, "\n".join(lines).strip()) for label, lines in found]
    return made if made[0][1] else made[1:]
