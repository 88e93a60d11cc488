"""A tiny BERT with random weights, as a folder in the layout of Hugging Face."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

WORDS = [f"w{j}" for j in range(12)]  # the words of the tiny set
OTHERS = [f"v{j}" for j in range(24)]
PIECES = ["##x", "##y", "pre"]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[unused0]",
    "a",
    *WORDS,
    *OTHERS,
    *PIECES,
]


def make_bert(folder: Path, *, weights: bool = True) -> Path:
    """Write config.json, tokenizer.json and model.safetensors."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    settings = {"tokenizer_class": BertTokenizer.__name__, "model_max_length": 32, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = BertModel(config)
    config.save_pretrained(folder)
    if weights:
        save_file(network.state_dict(), folder / "model.safetensors")
    return folder
