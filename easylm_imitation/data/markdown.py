"""HTML of saved chats as markdown, by markdownify, with what is particular to ShareGPT's pages."""
import re
import warnings
from typing import Any, Literal

from easylm_imitation.data.sources import Drop, package

_VALUE = r"""(?:"[^"<>]*"|'[^'<>]*'|[^\s"'=<>`]+)"""
_BLOCK = r"p|div|pre|ol|ul|table|h[1-6]|blockquote"
_INLINE = r"span|code|li|tr|td|th|thead|tbody|br|hr|a|em|strong|b|i|img|button|sup|sub|svg|path|del"
_TAG = rf"</?(?:{_BLOCK}|{_INLINE})(?:\s+[\w:@-]+\s*=\s*{_VALUE})*\s*/?>"     # nothing but name="value" in it
_BEGINS = re.compile(rf"\s*<(?:{_BLOCK})(?=[\s>])(?:\s+[\w:@-]+\s*=\s*{_VALUE})*\s*>", re.IGNORECASE)
_IN_TAGS = re.compile(rf"\s*{_TAG}.*{_TAG}\s*|\s*{_TAG}\s*", re.IGNORECASE)
_NEARLY_ALL = 0.9   # of a text's lines
_COPY = re.compile(r"^[ \t]*Copy code[ \t]*(?:\n|\Z)", re.MULTILINE)
_PAGE = re.compile(r"\A\s*\d+ / \d+(?=[^\W\d_]|\n|<)|Copy\d+ chars / \d+ words")    # "2 / 2Hello": a chat's branches
_LANGUAGE = re.compile(r"language-([\w+#-]+)")


def from_html(text: str, like: Literal["", "fastchat"] = "") -> str:
    """`text` as markdown where it is HTML: it begins with a block's tag, or nearly all its lines stand in tags. Any
    other text, code that names tags among them, only loses what the page added.

    `like="fastchat"` follows its cleaning: every text is taken for HTML, `*` and `_` are escaped, code blocks are
    found by their "Copy code", three line breaks become one.

        "<p>Use <b>x</b>:</p><pre><div>python<button>Copy code</button></div><code>x = 1</code></pre>"
        -> "Use **x**:\\n\\n```\\nx = 1\\n```"

    Raises Drop for HTML that is nested hundreds of elements deep, as a list is whose items are never closed.
    """
    try:
        return _as_fastchat(text) if like else _as_markdown(without_page(text))
    except RecursionError:
        raise Drop("html", "nested too deep") from None


def _as_markdown(text: str) -> str:
    if not _is_html(text):
        return _COPY.sub("", text).strip("\n").rstrip()
    soup = _parsed(text)
    for block in soup.find_all("pre"):
        _keep_code(block)
    made = _converter(escape_asterisks=False, escape_underscores=False, escape_misc=False, heading_style="ATX",
                      bullets="*", code_language_callback=_language).convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", made).strip()


def without_page(text: str) -> str:
    """`text` without the numbers that ShareGPT's page puts before and after a turn."""
    return _PAGE.sub("", text)


def _is_html(text: str) -> bool:
    if _BEGINS.match(text):
        return True
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and sum(bool(_IN_TAGS.fullmatch(line)) for line in lines) >= _NEARLY_ALL * len(lines)


def _parsed(text: str) -> Any:
    soup = package("bs4", "the rule 'html'")
    with warnings.catch_warnings():     # a text that looks like a file name or an address is still a text
        warnings.simplefilter("ignore")
        return soup.BeautifulSoup(text, "html.parser")


def _converter(**options: Any) -> Any:
    return package("markdownify", "the rule 'html'").MarkdownConverter(**options)


def _keep_code(block: Any) -> None:
    """Leaves nothing in a <pre> but its code: the bar above it says the language and "Copy code"."""
    code = block.find("code")
    if code is not None:
        language = _LANGUAGE.search(" ".join(code.get("class") or ()))
        block["class"] = [language.group(0)] if language else []
        block.string = code.get_text().strip("\n") + "\n"


def _language(block: Any) -> str:
    found = _LANGUAGE.search(" ".join(block.get("class") or ()))
    return found.group(1) if found else ""


def _as_fastchat(text: str) -> str:
    text = re.sub(r"<(?:div|span).*?>", "", text)
    text = _converter().convert_soup(_parsed(text))
    text = re.sub(r"```\s*(.*?)(?:Copy code)+(.+?)\s*?```", r"```\1\n\2\n```", text, flags=re.DOTALL)
    text = re.sub(r"\A\d+ / \d+", "", text.strip())
    text = re.sub(r"Copy\d+ chars / \d+ words", "", text)
    text = re.sub(r"```(.*?)Copy code\s*```", "", text, flags=re.DOTALL)
    return text.replace("\n\n\n", "\n").strip()
