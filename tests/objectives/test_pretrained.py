from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpoctl.objectives.causal_lm import pretrained
from hpoctl.objectives.causal_lm.hub import read_model
from hpoctl.objectives.causal_lm.places import Place, locate
from hpoctl.objectives.causal_lm.pretrained import load, make, take
from hpoctl.objectives.causal_lm.text import tokenizer
from hpoctl.trial import Infeasible

from .conftest import PretrainedFolders

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_folder_a_file_and_a_name_on_the_hub_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("saved", "gguf", "two"):
        (tmp_path / folder).mkdir()
    for file in ("saved/config.json", "saved/x.gguf", "gguf/x.gguf", "two/a.gguf", "two/b.gguf"):
        (tmp_path / file).touch()
    assert locate("saved") == Place(name="saved", source="saved")
    assert locate("gguf") == Place(name="gguf", source="gguf", gguf_file="x.gguf")
    assert locate("saved/x.gguf").gguf_file == "x.gguf"
    assert (locate("gpt2").source, locate("gpt2").hub) == ("gpt2", read_model("gpt2"))
    assert locate("meta-llama/Llama-3.3-8B").source == "meta-llama/Llama-3.3-8B"
    for name, wrong in {
        "two": "no config.json, and several .gguf files: name one of a.gguf, b.gguf",
        ".": "no config.json, and no .gguf file",
        "saved/config.json": "is neither a folder nor a .gguf file",
        "one/two/three": "there is no such file",
        "./model": "there is no such file",
        "/no/such/model": "there is no such file",
        "x.gguf": "there is no such file",
    }.items():
        with pytest.raises(ValueError, match=f"^model.pretrained: .*{wrong}"):
            locate(name)


@pytest.mark.parametrize(
    ("family", "layers"), [("gpt2", "transformer.h"), ("llama", "model.layers"), ("opt", None)]
)
def test_the_first_layers_are_kept_and_what_is_saved_is_shorter(
    family: str, layers: str | None, pretrained_folder: PretrainedFolders, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    weights = load(locate(str(pretrained_folder(family))), "float32")
    whole = make(weights, keep_layers=None, dropout=None, dtype="float32")
    short = make(weights, keep_layers=2, dropout=None, dtype="float32")
    ids = torch.arange(16)[None]
    before = whole(input_ids=ids, output_hidden_states=True).hidden_states
    after = short(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(before[1], after[1])  # the last one has the final norm in it
    if layers is not None:
        assert len(list(short.get_submodule(layers).children())) == 2
        assert len(list(whole.get_submodule(layers).children())) == 3
    short.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.num_hidden_layers == 2
    assert torch.equal(again(input_ids=ids).logits, short(input_ids=ids).logits)


def test_more_layers_than_there_are_cannot_be_kept(pretrained_folder: PretrainedFolders) -> None:
    place = locate(str(pretrained_folder("gpt2")))
    with pytest.raises(Infeasible, match=r"model.keep_layers: 4, but the model has 3 layers"):
        pretrained.hold(place, "float32", keep_layers=4)


def test_lists_of_a_layer_each_are_cut_with_the_layers() -> None:
    from transformers import AutoConfig, PreTrainedConfig

    configure: Callable[..., PreTrainedConfig] = AutoConfig.for_model
    cut = pretrained.changed(configure("qwen2"), keep_layers=3, dropout=None)
    assert (cut.num_hidden_layers, len(cut.layer_types)) == (3, 3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_dropout_of_a_trained_model_can_be_set(
    family: str, pretrained_folder: PretrainedFolders
) -> None:
    import torch

    weights = load(locate(str(pretrained_folder(family))), "float32")
    ids = torch.arange(16)[None]
    differs = []
    for dropout in (None, 0.5):
        llm = make(weights, keep_layers=None, dropout=dropout, dtype="float32").train()
        differs.append(not torch.equal(llm(input_ids=ids).logits, llm(input_ids=ids).logits))
    assert differs == [False, True]


def test_what_is_held_is_taken_without_a_copy_and_once(
    pretrained_folder: PretrainedFolders,
) -> None:
    place = locate(str(pretrained_folder("gpt2")))
    pretrained.hold(place, "float32", keep_layers=None)
    first = take(place, "float32")
    llm = make(first, keep_layers=None, dropout=0.1, dtype="float32")
    name, tensor = next(iter(first.tensors.items()))
    assert llm.state_dict()[name].data_ptr() == tensor.data_ptr()
    with_another = take(place, "float32").tensors[name]  # loaded: training changes the first
    assert with_another.data_ptr() != tensor.data_ptr()
    assert with_another.equal(tensor)


def test_weights_can_be_of_half_precision(pretrained_folder: PretrainedFolders) -> None:
    import torch

    place = locate(str(pretrained_folder("llama")))
    pretrained.hold(place, "float32", keep_layers=None)
    llm = make(take(place, "bfloat16"), keep_layers=None, dropout=None, dtype="bfloat16")
    assert {weight.dtype for weight in llm.parameters()} == {torch.bfloat16}
    llm(input_ids=torch.arange(4)[None], labels=torch.arange(4)[None]).loss.backward()


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=f"model.pretrained: {tmp_path}: Unrecognized model"):
        load(locate(str(tmp_path)), "float32")


def test_a_name_on_the_hub_is_found_in_its_cache_and_nothing_outlives_the_loading(
    pretrained_folder: PretrainedFolders, tmp_path: Path
) -> None:
    """As on a compute node: what was fetched is there, the hub is not."""
    cached = tmp_path / "hub/models--someone--tiny"
    shutil.copytree(pretrained_folder("gpt2"), cached / "snapshots/abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc", encoding="utf-8")
    code = """if True:
        import json, sys, threading
        from hpoctl.objectives import causal_lm
        args = json.loads(sys.argv[1])
        import torch
        def touched(*args): sys.exit("CUDA is touched before the fork")
        torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = touched
        causal_lm.prepare(args)
        assert threading.active_count() == 1, threading.enumerate()
        try:
            causal_lm.prepare({**args, "model": {"pretrained": "someone/else"}})
        except ValueError as wrong:
            print(wrong)
    """
    args = {
        "dataset": {"builtin": "pydoc", "block_size": 32, "max_blocks": 50},
        "model": {"pretrained": "someone/tiny"},
    }
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(args)],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (said,) = done.stdout.splitlines()
    assert said.startswith("model.pretrained: someone/else: the hub cannot be reached from here")
    assert said.endswith("A login node may fetch it: hpoctl prefetch SWEEP")


def test_a_model_without_its_tokenizer_is_refused_not_taught_nothing(
    pretrained_folder: PretrainedFolders, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(pretrained_folder("gpt2"), bare, ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(ValueError, match=r"no tokenizer in .*bare"):
        tokenizer.pretrained(locate(str(bare)))
    with pytest.raises(ValueError, match=r"no tokenizer in .*bare: copy tokenizer.json"):
        tokenizer.check_folder(str(bare))
    tokenizer.check_folder(str(pretrained_folder("gpt2")))
