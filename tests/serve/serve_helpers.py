"""What the tests of the server share."""
from easylm_imitation.serve import ServeConfig

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ["The sky is blue, the grass is green; where is Oslo? Oslo is in Norway.", "Be brief.", "user assistant system",
         "Ünïcödé text: naïve naïf café, 日本語, 🙂."]
CONFIG = ServeConfig(slots=4, context=96, decode_rows=(1, 4), live_lengths=(32, 96), score_tokens=192)
