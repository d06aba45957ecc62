"""Reads results, runs nothing: intervals, the verdict in words, figures, and a page that stands alone."""
from easylm_imitation.report.build import build_report, show
from easylm_imitation.report.statistics import Estimate, GapClosed
from easylm_imitation.report.verdict import ImitationVerdict, Verdict

__all__ = ["Estimate", "GapClosed", "ImitationVerdict", "Verdict", "build_report", "show"]
