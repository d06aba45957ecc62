"""easylm_imitation: finetune an open model on a stronger model's outputs, and learn honestly what that closed of the gap."""
