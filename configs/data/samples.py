r"""Small real files of the public datasets, as their repositories hold them: one of them alone, as it is.

    easylm-imitation build --config configs/data/samples.py:lima --config.root=DIR --config.tokenizer=TOKENIZER \
        --out DATA

DIR holds a folder for each, gzipped as below (an unpacked file is `--config.sources.0.path=FILE`):
    gpteacher          gpteacher/*/*.json.gz                       Codegen/ and Roleplay/ of GPTeacher, GPT-4's
    halueval           halueval_general/*.jsonl.gz                 HaluEval's general split, ChatGPT's
    code-alpaca        codealpaca_2k/code_alpaca_2k.json.gz        Code-Alpaca's sample
    lima               lima/lima.json.gz                           LIMA in LLaMA-Factory's form
    flan-cot           flan_cot/*.tsv.gz                           FLAN's cot_data
    oasst1             oasst_samples/.../en_100_tree.jsonl.gz      100 message trees of Open-Assistant's
    self-instruct      self_instruct/data/seed_tasks.jsonl         the 175 seed tasks
    self-instruct-user self_instruct/human_eval/user_oriented_instructions.jsonl, an evaluation set too
    dummy-sharegpt     fastchat_bench/data/dummy_conversation.json FastChat's identity dialogues
    llamafactory       llamafactory_demos/alpaca_en_demo.json.gz   Alpaca's questions, answered anew
    llamafactory-identity, llamafactory-kto, llamafactory-toolcall the same folder's identity.json (with {{name}} where
                       yours belongs), messages, and ShareGPT-like dialogues of which those that call tools are dropped
    gsm8k              gsm8k/train.jsonl.gz                        GSM8K's training part
Expected with any tokenizer: 6,458; 4,507; 2,015 (two have empty answers); 1,029; 33,443; 547; 175; 252; 500; 999; 91;
300; 147 (153 call tools); 7,473 conversations.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import sample


def get_config(name="lima"):
    return ConfigDict({
        "name": name,
        "root": "data",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "plain",
        "sources": sample(name),
    })
