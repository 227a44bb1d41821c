"""Chats as tokens, and which of them are learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]

IGNORED = -100  # a label that no loss is computed of (torch.nn.CrossEntropyLoss)

# For a tokenizer without a template: each message ends as a document does, so that a model learns
# to stop.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\n' + message['content'] }}"
    "{{ (eos_token or '') + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)


def with_template(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, with a plain template if it has none."""
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerFast, chat: str) -> tuple[list[int], list[int]]:
    """The tokens of a chat, given as JSON, by the tokenizer's template; and their labels.

    Learned is what assistants say, with the mark of its end: by the template's `{% generation %}`
    where it has one, else by what each message adds to the text. Where neither tells, everything.
    """
    messages: list[dict[str, str]] = json.loads(chat)
    if "{% generation" in str(tokenizer.chat_template):
        told = _applied(tokenizer, messages, tokenize=True, return_assistant_tokens_mask=True)
        ids, learned = told["input_ids"], told["assistant_masks"]
    else:
        text = str(_applied(tokenizer, messages, tokenize=False))
        found = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        spans = _spans(tokenizer, messages, text)
        ids = found.ids
        learned = [any(begin <= at < end for begin, end in spans) for at, _ in found.offsets]
    return ids, [token if is_on else IGNORED for token, is_on in zip(ids, learned, strict=True)]


def _spans(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    """The characters that assistants said; all, where the template rewrites earlier ones."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _applied(tokenizer, messages[:i], tokenize=False, add_generation_prompt=True)
        after = _applied(tokenizer, messages[: i + 1], tokenize=False)
        if not (text.startswith(after) and after.startswith(before)):
            return [(0, len(text))]
        spans.append((len(before), len(after)))
    return spans


def _applied(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], **how: bool
) -> Any:  # text or a mapping, as `how` asks
    from jinja2 import TemplateError

    apply: Callable[..., Any] = tokenizer.apply_chat_template
    try:
        return apply(list(messages), **how)
    except (TemplateError, TypeError) as wrong:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"dataset.messages_column: the chat template refuses {roles}: {wrong}"
        ) from wrong
