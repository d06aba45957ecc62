"""`compare --by people`: a blind study of recorded answers, in raters' browsers.

    answers ─ pairs ─► study (SQLite) ⇄ web ⇄ page/ in each rater's browser
                         └► outcome: results for `report`, agreement, every rating
"""
import os
import pathlib
from collections.abc import Sequence

from easylm_imitation.evaluate.people.config import PeopleConfig
from easylm_imitation.evaluate.people.outcome import raters_of, study_results, write_ratings
from easylm_imitation.evaluate.people.pairs import Sets, read_sets
from easylm_imitation.evaluate.people.study import Study
from easylm_imitation.evaluate.people.web import StudyServer
from easylm_imitation.files import write_json
from easylm_imitation.records import Results

__all__ = ["PeopleConfig", "Sets", "Study", "StudyServer", "conclude", "raters_of", "read_sets", "study_path",
           "write_links"]


def study_path(out: str | os.PathLike) -> pathlib.Path:
    """Where the study of the results `out` is kept."""
    return pathlib.Path(f"{str(out).removesuffix('.json')}.study.sqlite")


def write_links(out: str | os.PathLike, study: Study, address: str) -> list[str]:
    """Writes what raters are sent into `<out>.links.txt`, for the owner's eyes alone; returns it line by line: personal
    links, then the crowd's."""
    address = address.rstrip("/")
    links = [f"{address}/#{token}" for token in study.links()]
    if study.config.crowd:
        links.append(f"{address}/?study={study.crowd_key()}")
    path = f"{str(out).removesuffix('.json')}.links.txt"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write("".join(f"{link}\n" for link in links))
    return links


def conclude(study: Study, sets: Sets, out: str | os.PathLike, places: Sequence[str | os.PathLike],
             command: str = "") -> list[Results]:
    """Writes every rating to `<out>.ratings.jsonl` and the results of each model to its place. Raises UserError when
    there is nothing to conclude from yet; the ratings are written all the same."""
    ratings = study.ratings()
    write_ratings(f"{str(out).removesuffix('.json')}.ratings.jsonl", ratings, sets, study.config)
    made = study_results(sets, ratings, study.config, command)
    for place, results in zip(places, made):
        write_json(place, results)
    return made
