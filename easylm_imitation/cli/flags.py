"""Flags that mean the same in every verb."""
import argparse
import os
import pathlib

from easylm_imitation.schema import UserError


def add_config(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """`--config FILE` (or FILE:NAME) and `--config.a.b=c` (the latter are gathered by main into `args.overrides`)."""
    parser.add_argument("--config", metavar="FILE", required=required, default=None,
                        help="a config file of configs/; --config.a.b=c overrides one leaf")


def add_out(parser: argparse.ArgumentParser, what: str) -> None:
    """`--out PATH`."""
    parser.add_argument("--out", metavar="PATH", required=True, help=what)


def add_model(parser: argparse.ArgumentParser, what: str, required: bool = True) -> None:
    """`--model X`."""
    parser.add_argument("--model", metavar="X", required=required, help=what)


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """`--host H --port P`; loopback unless said otherwise."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=port, help=f"TCP port (default {port}; 0 takes a free one)")


def check_out_file(path: str | None) -> None:
    """UserError when a result could not be written to `path`; to be asked before hours of work, not after."""
    if path is None:
        return
    file = pathlib.Path(path)
    if file.is_dir():
        raise UserError(f"--out {path}: is a folder; name a file in it")
    above = next(p for p in file.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out {path}: {above} cannot be written to; choose another place")
