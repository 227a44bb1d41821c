"""Which documents are for training, for validation and for the test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from hpoctl.objectives.causal_lm.text.documents import Document, Part
from hpoctl.objectives.causal_lm.text.source import Source

_PIECE = 1 << 14  # characters; a long text is tokenised in pieces
_LINE = 1 << 12  # how far back a line's end is looked for


def split(given: Mapping[str, Part], source: Source) -> dict[str, Part]:
    """The parts, those that are not given taken from the training text; none is empty.

    Raises ValueError where there are fewer documents than parts.
    """
    shares = {"validation": source.validation_share, "test": source.test_share}
    missing = {part: share for part, share in shares.items() if share and part not in given}
    train = given["train"]
    if not train.documents:
        raise ValueError("dataset: there is no text in it")
    taken = _ends(train, missing) if train.running else _drawn(train, missing, source.seed)
    parts = {**given, **taken}
    for name, part in parts.items():
        if not part.documents:
            count = len(set(train.documents))
            raise ValueError(
                f"dataset: nothing is left for {name}: there is too little text ({count} different"
                " documents): give more, or files of their own for validation and test"
            )
    return {name: _in_pieces(part) if part.running else part for name, part in parts.items()}


def _drawn(train: Part, shares: Mapping[str, float], seed: int) -> dict[str, Part]:
    """Documents in the order of a hash of what they say.

    So equal documents get into the same part, wherever they stand, and a part hardly changes
    when documents are added.
    """
    sizes: dict[Document, int] = {}
    for document in train.documents:
        sizes[document] = sizes.get(document, 0) + sum(map(len, document))
    ranked = sorted(sizes, key=lambda document: _rank(document, seed))
    goals = {name: share * sum(sizes.values()) for name, share in shares.items()}
    chosen: dict[Document, str] = {}
    for name, left in goals.items():
        for document in [document for document in ranked if document not in chosen]:
            if sizes[document] <= left:
                left -= sizes[document]
                chosen[document] = name
        if name not in chosen.values() and len(chosen) < len(ranked):  # each is longer than that
            chosen[min((d for d in ranked if d not in chosen), key=sizes.__getitem__)] = name
    return {
        name: Part(documents=tuple(d for d in train.documents if chosen.get(d, "train") == name))
        for name in ("train", *shares)
    }


def _rank(document: Document, seed: int) -> bytes:
    key = seed.to_bytes(8, "big")
    return hashlib.blake2b("\0".join(document).encode(errors="replace"), key=key).digest()


def _ends(train: Part, shares: Mapping[str, float]) -> dict[str, Part]:
    """The end of one running text, cut where a line ends if one does near by."""
    ((text,),) = train.documents
    parts, end = {}, len(text)
    for name in sorted(shares, reverse=True):  # validation comes before the test
        begin = _line_end(text, max(0, end - round(shares[name] * len(text))), end)
        parts[name], end = _running(text[begin:end]), begin
    return {**parts, "train": _running(text[:end])}


def _running(text: str) -> Part:
    return Part(documents=((text,),) if text else (), running=True)


def _line_end(text: str, at: int, end: int) -> int:
    """Where the line ends that `at` stands in, or `at` where that is not near; below `end`."""
    found = text.rfind("\n", max(0, at - _LINE), at) + 1 or at
    return found if found < end else at


def _in_pieces(part: Part) -> Part:
    return Part(
        documents=tuple((piece,) for (text,) in part.documents for piece in pieces(text)),
        running=True,
    )


def pieces(text: str, size: int = _PIECE) -> Sequence[str]:
    """The text in pieces of about `size` characters, each ending with a line where it can."""
    if len(text) <= size:
        return [text]
    found, begin = [], 0
    while begin < len(text):
        at = begin + size
        end = text.rfind("\n", begin, at) + 1 or at if at < len(text) else len(text)
        found.append(text[begin:end])
        begin = end
    return found
