"""Training: loss, optimizer, sharded state, one update, checkpoints, metrics, and the loop that joins them."""
from easylm_imitation.train.config import TrainConfig
from easylm_imitation.train.loop import TrainResult, train
from easylm_imitation.train.loss import Sums, loss_sums
from easylm_imitation.train.metrics import read_metrics
from easylm_imitation.train.optimizer import OptimizerConfig, make_optimizer
from easylm_imitation.train.state import TrainState, abstract_state, init_state
from easylm_imitation.train.step import make_step

__all__ = ["OptimizerConfig", "Sums", "TrainConfig", "TrainResult", "TrainState", "abstract_state", "init_state",
           "loss_sums", "make_optimizer", "make_step", "read_metrics", "train"]
