"""The README and docs are true: CI runs the README's commands, verbs are named, commands parse, links hold."""
import pathlib
import re
import shlex

import pytest

from easylm_imitation.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").rglob("*.py"))]


def commands(text):
    """Every `easylm-imitation VERB ...` (or `python -m easylm_imitation VERB`) of a page, line continuations joined."""
    joined = re.sub(r" *\\\n\s*(#\s*)?", " ", text)
    command = r"(?:^|[\s`(])(?:easylm-imitation|python3? -m easylm_imitation)[ ]+([a-z]+)([^\n`]*)"
    for match in re.finditer(command, joined):
        yield match.group(1), match.group(2)


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert "bash launch/quickstart.sh" in readme
    assert "bash launch/test.sh" in readme
    ran = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("bash ")]
    assert ran == ["bash launch/test.sh"]


def test_the_readme_names_every_verb():
    readme = (ROOT / "README.md").read_text()
    assert [v for v in main.VERBS if f"`{v}`" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_on_the_page_parse(page):
    for verb, rest in commands(page.read_text()):
        assert verb in main.VERBS, f"{page}: unknown verb '{verb}'"
        rest = re.split(r"\s{2,}|\s#|[|;&>]|…|\.\.\.", rest)[0]
        argv = shlex.split(rest.strip().rstrip(".,)"), comments=True)
        if argv and "--help" not in argv and not any(a in ("VERB", "[flags]") for a in argv):
            main.parse(verb, argv)


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_on_the_page_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page}: link to {target}, which is not there"
    for path in re.findall(r"`((?:easylm_imitation|configs|launch|tests|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{page}: names {path}, which is not there"


@pytest.mark.parametrize("verb", main.VERBS)
def test_help_shows_a_working_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([verb, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "example:" in shown
    assert "--json" in shown


def test_unknown_flag_and_verb_name_the_nearest(capsys):
    assert main.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    assert main.main(["reproduce", "--workdri", "x"]) == 2
    assert "did you mean '--workdir'?" in capsys.readouterr().err
