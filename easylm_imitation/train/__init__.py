"""Training: loss, optimizer, sharded state, one update, checkpoints, metrics, and the loop that joins them."""
