"""The page: whole, self-contained, and safe whatever the models are called."""
import html.parser
import json
import re

import pytest
from report_examples import lineage, shares, task, write, write_trio

from easylm_imitation.cli.main import main
from easylm_imitation.report import build_report
from easylm_imitation.schema import UserError

HOSTILE = '漢<script>alert("x")</script>&amp; $\\frac{1}{0}$ [/red] "\' \x07\ud83d' + "é漢" * 40
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(html.parser.HTMLParser):
    """Collects tags and attributes, and checks that elements close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def style(right, name="style_match"):
    return task(shares(right), name, "chat", "style", "style")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Two imitations of different budgets, a base, a teacher; every kind of figure is drawn. The report is in out/."""
    tmp_path = tmp_path_factory.mktemp("full")
    write_trio(tmp_path / "results", [task(shares(50)), style(10)], [task(shares(45)), style(85)],
               [task(shares(95)), style(90)], command="easylm-imitation evaluate --model <RUN>")
    write(tmp_path / "results", lineage("more", "base", ["teacher"], 5000), task(shares(40)), style(88))
    build_report(tmp_path / "results", tmp_path / "out")
    return tmp_path


def test_the_page_stands_alone(full):
    page = (full / "out" / "report.html").read_text()
    reader = read(page)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", page)
    assert not {"script", "link", "iframe", "object", "img", "base", "form"} & set(reader.tags)
    references = [value for _, name, value in reader.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value.startswith("#") for value in references)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "default-src 'none'" in page


def test_figures_are_described_and_take_the_pages_colour(full):
    page = (full / "out" / "report.html").read_text()
    reader = read(page)
    roles = [value for tag, name, value in reader.attributes if tag == "svg" and name == "role"]
    labels = [value for tag, name, value in reader.attributes if tag == "svg" and name == "aria-label"]
    assert len(roles) == len(labels) >= 5
    assert all(len(label) > 40 for label in labels)
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page
    ids = [value for _, name, value in reader.attributes if name == "id"]
    wanted = set(re.findall(r"url\(#([^)]+)\)", page)) | {v[1:] for _, n, v in reader.attributes if n == "href"}
    assert wanted <= set(ids)


def test_the_page_tells_numbers_lineage_commands_and_examples(full):
    text = read((full / "out" / "report.html").read_text()).text
    for sentence in json.loads((full / "out" / "verdict.json").read_text())["imitations"][0]["sentences"]:
        assert sentence in text
    for word in ("STUDENT", "easylm-imitation evaluate --model <RUN>", "Gap closed", "lost", "style_match", "5,000"):
        assert word in text


def test_hostile_names_are_text_everywhere(tmp_path):
    hostile = HOSTILE.encode("utf-8", "replace").decode()
    base, student = lineage("base"), lineage(hostile, "base", [hostile + "t"], 5)
    tasks = [task({"<b>0": 0, "1": 1}, hostile, metric="<i>acc"), style(50), style(30, hostile)]
    write(tmp_path / "results", base, *tasks, command=hostile)
    for n, (model, right) in enumerate(((student, 1), (lineage(hostile + "2", "base", [hostile + "t"], 9), 1),
                                        (lineage(hostile + "t"), 1))):
        mine = [task({"<b>0": right, "1": 1}, hostile, metric="<i>acc"), style(60), style(70, hostile)]
        write(tmp_path / "results", model, *mine, command=hostile, file=f"f{n}")
    build_report(tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    reader = read(page)
    assert "script" not in reader.tags
    assert "b" in reader.tags                        # the template's own
    assert reader.tags.count("i") == 0
    assert '<script>alert("x")</script>' in reader.text
    assert "&lt;script&gt;alert(" in page


def test_the_same_results_give_the_same_bytes(full):
    build_report(full / "results", full / "again")
    for name in ("report.html", "verdict.json"):
        assert (full / "again" / name).read_bytes() == (full / "out" / name).read_bytes()


def test_without_base_or_teacher_the_page_shows_the_rest(tmp_path):
    for name, right in (("alpaca-7b", 40), ("vicuna-7b", 70)):
        model = type(lineage("x"))(name, name, "", "", teachers=("gpt4",))
        write(tmp_path / "results", model, style(right), style(right + 5, "style_overlap"))
    build_report(tmp_path / "results", tmp_path / "out")
    text = read((tmp_path / "out" / "report.html").read_text()).text
    for part in ("What is missing", "gpt4", "alpaca-7b", "40.0", "75.0", "Imitations side by side"):
        assert part in text


def test_a_page_of_many_imitations_is_small_and_folded(tmp_path, full):
    """A grid has dozens of models: each is a row of the figures that show them together, and long parts are closed."""
    many = [lineage(f"student{n}", "base", ["teacher"], 500 + n) for n in range(30)]
    for model in (lineage("base"), lineage("teacher"), *many):
        write(tmp_path / "results", model, task(shares(61)), style(73), *(style(7, f"style_{n}") for n in range(4)))
    build_report(tmp_path / "results", tmp_path / "out")
    page, few = ((folder / "out" / "report.html").read_text() for folder in (tmp_path, full))
    assert len(page) < 3_000_000                     # 19 million where bars are hatched in dots
    together = [figure for figure in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "side by side" in figure[:200]]
    assert len(together) == 2
    for figure in together:
        assert all(f">{n + 1}. student{n}<" in figure for n in range(30))
    assert [figure.count(">73.0<") for figure in together] == [30, 0]
    assert [figure.count(">61.0<") for figure in together] == [0, 30]
    parts = ("Figures", "192 scores", "32 models")
    assert all(re.search(f"<details><summary>{part}", page) for part in parts)
    assert all(re.search(f"<details open><summary>{part}", few) for part in ("Figures", r"\d+ scores", r"\d+ models"))


def test_verdict_json_is_readable_and_complete(full):
    made = json.loads((full / "out" / "verdict.json").read_text())
    first = made["imitations"][0]
    assert first["imitation"]["base"] == "BASE"
    assert {v["group"] for v in first["views"]} == {"substance", "style"}
    assert made["scores"][0]["model"] == "base"


def test_a_failed_report_leaves_the_old_one_alone(full, tmp_path):
    before = (full / "out" / "report.html").read_bytes()
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError):
        build_report(tmp_path, full / "out")
    assert (full / "out" / "report.html").read_bytes() == before
    assert len(list((full / "out").iterdir())) == 3


def test_the_verb(full, tmp_path, capsys):
    assert main(["report", str(full / "results"), "--out", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result["page"] == str(tmp_path / "report.html")
    assert result["imitations"][0]["judgement"].startswith("took on the teacher's style")
    assert "gap closed" in said.err
    assert "report.html" in said.err
    assert main(["report", str(full / "results"), "--out", str(full / "results")]) == 2
    assert "is the folder of results itself" in capsys.readouterr().err
    assert main(["report", str(full / "absent"), "--out", str(full / "out")]) == 2
