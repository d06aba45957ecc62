"""Many imitations of one question: a grid of data, budgets, bases and seeds, each cell made and measured once."""
from easylm_imitation.study.config import Ablation, Dataset, Measure, StudyConfig
from easylm_imitation.study.grid import Cell, Study, open_study
from easylm_imitation.study.run import Outcome, run_study, shown

__all__ = ["Ablation", "Cell", "Dataset", "Measure", "Outcome", "Study", "StudyConfig", "open_study", "run_study",
           "shown"]
