"""`python -m easylm_imitation VERB` is the console command `easylm-imitation VERB`."""
import sys

from easylm_imitation.cli.main import main

sys.exit(main())
