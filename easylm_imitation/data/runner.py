"""Which Apache Beam runner carries out a build, and what it can and cannot do. The pipeline itself is in beam.py, which
is imported when it is asked for: Beam is an extra, with versions of its own (constraints-beam.txt)."""
import dataclasses
import pathlib
from typing import Any

from easylm_imitation.data.config import BuildConfig
from easylm_imitation.data.files import is_url, locate
from easylm_imitation.data.sources import package
from easylm_imitation.schema import UserError

_HERE = ("DirectRunner", "FnApiRunner", "PrismRunner")      # on this machine, with its files


@dataclasses.dataclass(frozen=True)
class Runner:
    """`name`: a runner that Beam knows ("DirectRunner", "DataflowRunner", "FlinkRunner", ...). `options`: Beam's own,
    such as "project=NAME" and "temp_location=gs://BUCKET/DIR"."""
    name: str
    options: tuple[str, ...] = ()

    def option(self, name: str) -> str:
        """What an option says, "" when it is not there."""
        return next((value for key, _, value in (o.partition("=") for o in self.options) if key == name), "")


def beam_path(config: BuildConfig, runner: Runner, staging: pathlib.Path) -> Any:
    """The pipeline (beam.BeamPath) of a build, its sources measured. Raises UserError for what a pipeline cannot do."""
    _check(config, runner)
    names = locate(config)
    if runner.name == "DataflowRunner":
        own = next((name for files in names for name in files if not is_url(name)), None)
        if own is not None:
            raise UserError(f"--runner DataflowRunner: source {own} is a file of this machine, which Dataflow's "
                            "workers do not see; put it into a bucket and name it by its URL "
                            "(--config.root=gs://BUCKET/DIR)")
    package("apache_beam", f"--runner {runner.name}", "beam")
    from easylm_imitation.data.beam import BeamPath
    return BeamPath(config, names, runner, runner.option("temp_location") or str(staging))


def _check(config: BuildConfig, runner: Runner) -> None:
    """Raises UserError for what the direct path does and a pipeline does not."""
    if config.processes is not None:
        raise UserError(f"processes={config.processes} is of the direct path; with --runner {runner.name} Beam "
                        "decides, by its own options (--runner-option direct_num_workers=N)")
    limited = next((source for source in config.sources if source.limit is not None), None)
    if limited:
        raise UserError(f"source '{limited.path}': limit={limited.limit} takes a file's first conversations, but with "
                        f"--runner {runner.name} all are read at once; use sample, or build without --runner")
    if runner.name not in _HERE and not runner.option("temp_location"):
        raise UserError(f"--runner {runner.name}: its workers need a place to write to that this machine reads too; "
                        "name it with --runner-option temp_location=gs://BUCKET/DIR (or a folder that all of them "
                        "share)")
