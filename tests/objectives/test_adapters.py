from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpoctl.objectives.causal_lm import adapters, models, pretrained, quantized
from hpoctl.objectives.causal_lm.adapters import attach, read_lora
from hpoctl.objectives.causal_lm.places import locate
from hpoctl.trial import Infeasible

from .conftest import PretrainedFolders

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

pytestmark = pytest.mark.usefixtures("one_thread")


def base(folder: Path) -> PreTrainedModel:
    weights = pretrained.load(locate(str(folder)), "float32")
    return pretrained.make(weights, keep_layers=None, dropout=None, dtype="float32")


def adapted_layers(llm: PeftModel) -> set[str]:
    trained = [name for name, weight in llm.named_parameters() if weight.requires_grad]
    assert all(".lora_" in name for name in trained)
    return {name.split(".lora_")[0].rpartition(".")[2] for name in trained}


def disturb(llm: PeftModel) -> None:
    """As a training would: an adapter begins as zero."""
    import torch

    torch.manual_seed(0)
    for name, weight in llm.named_parameters():
        if "lora_B" in name or (weight.requires_grad and "lora_" not in name):
            torch.nn.init.normal_(weight, std=0.1)


@pytest.mark.parametrize(
    ("family", "given", "layers"),
    [
        ("gpt2", "", {"c_attn"}),
        ("llama", "", {"q_proj", "v_proj"}),
        ("gpt2", "c_attn, c_fc", {"c_attn", "c_fc"}),
        ("llama", ["o_proj"], {"o_proj"}),
        ("llama", "self_attn.k_proj", {"k_proj"}),
        (
            "llama",
            "all-linear",
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
    ],
)
def test_the_named_layers_alone_are_trained(
    family: str, given: object, layers: set[str], pretrained_folder: PretrainedFolders
) -> None:
    lora = read_lora({"r": 2, "alpha": 4, "target_modules": given})
    llm = attach(base(pretrained_folder(family)), lora)
    assert adapted_layers(llm) == layers
    counted = models.parameters(llm)
    assert counted["parameters"] == base(pretrained_folder(family)).num_parameters()
    assert 0 < counted["trainable_parameters"] < 0.2 * counted["parameters"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("q_proj,vproj", "the model has no layer 'vproj'; did you mean 'v_proj'"),
        ("xyz", "the model has no layer 'xyz'; it has down_proj, gate_proj"),
        ("lm_head", "the model has no layer 'lm_head'"),
    ],
)
def test_an_unknown_layer_gets_the_nearest(
    given: str, message: str, pretrained_folder: PretrainedFolders
) -> None:
    with pytest.raises(ValueError, match=f"lora.target_modules: {message}"):
        attach(base(pretrained_folder("llama")), read_lora({"target_modules": given}))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_merged_adapter_answers_as_it_did_beside_the_weights(
    family: str, pretrained_folder: PretrainedFolders
) -> None:
    import torch

    llm = attach(base(pretrained_folder(family)), read_lora({"target_modules": "all-linear"}))
    disturb(llm)
    ids = torch.arange(16)[None]
    before = llm(input_ids=ids).logits
    elsewhere = adapters.moved(llm, base(pretrained_folder(family)))
    assert torch.equal(elsewhere(input_ids=ids).logits, before)
    merged = adapters.merged(llm)
    assert not torch.allclose(base(pretrained_folder(family))(input_ids=ids).logits, before)
    assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-5)


def test_a_checkpoint_of_an_adapter_asks_no_hub_for_its_base(
    pretrained_folder: PretrainedFolders, tmp_path: Path
) -> None:
    llm = attach(base(pretrained_folder("llama")), read_lora({}))
    llm.save_pretrained(str(tmp_path))
    assert (tmp_path / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 8}, "lora.rank: unknown; "),
        ({"r": 0}, "lora.r: is 0"),
        ({"alpha": 0.5}, "lora.alpha: is 0.5"),
        ({"dropout": 1}, "lora.dropout: is 1, "),
        ({"target_modules": 3}, "lora.target_modules: is 3, but must be all-linear, or names"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_lora(values)


def test_few_bits_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(
        ValueError, match=r"model.quantize: is '3bit', but must be one of none, 4bit"
    ):
        quantized.read_quantize("3bit")
    assert quantized.read_quantize("none") is None
    if find_spec("bitsandbytes") is not None and any(Path("/dev").glob("nvidia[0-9]*")):
        assert quantized.read_quantize("4bit") == "4bit"
        return
    with pytest.raises(ValueError, match=r"model.quantize: 4bit needs (bitsandbytes|a CUDA GPU), "):
        quantized.read_quantize("4bit")


TYPED: tuple[tuple[dict[str, object], str], ...] = (
    ({"use_rslroa": True}, "lora.use_rslroa: unknown; did you mean 'use_rslora'"),
    ({"xyzzy": 1}, "lora.xyzzy: unknown; see peft.LoraConfig"),
    ({"use_rslora": "yes"}, "lora.use_rslora: is 'yes', but must be true or false"),
    ({"bias": "lora"}, "lora.bias: 'lora' is not known; did you mean 'lora_only'"),
    ({"init_lora_weights": "gausian"}, "did you mean 'gaussian'"),
    ({"init_lora_weights": "eva"}, "lora.init_lora_weights: 'eva' is made from data before"),
    ({"eva_config": {"rho": 2}}, "lora.eva_config: is made from data before the training"),
    ({"layer_replication": [[0, 2]]}, "lora.layer_replication: cannot be merged"),
    ({"fan_in_fan_out": True}, "lora.fan_in_fan_out: is as the model's layers have it"),
    ({"alpha": 4, "lora_alpha": 8}, "lora.alpha: 'lora_alpha' is given twice"),
    ({"modules_to_save": 3}, "lora.modules_to_save: is 3, but must be a list"),
    ({"rank_pattern": 3}, "lora.rank_pattern: is 3, but must be names and values"),
    ({"loftq_config": {"bits": 4}}, "lora.loftq_config: .*bits"),
    (
        {"layers_to_transform": [0], "target_modules": "all-linear"},
        "lora.layers_to_transform: .*target_modules",
    ),
)


@pytest.mark.parametrize(("values", "message"), TYPED)
def test_a_field_that_peft_has_not_or_cannot_use_is_refused(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_lora(values)


def test_every_field_of_an_adapter_may_be_given_by_its_default() -> None:
    for name, field in adapters._fields().items():
        if name not in adapters._REFUSED and isinstance(field.default, str | int | float):
            assert read_lora({name: field.default}).fields[name] == field.default


@pytest.mark.parametrize(
    ("more", "beside"),
    [
        ({"use_rslora": True, "r": 4}, set()),
        ({"use_dora": True}, {"lora_magnitude_vector"}),
        ({"bias": "all"}, {"bias"}),
        ({"modules_to_save": "lm_head"}, {"modules_to_save"}),
        ({"modules_to_save": "embed_tokens,fc1"}, {"modules_to_save"}),
        ({"layers_to_transform": "0,2"}, set()),
        ({"init_lora_weights": "pissa"}, set()),
        ({"rank_pattern": {"v_proj": 1}}, set()),
    ],
)
def test_what_is_set_of_an_adapter_is_trained_and_merged(
    more: dict[str, object], beside: set[str], pretrained_folder: PretrainedFolders, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = pretrained_folder("opt")
    lora = read_lora({"target_modules": "q_proj,v_proj", **more})
    llm = attach(base(folder), lora)
    disturb(llm)
    ids = torch.arange(16)[None]
    names = [name for name, weight in llm.named_parameters() if weight.requires_grad]
    for part in beside:
        assert any(part in name for name in names)
    if "layers_to_transform" in more:
        assert {name.split("layers.")[1][0] for name in names} == {"0", "2"}
    counted = models.parameters(llm)
    assert counted["parameters"] == base(folder).num_parameters()
    before = llm.eval()(input_ids=ids).logits
    adapters.merged(llm).save_pretrained(str(tmp_path))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(again(input_ids=ids).logits, before, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "kept"),
    [({}, True), ({"bias": "lora_only"}, False), ({"init_lora_weights": "pissa"}, False)],
)
def test_it_is_known_whether_the_base_is_still_beneath_the_adapter(
    more: dict[str, object], *, kept: bool, pretrained_folder: PretrainedFolders
) -> None:
    assert adapters.keeps_base(attach(base(pretrained_folder("opt")), read_lora(more))) is kept


def test_a_module_to_save_that_is_not_there_gets_the_nearest(
    pretrained_folder: PretrainedFolders,
) -> None:
    with pytest.raises(ValueError, match=r"modules_to_save: .* 'lm_heat'; did you mean 'lm_head'"):
        attach(base(pretrained_folder("llama")), read_lora({"modules_to_save": "lm_heat"}))


def test_a_layer_beyond_the_last_one_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="layers_to_transform: 3, but the model has 3 layers"):
        read_lora({"layers_to_transform": [0, 3]}).check_layers(3)
    read_lora({"layers_to_transform": 2}).check_layers(3)
    read_lora({}).check_layers(3)
