"""The tokenizer: trained on the training text, or that of a pretrained model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.places import Place
from hpoctl.objectives.causal_lm.refusals import way_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"  # GPT-2's own mark between documents; token 0
_FILES = ("*token*", "vocab*", "*.model", "*.gguf")


def trained(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (Radford et al. 2019) that knows every byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrap: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def pretrained(place: Place) -> PreTrainedTokenizerFast:
    """That of a model. Raises ValueError."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        found = AutoTokenizer.from_pretrained(**place.arguments())
    except (OSError, ValueError, KeyError, ImportError) as wrong:
        said = way_out(wrong)
        raise ValueError(f"model.pretrained: no tokenizer in {place.name}: {said}") from wrong
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ValueError(f"model.pretrained: {place.name}: its tokenizer has no fast form")
    if set(found.get_vocab()) <= set(found.all_special_tokens):
        # What transformers (5.23) makes of a model without one: every text becomes nothing.
        raise ValueError(_none_in(place.name))
    return _ready(found)


def check_folder(name: str) -> None:
    """Raises ValueError where a model's folder holds no tokenizer, by the names of its files."""
    folder = Path(name).expanduser()
    if not name or not (folder / "config.json").exists():
        return
    if not any(file.match(pattern) for file in folder.iterdir() for pattern in _FILES):
        raise ValueError(_none_in(name))


def _none_in(name: str) -> str:
    return (
        f"model.pretrained: no tokenizer in {name}: copy tokenizer.json and"
        " tokenizer_config.json of the model that it was made of there"
    )


def loaded(folder: Path) -> PreTrainedTokenizerFast:
    """One that was saved there. Raises OSError or ValueError."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ValueError(f"{folder}: the tokenizer has no fast form")
    return found


def identity(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of all that decides which tokens a text becomes."""
    said = (
        tokenizer.backend_tokenizer.to_str(),
        str(tokenizer.chat_template),
        str(sorted(tokenizer.special_tokens_map.items())),
    )
    return hashlib.sha256("\0".join(said).encode()).hexdigest()


def _ready(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Neither cuts nor pads by itself, and has a token to pad with."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token is None:  # never seen by the model: not attended to, and no label
        first = tokenizer.convert_ids_to_tokens(0)
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or first
    return tokenizer
