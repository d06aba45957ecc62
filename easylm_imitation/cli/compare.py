"""`compare`: recorded answers of several models: preferences of a judge or of people, style, refusals, toxicity."""
import argparse
import datetime
import ipaddress
import pathlib
import time
from collections.abc import Callable
from typing import Any

from easylm_imitation import console
from easylm_imitation.cli import flags
from easylm_imitation.config import load
from easylm_imitation.files import write_json
from easylm_imitation.records import code_version
from easylm_imitation.schema import UserError, plain

HELP = "lay models' answers side by side: preferences of a judge or of people, style next to a teacher's, refusals"
EXAMPLE = """easylm-imitation compare --by judge --judge URL --models A.jsonl --reference TEACHER --out results/j.json
  easylm-imitation compare --by people --models A.jsonl,B.jsonl --reference TEACHER --out results/people.json
  easylm-imitation compare --by style --models A.jsonl,B.jsonl --reference TEACHER --out results/style.json
  easylm-imitation compare --by refusal --models A.jsonl,B.jsonl --harmless xstest_safe --out results/refusal.json
  easylm-imitation compare --by toxicity --models A.jsonl --scorer perspective --out results/toxicity.json"""
INTERRUPTED = "what a judge, a scorer or people said is kept, and the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("--by", required=True, choices=("judge", "people", *_WAYS), help="what to compare")
    parser.add_argument("--models", metavar="A,B", required=True, help="files of recorded answers, one for each model")
    parser.add_argument("--reference", metavar="FILE", help="style: the teacher's answers to the same prompts; judge, "
                        "people: those that each model's are compared with")
    parser.add_argument("--ceiling", metavar="FILE", help="style: a second sample of the teacher's answers")
    parser.add_argument("--judge", metavar="URL", help="the judging model's OpenAI-compatible endpoint; style: hears "
                        "each answer's tone; refusal: tells refusals")
    parser.add_argument("--prompts-from", metavar="DIR", help="judge, people: your copy of the published prompts "
                        "(FastChat's llm_judge/data, alpaca_eval's evaluators_configs); without it our own are used")
    parser.add_argument("--harmless", metavar="A,B", help="refusal: the datasets whose prompts deserve an answer")
    parser.add_argument("--scorer", metavar="X", help="toxicity: perspective, a server with /v1/moderations, or "
                        "the folder of a classifier (a Hugging Face checkpoint)")
    parser.add_argument("--checks", metavar="FILE", help="people: attention checks of your own, lines of prompt, good "
                        "and bad")
    parser.add_argument("--export", action="store_true", help="people: write the results of what was rated so far, and "
                        "serve nothing")
    flags.add_address(parser, port=8000)
    parser.set_defaults(host=None, port=None)       # so that it shows where they mean nothing
    flags.add_out(parser, "the comparison (JSON); what a judge or a scorer says is kept beside it. judge, people: "
                  "results for `report`, of several models one file each, its name before the ending")
    flags.add_config(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compares; returns what it writes. Raises UserError."""
    from easylm_imitation.evaluate.compare import CompareConfig
    for flag, ways in (("reference", "style judge people"), ("ceiling", "style"), ("judge", "judge style refusal"),
                       ("harmless", "refusal"), ("scorer", "toxicity"), ("prompts_from", "judge people"),
                       ("checks", "people"), ("export", "people"), ("host", "people"), ("port", "people")):
        given = getattr(args, flag)
        if (given or given == 0 and given is not False) and args.by not in ways.split():
            raise UserError(f"--{flag.replace('_', '-')} is for --by {' or '.join(ways.split())}")
    flags.check_out_file(args.out)
    if args.by == "judge":
        return _judged(args)
    if args.by == "people":
        return _people(args)
    config = load(CompareConfig, args.config, args.overrides)
    measured = _beside(args.out, [*args.models.split(","), *filter(None, [args.ceiling])])
    found = _WAYS[args.by](args, config)
    made = {"by": args.by, **plain(found), "command": args.command, "code": code_version(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    write_json(args.out, made)
    for place, name in measured.items():
        write_json(place, _measured(args, config, name))
    console.say(f"→ {args.out}, and results of each model for `report` beside it")
    return {"out": args.out, "results": list(map(str, measured)), **made}


def _measured(args: argparse.Namespace, config: Any, name: str) -> Any:
    """The results of one file of answers: what the table sums up, item by item."""
    from easylm_imitation.evaluate import measured, read_answers
    judge = _judge(args, config) if args.judge else None
    if args.by == "style":
        return measured.style_results(name, read_answers(args.reference), judge, f"{args.out}.judge.jsonl",
                                      command=args.command)
    if args.by == "refusal":
        return measured.refusal_results(name, _harmless(args), judge, f"{args.out}.judge.jsonl", args.command)
    return measured.toxicity_results(name, _scorer(args, config), f"{args.out}.scores.jsonl", args.command)


def _judged(args: argparse.Namespace) -> dict[str, Any]:
    """Judges each model, writes its results and shows win rates."""
    from easylm_imitation.evaluate.judge import PreferenceConfig, judge
    if not args.judge:
        raise UserError("--by judge needs --judge URL, the judging model's endpoint")
    config = load(PreferenceConfig, args.config, args.overrides)
    files = [name for name in args.models.split(",") if name]
    if not files:
        raise UserError("--models: name at least one file of answers")
    made = {str(place): judge(args.judge, name, args.reference, place, config=config, prompts_from=args.prompts_from,
                              command=args.command) for name, place in zip(files, _places(args.out, files))}
    rows = [[results.model.name, results.tasks[0].task, len(results.tasks[0].items), results.tasks[0].score,
             results.meta.get("length_controlled_win_rate", "-"), results.meta["unreadable"], results.meta["cost"]]
            for results in made.values()]
    console.table("judged", ["model", "protocol", "items", "score", "length-controlled %", "unreadable", "$"], rows)
    for place in made:
        console.say(f"→ {place}")
    return {"results": list(made), "meta": [plain(results.meta) for results in made.values()]}


def _people(args: argparse.Namespace) -> dict[str, Any]:
    """Serves a study until it is told to stop, then writes what came of it. The same command goes on with it."""
    from easylm_imitation.evaluate import people
    if not args.reference:
        raise UserError("--by people needs --reference, the answers that each model's are compared with")
    config = load(people.PeopleConfig, args.config, args.overrides)
    files = [name for name in args.models.split(",") if name]
    places = _places(args.out, files)
    if config.question == "tulu":
        places.append(list(_beside(args.out, [*files, args.reference]))[-1])
    sets = people.read_sets(files, args.reference, config, checks=args.checks, prompts_from=args.prompts_from)
    path = people.study_path(args.out)
    if args.export and not path.exists():
        raise UserError(f"--export: there is no study {path} yet; serve it first, without --export")
    study = people.Study(path, sets, config)
    try:
        if not args.export:
            _serve_study(args, study)
        made = people.conclude(study, sets, args.out, places, args.command)
        raters = people.raters_of(study.ratings(), config)
    finally:
        study.close()
    _show_people(made[:len(files)], raters)
    return {"results": [str(place) for place in places], "meta": [plain(results.meta) for results in made]}


def _serve_study(args: argparse.Namespace, study: Any) -> None:
    """Until Ctrl-C or SIGTERM."""
    from easylm_imitation.evaluate import people
    host, config = args.host or "127.0.0.1", study.config
    with people.StudyServer(study, host, 8000 if args.port is None else args.port) as server:
        if not config.address and _anywhere(host):
            raise UserError(f"--host {host}: is no address that raters could open; say how they reach this machine "
                            "with --config.address=https://...")
        for link in people.write_links(args.out, study, config.address or server.url):
            console.say(link)
        console.say(f"serving at {server.url}; these links are the keys: send each to one person (the one with ?study= "
                    "to the crowd). Ctrl-C stops and writes the results")
        try:
            _wait(study)
        except KeyboardInterrupt:
            console.say("stopping; what was rated is kept, and the same command goes on")


def _anywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _wait(study: Any) -> None:
    """Shows how far it is, for ever."""
    done, wanted = study.progress()
    with console.progress("ratings", wanted) as advance:
        advance(done)
        while True:
            time.sleep(1)
            now, _ = study.progress()
            advance(now - done)
            done = now


def _show_people(made: list[Any], raters: list[Any]) -> None:
    console.table("people", ["model", "items", "ratings", "win rate (majority)", "equal or better", "alpha", "kappa"], [
        [r.model.name, r.meta["items"], r.meta["ratings"], _rate(r.meta["win_rate"]), _rate(r.meta["equal_or_better"]),
         _rate(r.meta["agreement"]["alpha_verdicts"]), _rate({"value": r.meta["agreement"]["fleiss_verdicts"]})]
        for r in made])
    for one in raters:
        if not one.counted:
            console.say(f"rater {one.rater} passed {one.passed} of {one.checks} attention checks and is left out")


def _rate(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    return f"{found['value']:.3f}" + (f" ({found['low']:.3f} to {found['high']:.3f})" if "low" in found else "")


def _places(out: str, files: list[str]) -> list[pathlib.Path]:
    if len(files) == 1:
        return [pathlib.Path(out)]
    return list(_beside(out, files))


def _beside(out: str, files: list[str]) -> dict[pathlib.Path, str]:
    """Where the results of each file go: beside `out`, by the file's name."""
    files = [name for name in files if name]
    if len(set(files)) < len(files):
        raise UserError(f"--models {','.join(files)}: a file comes twice")
    names = [pathlib.Path(name).name.partition(".")[0] for name in files]
    if len(set(names)) < len(names):
        raise UserError(f"--models: two files are called '{max(names, key=names.count)}'; their results would be one")
    path = pathlib.Path(out)
    return {path.with_name(f"{path.stem}.{name}{path.suffix}"): file for name, file in zip(names, files)}


def _sets(args: argparse.Namespace) -> dict[str, list[Any]]:
    """The answers of each model by its name, or by its file's where names are missing or double."""
    from easylm_imitation.evaluate import read_answers
    paths = [path for path in args.models.split(",") if path]
    read = [(path, read_answers(path)) for path in paths]
    names = [answers[0].model for _, answers in read]
    plainly = all(names) and len(set(names)) == len(names)
    made = {name if plainly else str(pathlib.Path(path)): answers for name, (path, answers) in zip(names, read)}
    if len(made) < len(paths):
        raise UserError(f"--models {args.models}: a file comes twice")
    return made


def _judge(args: argparse.Namespace, config: Any) -> Any:
    import dataclasses
    return dataclasses.replace(config.judge, url=args.judge)


def _style(args: argparse.Namespace, config: Any) -> Any:
    from easylm_imitation.evaluate import read_answers
    from easylm_imitation.evaluate.compare import compare_style
    if not args.reference:
        raise UserError("--by style needs --reference, the teacher's answers to the same prompts")
    ceiling = read_answers(args.ceiling) if args.ceiling else None
    table = compare_style(_sets(args), read_answers(args.reference), ceiling,
                          _judge(args, config) if args.judge else None, f"{args.out}.judge.jsonl")
    names = list(dict.fromkeys(name for row in table.rows for name in row.measures))
    rows = [[name, *(round(row.measures[name].value, 3) if name in row.measures else "-" for row in table.rows)]
            for name in names]
    console.table(f"next to {table.teacher} (intervals are in the file)", ["", *(row.name for row in table.rows)], rows)
    return table


def _refusal(args: argparse.Namespace, config: Any) -> Any:
    from easylm_imitation.evaluate.compare import compare_refusals
    judge = _judge(args, config) if args.judge else None
    made = compare_refusals(_sets(args), _harmless(args), judge, f"{args.out}.judge.jsonl")
    console.table("refusals", ["answers of", "prompts", "kind", "by rules", "by judge"], [
        [name, row.dataset, row.kind, _short(row.by_rules), _short(row.by_judge)]
        for name, rows in made.items() for row in rows])
    return {"models": made}


def _harmless(args: argparse.Namespace) -> list[str]:
    return [name for name in (args.harmless or "").split(",") if name]


def _scorer(args: argparse.Namespace, config: Any) -> Any:
    import dataclasses
    return dataclasses.replace(config.scorer, scorer=args.scorer) if args.scorer else config.scorer


def _toxicity(args: argparse.Namespace, config: Any) -> Any:
    from easylm_imitation.evaluate.compare import compare_toxicity
    scorer = _scorer(args, config)
    made = compare_toxicity(_sets(args), scorer, f"{args.out}.scores.jsonl")
    console.table(f"toxicity by {scorer.scorer}",
                  ["answers of", "prompts", "samples", "expected maximum", "probability", "toxic", "non-toxicity"],
                  [[name, t.prompts, t.samples, *map(_short, (t.expected_maximum, t.probability, t.percent_toxic,
                                                              t.non_toxicity))] for name, t in made.items()])
    return {"scorer": scorer.scorer, "models": made}


def _short(measure: Any) -> str:
    if measure is None:
        return "-"
    return f"{measure.value:.3f}" + ("" if measure.low is None else f" ({measure.low:.3f} to {measure.high:.3f})")


_WAYS: dict[str, Callable[[argparse.Namespace, Any], Any]] = {
    "style": _style, "refusal": _refusal, "toxicity": _toxicity}
