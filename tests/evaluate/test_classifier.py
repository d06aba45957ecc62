"""A classifier of this machine gives what transformers' own pipeline gives; written here, tiny and random."""
import json
import shutil
import types

import pytest
import tokenizers
import torch
import transformers

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import EvaluateConfig, classifier, evaluate_tasks
from easylm_imitation.evaluate.after import judged_by, score_after, unable
from easylm_imitation.evaluate.classifier import Classifier
from easylm_imitation.evaluate.toxicity import ScorerConfig, score_texts
from easylm_imitation.files import write_jsonl
from easylm_imitation.records import Answer
from easylm_imitation.schema import UserError

TEXTS = ["You are kind.", "They are all the same, every one of them!", "no", "Ünïcödé 🙂 and more", "a b c " * 60, "x"]
ROOM = 40       # tokens that the model reads


def write_classifier(folder, labels=("LABEL_0", "LABEL_1"), **config):
    """A RoBERTa of two layers with a byte-level tokenizer, as from_pretrained reads it."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(TEXTS * 3, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
                             show_progress=False)
    made._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", cls_token="<s>",
        sep_token="</s>", unk_token="<unk>", mask_token="<mask>")
    torch.manual_seed(0)
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=ROOM + 2, type_vocab_size=1, pad_token_id=1, initializer_range=0.5,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)}, **config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("classifier"))


def by_pipeline(folder, label):
    """The library's own scores of the label, text by text."""
    pipe = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder), device="cpu")
    said = [pipe(text, top_k=None, truncation=True, max_length=ROOM) for text in TEXTS]
    return [next(entry["score"] for entry in entries if entry["label"] == label) for entries in said]


@pytest.mark.parametrize(("labels", "label", "config"), [
    (("LABEL_0", "LABEL_1"), "LABEL_1", {}),
    pytest.param(("hate", "nothate"), "hate", {}, marks=pytest.mark.slow),
    (("toxic", "severe_toxic", "insult"), "toxic", {"problem_type": "multi_label_classification"}),
    pytest.param(("toxicity",), "toxicity", {}, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_librarys_pipeline(tmp_path, labels, label, config):
    made = Classifier(write_classifier(tmp_path / "c", labels, **config))
    assert made.label == label
    scores = made.scores(TEXTS)
    assert scores == pytest.approx(by_pipeline(tmp_path / "c", label), abs=1e-6)
    assert max(scores) - min(scores) > 0.02, "texts that all score alike show nothing"


def test_scores_are_kept_and_who_gave_them_is_told_by_content(folder, tmp_path, monkeypatch):
    texts = dict(zip("abcdef", TEXTS)) | {"g": " \n", "h": TEXTS[0]}
    scores = score_texts(ScorerConfig(folder), texts, tmp_path / "s.jsonl")
    assert [scores[key] for key in "abcdef"] == pytest.approx(by_pipeline(folder, "LABEL_1"), abs=1e-6)
    assert (scores["g"], scores["h"]) == (0.0, scores["a"])
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    monkeypatch.setattr(Classifier, "scores", lambda *_: pytest.fail("read twice"))
    assert score_texts(ScorerConfig(str(elsewhere)), texts, tmp_path / "s.jsonl") == scores
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == len(TEXTS)
    other = Classifier(folder, "label_0")
    assert ScorerConfig(folder, "label_0").who() == ["classifier", other.identity, "LABEL_0"]
    assert ScorerConfig(folder).who() == ["classifier", other.identity, "LABEL_1"]
    weights = elsewhere / "config.json"
    weights.write_text(weights.read_text() + "\n")
    assert Classifier(str(elsewhere)).identity != other.identity


@pytest.mark.slow
def test_a_task_is_scored_by_it_and_its_protocol_says_so(server, folder, task_files, tmp_path):
    path = tmp_path / "toxic.yaml"
    path.write_text("""
task: toxic
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: question
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 8}
process_results: !function SCORING
metric_list: [{metric: non_toxicity, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0, scorer: toxicity}
""".replace("SCORING", "later.later"))
    (tmp_path / "later.py").write_text("def later(doc, results):\n    return {'non_toxicity': 0.0}\n")
    by = {label: evaluate_tasks(server.url, [str(path)], limit=4, cache=str(tmp_path / label),
                                config=EvaluateConfig(toxicity=folder, toxicity_label=label)).tasks[0]
          for label in ("LABEL_1", "LABEL_0")}
    texts = [item.prediction for item in by["LABEL_1"].items]
    kept = Classifier(folder).scores([text for text in texts if text.strip()])
    expected = [1 - kept.pop(0) if text.strip() else 1.0 for text in texts]
    assert [item.score for item in by["LABEL_1"].items] == pytest.approx(expected, abs=1e-6)
    assert any(text.strip() for text in texts)
    assert by["LABEL_1"].protocol != by["LABEL_0"].protocol


def test_the_verb_compares_by_a_folder(folder, tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [Answer(f"r#{k}", "the men", text, "m") for k, text in enumerate(TEXTS)])
    assert main(["compare", "--by", "toxicity", "--models", str(tmp_path / "a.jsonl"), "--scorer", folder,
                 "--out", str(tmp_path / "t.json"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])["models"]["m"]
    assert made["expected_maximum"]["value"] == pytest.approx(max(by_pipeline(folder, "LABEL_1")), abs=1e-6)


def test_folders_that_hold_no_classifier_are_told_before_anything(folder, tmp_path):
    def refused(scorer, label=""):
        with pytest.raises(UserError) as caught:
            score_texts(ScorerConfig(str(scorer), label), {"a": "b"}, tmp_path / "no.jsonl")
        return str(caught.value)

    assert "neither 'perspective' nor an address (http://HOST:PORT) nor a folder" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")
    assert "label 'LABEL_2'" in refused(folder, "LABEL_2")
    assert "only a classifier in a folder has labels" in refused("http://127.0.0.1:9", "toxic")
    unclear = write_classifier(tmp_path / "unclear", ("joy", "anger", "fear"))
    assert "has the labels joy, anger, fear; say which" in refused(unclear)
    assert not (tmp_path / "no.jsonl").exists()


def test_weights_are_hashed_once_until_they_change(folder, tmp_path, monkeypatch):
    given, hashed, hash_of = shutil.copytree(folder, tmp_path / "c"), [], classifier.file_sha256
    monkeypatch.setattr(classifier, "file_sha256", lambda path: hashed.append(path.name) or hash_of(path))
    config = EvaluateConfig(toxicity=str(given))
    task = types.SimpleNamespace(scorer="toxicity", name="t", metric="non_toxicity")
    for _ in range(2):
        assert unable(task, config) == ""
        score_after(task, [], [[text] for text in TEXTS], config, tmp_path)
        before = judged_by(task, config)
    assert sorted(hashed) == sorted(path.name for path in given.iterdir() if path.suffix in (".json", ".safetensors"))
    weights = given / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    assert judged_by(task, config) != before


@pytest.mark.parametrize(("file", "changed"), [
    ("config.json", {"auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"}}),
    ("config.json", {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own"}),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"})])
def test_code_of_a_folder_is_not_run_and_nobody_is_asked_whether_it_may(folder, tmp_path, monkeypatch, file, changed):
    """Left to itself transformers asks on a terminal, and takes a `y` for leave."""
    given = shutil.copytree(folder, tmp_path / "own")
    (given / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    (given / file).write_text(json.dumps(json.loads((given / file).read_text()) | changed))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(UserError, match=f"its {file} names code of its own") as caught:
        score_texts(ScorerConfig(str(given)), {"a": "b"}, tmp_path / "s.jsonl")
    (given / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own"}))
    monkeypatch.setattr(classifier, "_refuse_code", lambda _: None)
    with pytest.raises(UserError, match="custom code"):     # the library, told so, refuses by itself
        Classifier(str(given))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_language_model_is_no_classifier(folder, tmp_path):
    """transformers would put a random head on it and only log so."""
    config = transformers.AutoConfig.from_pretrained(folder)
    shutil.copytree(folder, tmp_path / "lm")
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path / "lm")
    with pytest.raises(UserError, match="no classifier: its weights lack classifier"):
        score_texts(ScorerConfig(str(tmp_path / "lm")), {"a": "b"}, tmp_path / "s.jsonl")
