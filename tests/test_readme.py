"""The README and docs are true: CI runs the README's commands, verbs are named, commands parse, links hold."""
import importlib
import pathlib
import re
import shlex

import pytest

from easylm_imitation.cli import main
from easylm_imitation.config import load, load_either, load_one_of
from easylm_imitation.schema import plain
from easylm_imitation.teacher import RECIPES
from easylm_imitation.world import FindingsConfig, ReproduceConfig, standard

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


def parsed(text):
    """(verb, its parsed arguments) of every whole command of a page. Unknown verbs and flags raise."""
    for verb, rest in commands(text):
        assert verb in main.VERBS, f"unknown verb '{verb}'"
        rest = re.split(r"\s{2,}|\s#|[|;&>]|…|\.\.\.", rest)[0]
        argv = shlex.split(rest.strip().rstrip(".,)"), comments=True)
        if argv and "--help" not in argv and not any(a in ("VERB", "[flags]") for a in argv):
            yield verb, main.parse(verb, argv)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_on_the_page_parse_and_their_configs_exist(page):
    """A config is a file of the checkout (`:NAME` may follow), or a word in capitals for the reader's own."""
    for verb, args in parsed(page.read_text()):
        config = getattr(args, "config", None)
        found = not config or config.isupper() or (ROOT / config.partition(":")[0]).is_file()
        assert found, f"{page}: {verb} --config {config}"


def config_class(verb, args):
    """What the verb reads its config into; None for verbs without one and for `collect`, whose recipes are several."""
    from easylm_imitation.data import BuildConfig
    from easylm_imitation.evaluate import EvaluateConfig
    from easylm_imitation.serve import ServeConfig
    from easylm_imitation.study import StudyConfig
    from easylm_imitation.train import TrainConfig
    planned = ServeConfig if getattr(args, "serving", False) else TrainConfig
    return {"build": BuildConfig, "evaluate": EvaluateConfig, "serve": ServeConfig, "study": StudyConfig,
            "train": TrainConfig, "plan": planned}.get(verb)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_overrides_on_the_page_are_leaves_of_the_config(page, monkeypatch):
    """A leaf that was renamed since fails here; the file is read with them, as the verb would."""
    monkeypatch.chdir(ROOT)
    for verb, args in parsed(page.read_text()):
        cls, file = config_class(verb, args), getattr(args, "config", None)
        told = [o for o in getattr(args, "overrides", []) if not re.search(r"[A-Z]{3,}=", o)]     # KEY=VALUE
        if not told or (file and file.isupper()):
            continue
        if verb == "collect":
            load_one_of(RECIPES, "recipe", file, told)
        elif verb == "reproduce":
            kinds = {"grid": FindingsConfig, "": ReproduceConfig}
            load_either(kinds, file, told, None if file or args.quick else plain(standard()))
        elif cls:
            load(cls, file, told)


INPUTS = ("init", "data", "model", "teacher", "prompts", "answers", "reference", "source", "results", "task_data")
OUTPUTS = ("out", "answers_out", "workdir", "to")
READERS_OWN = {"prompts.jsonl"}     # what nobody here can have; anything else that is his is in capitals


def test_the_examples_of_the_verbs_name_files_that_exist_or_that_an_example_makes():
    examples = "\n".join(importlib.import_module(f"easylm_imitation.cli.{verb}").EXAMPLE for verb in main.VERBS)
    found = list(parsed(examples))
    assert {verb for verb, _ in found} == set(main.VERBS)
    made = {pathlib.Path(path) for _, args in found for name in OUTPUTS if (path := getattr(args, name, None))}
    made |= {folder for path in made for folder in path.parents}
    for verb, args in found:
        config = (getattr(args, "config", None) or "README.md").partition(":")[0]
        assert (ROOT / config).is_file(), (verb, config)
        for name in INPUTS:
            value = getattr(args, name, None)
            known = value is None or value.isupper() or value.startswith("http://HOST") or value in READERS_OWN
            assert known or pathlib.Path(value) in made, f"{verb}: --{name} {value}: who makes it?"


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
