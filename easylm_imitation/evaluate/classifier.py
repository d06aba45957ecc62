"""A text classifier on this machine: a Hugging Face sequence-classification checkpoint, run by transformers and torch.

    Classifier("toxigen_roberta").scores(["text", ...]) -> [0.031, ...]

A score is the probability of one label. As transformers' own text-classification pipeline has it: the softmax over
labels that exclude each other, the sigmoid of a label that stands for itself (`problem_type`
multi_label_classification, or one label alone). A text longer than the model reads keeps its beginning. Nothing is
fetched, no code of the folder is run.
"""
import functools
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from easylm_imitation.files import digest, file_sha256
from easylm_imitation.schema import UserError, nearest

_BATCH = 16                                                     # texts read at a time
_TOXIC = re.compile(r"(?<!non)(?<!not)(?<!no[nt][-_ ])(toxic|hate)", re.IGNORECASE)
_ANONYMOUS = {0: "LABEL_0", 1: "LABEL_1"}                       # transformers' names for labels that nobody named
_READ = ("*.json", "*.txt", "*.safetensors", "*.bin", "*.model")
_FROM_HERE = {"local_files_only": True, "trust_remote_code": False}     # left out, transformers would ask on a terminal


class Classifier:
    """A checkpoint in a folder, loaded at the first text."""

    def __init__(self, folder: str, label: str = ""):
        """`label`: whose probability is the score; "" takes the one that is named toxic or hate, or the second of
        two without names. Raises UserError for a folder that is none, a label that is not there, or without torch."""
        self.folder = pathlib.Path(folder)
        if not (self.folder / "config.json").is_file():
            raise UserError(f"'{folder}': no classifier: there is no config.json in it; name the folder of a Hugging "
                            "Face sequence-classification checkpoint")
        config = _config(self.folder)
        self.labels = dict(sorted(config.id2label.items()))
        self._place = _place(self.labels, label, folder)
        self._alone = len(self.labels) == 1 or config.problem_type == "multi_label_classification"

    @property
    def label(self) -> str:
        """The label whose probability is the score."""
        return self.labels[self._place]

    @functools.cached_property
    def identity(self) -> str:
        """Hash of what the folder holds: the same files elsewhere are the same classifier."""
        return digest([(path.name, file_sha256(path)) for path in _files(self.folder)])

    def who(self) -> list[str]:
        """What tells its scores from those of others: a part of a protocol."""
        return ["classifier", self.identity, self.label]

    def scores(self, texts: Sequence[str], seen: Callable[[int], None] = lambda count: None) -> list[float]:
        """A probability from 0 to 1 for each text; `seen` is told how many more are done. Raises UserError where the
        checkpoint cannot be loaded."""
        import torch
        tokenizer, model = self._loaded
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))     # texts of like length, so little padding
        made: dict[int, float] = {}
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                places = order[start:start + _BATCH]
                read = tokenizer([texts[i] for i in places], truncation=True, max_length=self._longest, padding=True,
                                 return_tensors="pt")
                logits = model(**read).logits.float()
                shares = logits.sigmoid() if self._alone else logits.softmax(-1)
                made |= dict(zip(places, shares[:, self._place].tolist()))
                seen(len(places))
        return [made[i] for i in range(len(texts))]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import transformers
        transformers.utils.logging.disable_progress_bar()       # ours shows
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **_FROM_HERE)
            model, told = transformers.AutoModelForSequenceClassification.from_pretrained(
                self.folder, **_FROM_HERE, output_loading_info=True, dtype="float32")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"'{self.folder}': cannot be loaded as a classifier: {' '.join(str(error).split())[:300]}"
                            ) from None
        if told["missing_keys"]:        # a language model has no head, and transformers would make one up
            lacking = ", ".join(sorted(told["missing_keys"])[:3])
            raise UserError(f"'{self.folder}': no classifier: its weights lack {lacking}; name a checkpoint that was "
                            "finetuned to classify")
        return tokenizer, model.eval()

    @property
    def _longest(self) -> int:
        """Tokens that the model reads. RoBERTa's positions begin after that of its padding."""
        tokenizer, model = self._loaded
        positions = getattr(model.config, "max_position_embeddings", None) or 1 << 20
        padding = (model.config.pad_token_id or 0) + 1 if "roberta" in model.config.model_type else 0
        return min(tokenizer.model_max_length, positions - padding)


def classifier_at(folder: str, label: str = "") -> Classifier:
    """`Classifier(folder, label)`; the one that was made last, with the weights it has read, unless a file changed."""
    files = [(path.name, path.stat()) for path in _files(pathlib.Path(folder))]
    return _made(folder, label, tuple((name, status.st_size, status.st_mtime_ns) for name, status in files))


@functools.lru_cache(maxsize=1)
def _made(folder: str, label: str, files: tuple[tuple[str, int, int], ...]) -> Classifier:
    return Classifier(folder, label)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """What a classifier is made of, in the order of the names."""
    return sorted({path for pattern in _READ for path in folder.glob(pattern)})


def _config(folder: pathlib.Path) -> Any:
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError:
        raise UserError(f"the classifier '{folder}' needs torch, which is not installed: pip install "
                        "'easylm_imitation[classifier]'") from None
    try:
        _refuse_code(folder)
        return transformers.AutoConfig.from_pretrained(folder, **_FROM_HERE)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"'{folder}/config.json': {' '.join(str(error).split())[:300]}") from None


def _refuse_code(folder: pathlib.Path) -> None:
    """UserError for a folder that names classes of its own: transformers' may make other numbers of the same weights.
    ValueError for a file that holds no JSON."""
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        said = json.loads(file.read_text()) if file.is_file() else {}
        if isinstance(said, dict) and said.get("auto_map"):
            raise UserError(f"'{folder}': its {name} names code of its own (auto_map), and none is run here; name a "
                            "checkpoint whose architecture transformers itself has")


def _place(labels: dict[int, str], wanted: str, folder: str) -> int:
    """The number of the label that is wanted."""
    if wanted:
        found = [i for i, name in labels.items() if name.lower() == wanted.lower()]
        if not found:
            raise UserError(f"label '{wanted}': '{folder}' has no such label{nearest(wanted, labels.values())}")
        return found[0]
    found = [i for i, name in labels.items() if _TOXIC.search(name)]
    exact = [i for i in found if labels[i].lower() in ("toxic", "toxicity")]
    if labels == _ANONYMOUS:
        return 1
    if len(exact or found) != 1:
        raise UserError(f"'{folder}' has the labels {', '.join(labels.values())}; say which one's probability is the "
                        "score (--config.toxicity_label=NAME of evaluate, --config.scorer.label=NAME of compare)")
    return (exact or found)[0]
