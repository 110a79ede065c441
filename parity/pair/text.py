"""From text to token ids by two routes, and a third one if the port has its own; before any model runs.

The reference's ids are those of `AutoTokenizer`, which reads all of a checkpoint's files; in a conversation those of
`apply_chat_template`. They are held against the `tokenizers` library on tokenizer.json alone, as a port would use it,
which in a conversation encodes the template's text as it is, without special tokens. The commonest fault between text
and model is a BOS token that both the template and the tokenizer write, or neither.
"""

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from parity.errors import ParityError
from parity.generation_records import Prompt, Token, TokenFinding
from parity.pair import reference as references
from parity.pair.checkpoint import Checkpoint
from parity.pair.port import PORT_FAILS, Port, quiet, said

_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Words:
    """The checkpoint's tokenizer as the reference reads it, None without one: ids to pieces and to text."""

    tokenizer: Any = None

    def token(self, number: int) -> Token:
        """An id with the text that it adds to others; the vocabulary's own name for it if that is none."""
        if self.tokenizer is None:
            return Token(number)
        once, twice = self.text([number]), self.text([number, number])  # some drop a text's first space
        piece = twice[len(once) :] if twice.startswith(once) else once
        return Token(number, piece or str(self.tokenizer.convert_ids_to_tokens(number)))

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Encoded:
    """Prompts in ids, and what was found on the way."""

    prompts: tuple[Prompt, ...]
    words: Words
    findings: tuple[TokenFinding, ...] = ()
    notes: tuple[str, ...] = ()


def encode(
    checkpoint: Checkpoint, port: Port, texts: Sequence[str], chat: bool = False, trust_remote_code: bool = False
) -> Encoded:
    """Turn prompts into ids by all routes there are, and compare them.

    Args:
        checkpoint: with a tokenizer.
        port: whose own `encode(text)` is compared too, if it has one.
        texts: the prompts.
        chat: put each as a user's turn in the chat template.
        trust_remote_code: the tokenizer's own code may be run.

    Raises:
        ParityError: no tokenizer or chat template, or a prompt without any token.
    """
    if not checkpoint.has_tokenizer:
        raise ParityError(f"there is no tokenizer in {checkpoint.source}", "Give ids: --tokens FILE.")
    tokenizer = references.tokenizer(checkpoint.directory, trust_remote_code)
    words, direct = Words(tokenizer), _direct(checkpoint.directory)
    prompts, findings, notes = [], [], []
    for number, text in enumerate(texts, 1):
        name = "the prompt" if len(texts) == 1 else f"prompt {number}"
        rendered, ids = _conversation(tokenizer, text) if chat else (None, tokenizer(text)["input_ids"])
        if not ids:
            raise ParityError(f"{name} is of no tokens", "Give some text.")
        prompts.append(Prompt(tuple(map(words.token, ids)), text, rendered))
        routes = _Routes(name, words, ids, text if rendered is None else rendered, chat)
        findings += [*routes.files(direct), *routes.doubled(), *routes.port(port)]
        notes += [*routes.hazards(), *routes.not_compared(port, direct)]
    return Encoded(tuple(prompts), words, tuple(findings), tuple(dict.fromkeys(notes)))


def given(checkpoint: Checkpoint, rows: Sequence[Sequence[int]], trust_remote_code: bool = False) -> Encoded:
    """Prompts that are ids already; a tokenizer only says what they stand for."""
    words = Words()
    if checkpoint.has_tokenizer:
        words = Words(references.tokenizer(checkpoint.directory, trust_remote_code))
    return Encoded(tuple(Prompt(tuple(map(words.token, ids))) for ids in rows), words)


def ids_in(path: Path) -> list[list[int]]:
    """Token ids from a file: a JSON list, a JSON list of lists, or ids with blanks between them.

    Raises:
        ParityError: the file cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"cannot read {path}: {error}", "Give a file of token ids.") from error
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError:
        parsed = [int(word) if word.isdecimal() else word for word in text.split()]
    if isinstance(parsed, int):
        parsed = [parsed]
    rows = parsed if isinstance(parsed, list) and all(isinstance(row, list) for row in parsed) else [parsed]
    if not all(isinstance(row, list) and row and all(type(each) is int for each in row) for row in rows) or not rows:
        raise ParityError(
            f"{path} holds no token ids", "Give a JSON list, a JSON list of lists, or ids with blanks between them."
        )
    return rows


def _direct(directory: Path) -> Tokenizer | None:
    """tokenizer.json as any program reads it, None if there is none."""
    path = directory / _TOKENIZER
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ParityError(f"{path} cannot be read: {error}", "Restore it as it is on the Hub.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _conversation(tokenizer: Any, text: str) -> tuple[str, list[int]]:
    """The chat template's text for one turn of a user's, and its ids."""
    if not tokenizer.chat_template:
        raise ParityError("the checkpoint has no chat template", "Leave out --chat.")
    turns = [{"role": "user", "content": text}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=True)
    except Exception as error:  # templates raise what they like
        raise ParityError(f"the chat template fails: {error}", "Mend it, or leave out --chat.") from error
    return str(rendered), list(ids["input_ids"])


@dataclass(frozen=True)
class _Routes:
    """One prompt's ids by the reference, and its other routes. text: what is encoded, a conversation's rendered."""

    name: str
    words: Words
    ids: list[int]
    text: str
    chat: bool

    def files(self, direct: Tokenizer | None) -> Iterator[TokenFinding]:
        """tokenizer.json on its own."""
        if direct is not None:
            other = direct.encode(self.text, add_special_tokens=not self.chat).ids
            if other != self.ids:
                yield TokenFinding(f"{self.name}: {_TOKENIZER} alone {self._departs(other, 'AutoTokenizer')}", False)

    def doubled(self) -> Iterator[TokenFinding]:
        """The reference's own ids may begin with two."""
        if self._leading(self.ids) > 1:
            why = "the template writes it twice" if self.chat else "the text begins with it, and the tokenizer adds one"
            yield TokenFinding(f"{self.name}: a doubled {self._bos}: {why}", False)

    def port(self, port: Port) -> Iterator[TokenFinding]:
        """The port's own way from text to ids."""
        other = self._ports(port)
        if isinstance(other, list) and other != self.ids:
            yield TokenFinding(f"{self.name}: the port's own encode {self._departs(other, 'the reference')}", True)

    def hazards(self) -> Iterator[str]:
        """What a program that encodes the template's text like any other would get wrong."""
        bos = self.words.tokenizer.bos_token_id
        if not self.chat or bos is None:
            return
        plain = self.words.tokenizer(self.text)["input_ids"]
        if self._leading(plain) > self._leading(self.ids) > 0:
            yield (
                f"the chat template writes {self._bos} itself, and the tokenizer would add another: "
                "the template's text is encoded without special tokens"
            )
        elif self._leading(plain) > self._leading(self.ids):
            yield (
                f"the chat template writes no {self._bos}, which plain text begins with: conversations begin without it"
            )

    def not_compared(self, port: Port, direct: Tokenizer | None) -> Iterator[str]:
        """Routes that are not there."""
        if direct is None:
            yield f"token ids come from AutoTokenizer alone: there is no {_TOKENIZER} to hold them against"
        other = self._ports(port)
        if isinstance(other, str):
            yield f"the port's own encode was not compared: {other}"

    @property
    def _bos(self) -> str:
        return str(self.words.tokenizer.bos_token or "BOS")

    def _leading(self, ids: Sequence[int]) -> int:
        """How many BOS tokens come first."""
        bos = self.words.tokenizer.bos_token_id
        return next((count for count, each in enumerate(ids) if each != bos), len(ids))

    def _departs(self, other: list[int], right: str) -> str:
        """In which way other ids are wrong."""
        had, wanted = self._leading(other), self._leading(self.ids)
        if had != wanted and other[had:] == self.ids[wanted:]:
            kind = "a doubled" if had > 1 else "a missing" if not had else "another number of"
            return f"gives {kind} {self._bos}: {had} in front, {wanted} by {right}"
        both = zip(other, self.ids, strict=False)
        same = next((at for at, (ours, theirs) in enumerate(both) if ours != theirs), min(len(other), len(self.ids)))
        ours, theirs = (self._shown(ids, same) for ids in (other, self.ids))
        return f"gives other ids from token {same + 1} on: {ours}, {theirs} by {right}"

    def _shown(self, ids: Sequence[int], at: int) -> str:
        if at >= len(ids):
            return "nothing more"
        token = self.words.token(ids[at])
        return f"{token.id} {token.piece!r}"

    def _ports(self, port: Port) -> list[int] | str | None:
        """The port's ids, why there are none, or None if it has no way of its own."""
        if port.encode is None:
            return None
        try:
            takes = "add_special_tokens" in inspect.signature(port.encode).parameters
            with quiet():
                made = port.encode(self.text, **({"add_special_tokens": False} if takes and self.chat else {}))
            made = made.tolist() if isinstance(made, Tensor) else list(made)
        except PORT_FAILS as error:
            return f"it raised {said(error)}"
        made = list(made[0]) if len(made) == 1 and isinstance(made[0], list | tuple) else made
        return made if all(type(each) is int for each in made) else "it gave no list of ids"
