"""`python -m easylm_imitation.pods tpu|slurm|local ...`: what the scripts of launch/ run."""
import sys

from easylm_imitation.pods.main import main

sys.exit(main(sys.argv[1:]))
