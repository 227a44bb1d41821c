"""A GGUF file of a few layers, written by the package that llama.cpp's own tools use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {  # of transformers' Llama -> of the file
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: Path, file: Path) -> None:
    """The Llama of a folder, with its tokenizer, as 32-bit numbers."""
    import gguf
    from transformers import AutoModelForCausalLM

    llm = AutoModelForCausalLM.from_pretrained(model)
    config = llm.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, model)
    for name, weight in llm.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        halved = next((count for part, count in heads.items() if part in name), None)
        kept = weight if halved is None else _turned(weight, halved)
        writer.add_tensor(_named(name), kept.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: object, model: Path) -> None:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    known = json.loads((model / "tokenizer.json").read_text())["model"]
    tokens = sorted(known["vocab"], key=known["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges([" ".join(merge) for merge in known["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _named(name: str) -> str:
    """`model.layers.1.mlp.up_proj.weight` is `blk.1.ffn_up.weight`."""
    part = name.removesuffix(".weight")
    if not part.startswith("model.layers."):
        return f"{_NAMES[part]}.weight"
    number, _, inside = part.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_NAMES[inside]}.weight"


def _turned(weight: Tensor, heads: int) -> Tensor:
    """Each head's rows as llama.cpp pairs them: first and second half in turn."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
