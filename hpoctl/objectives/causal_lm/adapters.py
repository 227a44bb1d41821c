"""LoRA (Hu et al. 2021): a few trained numbers beside the frozen ones."""

from __future__ import annotations

import copy
import difflib
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_origin

from hpoctl.objectives.causal_lm.typed import Field, fields_of, names_in, naming_a_field
from hpoctl.objectives.causal_lm.values import check_names, group, share, whole
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.nn import Module
    from transformers import PreTrainedModel

ALIASES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
_TARGETS = "target_modules"
_OF_DATA = "is made from data before the training, which is not built"
_UNMERGED = "cannot be merged into the weights, which is how a model is saved"
_REFUSED = {
    "fan_in_fan_out": "is as the model's layers have it",
    "eva_config": _OF_DATA,
    "corda_config": _OF_DATA,
    "lora_ga_config": _OF_DATA,
    "layer_replication": _UNMERGED,
    "alora_invocation_tokens": _UNMERGED,
    "use_bdlora": _UNMERGED,
    "arrow_config": "chooses among several adapters, and there is one",
    "megatron_config": "is for Megatron's layers, which transformers has not",
    "megatron_core": "is for Megatron's layers, which transformers has not",
    "runtime_config": "is for an adapter that is not trained",
}
_INIT = "init_lora_weights"
_INITS_OF_DATA = ("eva", "corda", "lora_ga")
_PLAIN_INITS = (True, False, "gaussian", "orthogonal")  # all others change the base's weights
_EVERY = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """What is trained beside the frozen weights; `fields` are those of peft's LoraConfig."""

    fields: Mapping[str, object]
    targets: tuple[str, ...]  # names of layers, all-linear alone, or none: what suits the family

    @property
    def keeps_base(self) -> bool:
        """Whether the weights that are loaded stay as they are until the adapter is merged."""
        return self.fields.get(_INIT, True) in _PLAIN_INITS

    def check_layers(self, count: int) -> None:
        """Raises Infeasible where it names a layer that a model of so many has not."""
        given = self.fields.get("layers_to_transform")
        layers = [layer for layer in _items(given) if isinstance(layer, int)]
        if layers and max(layers) >= count:
            raise Infeasible(
                f"lora.layers_to_transform: {max(layers)}, but the model has {count} layers, and"
                " the first one is 0"
            )


def of(*trees: Mapping[str, object]) -> Mapping[str, object] | None:
    """The group `lora` of all that have it, the last one winning; None where none has."""
    given = [group(tree, "lora") for tree in trees if "lora" in tree]
    return {name: value for lora in given for name, value in lora.items()} if given else None


def check_light(lora: Mapping[str, object]) -> None:
    """Raises ValueError for a name that no adapter has; loads nothing."""
    known = names_in("peft", "tuners/lora/config.py", "LoraConfig")
    check_names(
        lora, [*ALIASES, *known] if known is not None else [*lora], "lora.", "peft.LoraConfig"
    )
    for name, why in _REFUSED.items():
        if name in lora:
            raise ValueError(f"lora.{name}: {why}: leave it out")


def read_lora(lora: Mapping[str, object]) -> Lora:
    """The group `lora`. Raises ValueError for what peft cannot use."""
    check_light(lora)
    known, found = _fields(), dict(_USUAL)
    for name, value in lora.items():
        field = ALIASES.get(name, name)
        if name in ALIASES and field in lora:
            raise ValueError(f"lora.{name}: '{field}' is given twice, under two names")
        if field != _TARGETS:
            found[field] = known[field].checked(f"lora.{name}", _listed(value, known[field]))
    whole("lora.r", found["r"])
    whole("lora.alpha", found["lora_alpha"])
    share("lora.dropout", found["lora_dropout"])
    if found.get(_INIT) in _INITS_OF_DATA:
        raise ValueError(f"lora.{_INIT}: '{found[_INIT]}' {_OF_DATA}: leave it out")
    made = Lora(fields=found, targets=_targets(lora.get(_TARGETS, "")))
    try:
        _config(made, _EVERY if _EVERY in made.targets else list(made.targets) or ["any"])
    except (TypeError, ValueError, ImportError) as wrong:
        raise ValueError(naming_a_field("lora", known, str(wrong))) from wrong
    return made


_USUAL: Mapping[str, object] = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}


@functools.cache
def _fields() -> Mapping[str, Field]:
    from peft import LoraConfig, PeftConfig

    return fields_of(LoraConfig, beyond=PeftConfig)


def _config(lora: Lora, targets: list[str] | str | None, **more: object) -> PeftConfig:
    from peft import LoraConfig

    make: Callable[..., PeftConfig] = LoraConfig
    fields = copy.deepcopy(dict(lora.fields))  # peft changes some in place
    return make(task_type="CAUSAL_LM", target_modules=targets, **fields, **more)


def _listed(value: object, field: Field) -> object:
    """One string with commas as the list that it stands for, where the field takes one."""
    lists = {kind for kind in field.kinds if get_origin(kind) is list}
    if not lists or not isinstance(value, str) or ("," not in value and str in field.kinds):
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    if list[int] in lists and all(word.isdecimal() for word in words):
        return [int(word) for word in words]
    return words


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]


def _targets(given: object) -> tuple[str, ...]:
    """Names in a list, or in one string with commas: a searched value cannot be a list."""
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"lora.target_modules: is {given!r}, but must be {_EVERY}, or names as in q_proj,v_proj"
        )
    return tuple(name.strip() for name in names if name.strip())


def attach(llm: PreTrainedModel, lora: Lora) -> PeftModel:
    """The model with an adapter that alone is trained. Raises ValueError for unknown layers."""
    from peft import prepare_model_for_kbit_training
    from transformers.pytorch_utils import Conv1D

    if getattr(llm, "is_quantized", False):
        ready: Callable[..., PreTrainedModel] = prepare_model_for_kbit_training
        # Checkpoints of gradients are the Trainer's to switch on: training.gradient_checkpointing.
        llm = ready(llm, use_gradient_checkpointing=False)
    if saved := _items(lora.fields.get("modules_to_save") or ()):
        _check_modules("modules_to_save", saved, _names(llm))
        if _are_tied(llm, saved):
            # Else the one would be trained without the other, and saved as if it had not been.
            lora = replace(lora, fields={"ensure_weight_tying": True, **lora.fields})
    try:
        config = _config(
            lora,
            _modules(llm, lora),
            # As GPT-2 has them: said here, or peft warns.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in llm.modules()),
        )
        return _wrapped(llm, config)
    except (TypeError, ValueError) as wrong:
        raise ValueError(naming_a_field("lora", _fields(), str(wrong))) from wrong


def _modules(llm: PreTrainedModel, lora: Lora) -> list[str] | str | None:
    """The layers as peft takes them. Raises ValueError for a name that the model has not."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    if not lora.targets:
        if lora.fields.get("target_parameters"):
            return None
        return list(USUAL.get(llm.config.model_type, ())) or _EVERY
    if _EVERY in lora.targets:
        return _EVERY
    _check_modules(_TARGETS, lora.targets, _linear_layers(llm))
    return list(lora.targets)


def _check_modules(key: str, wanted: Sequence[object], there: Sequence[str]) -> None:
    """Raises ValueError for one that the model has not, with the nearest that it has."""
    known = sorted({name.rpartition(".")[2] for name in there})
    for one in wanted:
        if not any(f".{name}".endswith(f".{one}") for name in there):
            close = difflib.get_close_matches(str(one), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known)}"
            raise ValueError(f"lora.{key}: the model has no layer '{one}'; {hint}")


def _are_tied(llm: PreTrainedModel, names: Sequence[object]) -> bool:
    """Whether these are the tokens' embeddings, or the head, which are one tensor here."""
    find: Callable[[], Module] = llm.get_input_embeddings
    embeddings = find().weight
    head: Callable[[], Module] = llm.get_output_embeddings
    return head().weight is embeddings and any(
        getattr(module, "weight", None) is embeddings
        for name, module in llm.named_modules()
        if any(f".{name}".endswith(f".{one}") for one in names)
    )


def _names(llm: PreTrainedModel) -> list[str]:
    """All parts of a model, but those that have a number for a name."""
    return [name for name, _ in llm.named_modules() if not name.rpartition(".")[2].isdecimal()]


def _linear_layers(llm: PreTrainedModel) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    find: Callable[[], Module] = llm.get_output_embeddings
    head = find()
    return [
        name
        for name, module in llm.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]


def _wrapped(llm: PreTrainedModel, config: PeftConfig) -> PeftModel:
    from peft import get_peft_model

    wrap: Callable[..., PeftModel] = get_peft_model
    with warnings.catch_warnings():
        # peft 0.21 asks for is_gradient_checkpointing, which transformers 5.23 wants renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return wrap(llm, config)


def added(llm: PeftModel) -> int:
    """How many of the trained numbers the model itself has not."""
    marks = ("lora_", ".modules_to_save.", "trainable_tokens_")
    return sum(
        weight.numel()
        for name, weight in llm.named_parameters()
        if weight.requires_grad and any(mark in name for mark in marks)
    )


def keeps_base(llm: PeftModel) -> bool:
    """Whether the model without its adapter is what was loaded, even when it was trained."""
    config = vars(llm.peft_config["default"])
    return config["bias"] == "none" and config[_INIT] in _PLAIN_INITS


def merged(llm: PeftModel) -> PreTrainedModel:
    """The model with the adapter added to its weights; `llm` is used up."""
    merge: Callable[[], PreTrainedModel] = llm.merge_and_unload
    return merge()


def moved(llm: PeftModel, base: PreTrainedModel) -> PeftModel:
    """The adapter of `llm` on another copy of its base."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    other = _wrapped(base, llm.peft_config["default"])
    set_peft_model_state_dict(other, get_peft_model_state_dict(llm, save_embedding_layers=False))
    return other
