"""`Wav2Vec2CTCTokenizer` turns text into ids and ids into text, with the reference's name, arguments and files.

A CTC model gives one id for each frame. Three steps turn them into text, in this order: equal neighbours become one,
the blank (``pad_token``) and other special tokens are left out, the word delimiter becomes a space.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unisat.config import nearest
from unisat.feature_extraction import (
    BatchFeature,
    as_batch,
    as_columns,
    check_padding,
    check_right,
    padded,
    read_json,
    round_up,
    target_length,
    warn_unknown,
    write_json,
)
from unisat.outputs import ModelOutput

VOCAB_NAME = "vocab.json"
TOKENIZER_NAME = "tokenizer_config.json"
SPECIAL_NAME = "special_tokens_map.json"
ADDED_NAME = "added_tokens.json"
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
FIELDS = (
    *SPECIAL,
    "word_delimiter_token",
    "replace_word_delimiter_char",
    "do_lower_case",
    "target_lang",
    "clean_up_tokenization_spaces",
    "added_tokens_decoder",
)
# other keys of the reference, which are kept without a warning
KNOWN = (
    "additional_special_tokens model_max_length name_or_path padding_side processor_class special_tokens_map_file "
    "tokenizer_class tokenizer_file truncation_side"
).split()
CLASSES = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
# these lose the space in front of them; "'" loses the one behind it too
CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
Offsets = list[dict[str, str | int | float]]


@dataclass(frozen=True, eq=False, repr=False)
class Wav2Vec2CTCTokenizerOutput(ModelOutput):
    """Text and the place of its characters and words; `batch_decode` gives lists with one entry for each utterance.

    Attributes
    ----------
    text
        The text.
    char_offsets, word_offsets
        Dicts with ``char`` or ``word``, ``start_offset`` and ``end_offset`` in frames (the end is the first frame
        behind it), and ``start_seconds`` and ``end_seconds`` if ``frame_seconds`` was given.
    """

    text: str | list[str]
    char_offsets: Offsets | list[Offsets] | None = None
    word_offsets: Offsets | list[Offsets] | None = None


class Wav2Vec2CTCTokenizer:
    """Characters and their ids, as ``vocab.json`` lists them.

    Parameters
    ----------
    vocab_file
        Path of a ``vocab.json``, or its contents: ``{token: id}``, or ``{language: {token: id}}`` with
        ``target_lang``. Tokens of several characters are found in a text before it is split into characters.
    bos_token, eos_token
        CTC does not use them. If the vocabulary lacks them, they get the ids behind it, as in the reference.
    unk_token
        Stands for characters and ids that are not in the vocabulary.
    pad_token
        Padding of labels, and the blank of CTC.
    word_delimiter_token
        Stands between words; None for a language that writes no spaces.
    do_lower_case
        Whether the vocabulary is in upper case and the texts are in lower case.
    **extra
        Other keys, which are kept for the file. Typed ones give a warning; those from a file do not.

    Raises
    ------
    ValueError
        If two tokens of the vocabulary have one id, if an id has no token, if ``pad_token``, ``unk_token`` or
        ``word_delimiter_token`` is missing, or if only one of a nested vocabulary and ``target_lang`` is given.
    """

    model_input_names = ("input_ids", "attention_mask")
    padding_side = "right"

    def __init__(
        self,
        vocab_file: str | Path | Mapping[str, Any],
        bos_token: str | None = "<s>",
        eos_token: str | None = "</s>",
        unk_token: str = "<unk>",
        pad_token: str = "<pad>",
        word_delimiter_token: str | None = "|",
        replace_word_delimiter_char: str = " ",
        do_lower_case: bool = False,
        target_lang: str | None = None,
        clean_up_tokenization_spaces: bool = True,
        added_tokens_decoder: Mapping[str | int, Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> None:
        warn_unknown(type(self).__name__, extra, (*FIELDS, *KNOWN))
        check_right(extra.get("padding_side", "right"))
        self.bos_token, self.eos_token, self.unk_token, self.pad_token = bos_token, eos_token, unk_token, pad_token
        self.word_delimiter_token = word_delimiter_token
        self.replace_word_delimiter_char, self.do_lower_case = replace_word_delimiter_char, do_lower_case
        self.clean_up_tokenization_spaces, self.extra = clean_up_tokenization_spaces, extra
        if isinstance(vocab_file, Mapping):
            self.vocab, self._source = dict(vocab_file), "the vocabulary"
        else:
            path = Path(vocab_file)
            self.vocab, self._source = read_json(path.parent, path.name), str(path)
        for name in (*SPECIAL, "word_delimiter_token"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name}={getattr(self, name)!r:.60}; expected the text of a token, or None.")
        try:
            added = {str(token["content"]): int(index) for index, token in (added_tokens_decoder or {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"added_tokens_decoder={added_tokens_decoder!r:.80}; expected {{'5': {{'content': '<s>'}}}}."
            ) from None
        self._use(target_lang, added)

    # the vocabulary

    def set_target_lang(self, target_lang: str) -> None:
        """Change the language of a nested vocabulary."""
        self._use(target_lang, {}, self._added)

    def _use(self, target_lang: str | None, added: Mapping[str, int], behind: Iterable[str] = ()) -> None:
        """Check and index the vocabulary of one language, with the tokens ``added`` to it and those ``behind`` it."""
        encoder = _of_language(self.vocab, target_lang, self._source)
        source = self._source if target_lang is None else f"{self._source} [{target_lang!r}]"
        added = {token: index for token, index in added.items() if token not in encoder}
        ids = {**encoder, **added}
        _check_ids(ids, source)
        for name in ("pad_token", "unk_token", "word_delimiter_token"):
            token = getattr(self, name)
            if token not in ids and not (token is None and name == "word_delimiter_token"):
                raise ValueError(
                    f"{source} lacks {name}={token!r}{nearest(str(token), [*ids])}; name the one it has, with "
                    f"{name}=..., or add it with the id {len(ids)} if the model has a class for it."
                )
        additional = [_content(token) for token in self.extra.get("additional_special_tokens") or []]
        for token in (*behind, self.bos_token, self.eos_token, *additional):
            if token is not None and token not in ids:
                added[token] = ids[token] = len(ids)
        self.target_lang, self.encoder, self._added, self._ids = target_lang, encoder, added, ids
        self._tokens = {index: token for token, index in ids.items()}
        self._special = {*(getattr(self, name) for name in SPECIAL), *additional} - {None}
        self._longer = {token for token in encoder if len(token) > 1}
        self._split = _splitter(self._longer | set(added) | self._special)
        self._split_special = _splitter(self._special)

    def add_tokens(self, new_tokens: str | Sequence[str]) -> int:
        """Put tokens behind the vocabulary, and give how many of them are new; a model needs a class for each."""
        names = [new_tokens] if isinstance(new_tokens, str) else new_tokens
        new = [token for token in dict.fromkeys(names) if token not in self._ids]
        self._use(self.target_lang, self._added, new)
        return len(new)

    @property
    def vocab_size(self) -> int:
        """Number of tokens in ``vocab.json``; ``len(tokenizer)`` counts the added ones too."""
        return len(self.encoder)

    def __len__(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Copy of ``{token: id}``, with the added tokens."""
        return dict(self._ids)

    @property
    def pad_token_id(self) -> int:
        """Id of the padding, which is the blank of CTC."""
        return self._ids[self.pad_token]

    @property
    def unk_token_id(self) -> int:
        """Id for characters that are not in the vocabulary."""
        return self._ids[self.unk_token]

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token for the beginning of a text, which CTC does not use."""
        return None if self.bos_token is None else self._ids[self.bos_token]

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token for the end of a text, which CTC does not use."""
        return None if self.eos_token is None else self._ids[self.eos_token]

    @property
    def word_delimiter_token_id(self) -> int | None:
        """Id of the token between words."""
        return None if self.word_delimiter_token is None else self._ids[self.word_delimiter_token]

    # text to ids

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens; those of several characters come first and take the spaces around them."""
        if self.do_lower_case:
            parts = self._split_special.split(text)
            text = "".join(part if i % 2 else "".join(map(str.lower, part)) for i, part in enumerate(parts))
        tokens: list[str] = []
        parts = self._split.split(text)  # text, token, text, token, ..., text
        for i, part in enumerate(parts):
            if i % 2:
                tokens.append(part)
                continue
            part = part.lstrip() if i and parts[i - 1] in self._longer else part
            part = part.rstrip() if i + 1 < len(parts) and parts[i + 1] in self._longer else part
            part = part.upper() if self.do_lower_case else part
            tokens += [self.word_delimiter_token or " " if char == " " else char for char in part]
        return tokens

    def encode(self, text: str) -> list[int]:
        """Ids of a text, one for each token, without ``bos_token`` and ``eos_token``."""
        if not isinstance(text, str):
            raise ValueError(f"text is {text!r:.60}, a {type(text).__name__}; expected a str, or a list of them.")
        return [self._ids.get(token, self.unk_token_id) for token in self.tokenize(text)]

    def __call__(
        self,
        text: str | Sequence[str],
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> BatchFeature:
        """Make ``input_ids`` and ``attention_mask`` of a text or a list of texts.

        ``max_length`` without padding cuts the ids, as in the reference, and ``truncation=True`` without it cuts them
        to the ``model_max_length`` of the file, if there is one. ``add_special_tokens`` has no effect: CTC has none to
        add. The other arguments are those of `Wav2Vec2FeatureExtractor`. Lists hold ints, and a single text gives a
        flat list.
        """
        if truncation and max_length is None and padding != "max_length":
            most = self.extra.get("model_max_length", math.inf)
            max_length, truncation = (int(most), True) if most < 1e20 else (None, False)
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple):
            raise ValueError(f"text is a {type(text).__name__}; expected a str, or a list of them.")
        truncation = padding is False and max_length is not None if truncation is None else truncation
        check_padding(padding, max_length, truncation, pad_to_multiple_of, return_tensors)
        ids: Any = [self.encode(one) for one in texts]
        if not texts:
            return BatchFeature(input_ids=[], attention_mask=[])
        lengths = (padding, max_length, truncation, pad_to_multiple_of, return_attention_mask, return_tensors)
        return self.pad({"input_ids": ids[0] if isinstance(text, str) else ids}, *lengths)

    encode_plus = batch_encode_plus = __call__

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Collate examples ``{"input_ids": ...}``; without ``return_tensors`` tensors stay tensors, arrays arrays."""
        check_padding(padding, max_length, truncation, pad_to_multiple_of, return_tensors)
        examples: Any = encoded_inputs
        given = examples.get("input_ids") if isinstance(examples, Mapping) else None
        single = given is not None and (not len(given) or np.ndim(given[0]) == 0)
        examples = {key: [value] for key, value in examples.items()} if single else examples
        columns = as_columns(examples, "input_ids")
        kinds = {Tensor: "pt", np.ndarray: "np"}
        return_tensors = return_tensors or kinds.get(type(columns["input_ids"][0]))
        limit = round_up(max_length, pad_to_multiple_of) if truncation else None
        for name in columns.keys() & self.model_input_names:
            columns[name] = [_ids(value, name)[:limit] for value in columns[name]]
        target = target_length(columns["input_ids"], padding, max_length, pad_to_multiple_of)
        columns = padded(columns, "input_ids", self.pad_token_id, target, return_attention_mask is not False)
        if return_tensors is not None:
            columns = {
                key: [np.asarray(value, np.int64) if key in self.model_input_names else value for value in column]
                for key, column in columns.items()
            }
            return as_batch(columns, return_tensors)
        lists = {key: [np.asarray(value).tolist() for value in column] for key, column in columns.items()}
        return BatchFeature({key: column[0] for key, column in lists.items()} if single else lists)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Id of a token, or ids of several; ``unk_token_id`` for a token that is not in the vocabulary."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self.unk_token_id)
        return [self._ids.get(token, self.unk_token_id) for token in tokens]

    # ids to text

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of an id, or tokens of several; ``unk_token`` for an id that is not in the vocabulary, such as -100."""
        if np.ndim(ids) == 0:
            return self._tokens.get(int(ids), self.unk_token)
        tokens = [self._tokens.get(index, self.unk_token) for index in _ids(ids, "ids").tolist()]
        return [token for token in tokens if not (skip_special_tokens and token in self._special)]

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        *,
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        frame_seconds: float | int | None = None,
    ) -> Any:
        """Turn the ids of one utterance, one for each frame, into text.

        Parameters
        ----------
        skip_special_tokens
            Leave out the tokens for beginning, end and unknown. They still separate equal letters, as blanks do.
        group_tokens
            Make one token of equal neighbours; False for labels, which have one id for each letter.
        spaces_between_special_tokens
            Put a space between all tokens.
        clean_up_tokenization_spaces
            Remove the space in front of punctuation; None takes the tokenizer's own setting.
        frame_seconds
            Seconds from one frame to the next (``config.inputs_to_logits_ratio / 16000``), for offsets in seconds.

        Returns
        -------
        str, or Wav2Vec2CTCTokenizerOutput if offsets are asked for
        """
        offsets = output_char_offsets or output_word_offsets
        if frame_seconds is not None and not (offsets and frame_seconds > 0):
            raise ValueError(
                f"frame_seconds={frame_seconds!r} with output_char_offsets={output_char_offsets} and "
                f"output_word_offsets={output_word_offsets}; expected a positive number and one of them True."
            )
        ids = token_ids if np.ndim(token_ids) else [int(token_ids)]
        dropped = self._special if skip_special_tokens else {self.pad_token}
        chars = self._chars(self.convert_ids_to_tokens(ids), group_tokens, dropped)
        text = (" " if spaces_between_special_tokens else "").join(str(entry["char"]) for entry in chars).strip()
        text = text.lower() if self.do_lower_case else text
        clean = clean_up_tokenization_spaces
        for spaced in CLEANED if (self.clean_up_tokenization_spaces if clean is None else clean) else ():
            text = text.replace(spaced, spaced.strip())
        if not offsets:
            return text
        return Wav2Vec2CTCTokenizerOutput(
            text=text,
            char_offsets=_timed(chars, frame_seconds) if output_char_offsets else None,
            word_offsets=_timed(self._words(chars), frame_seconds) if output_word_offsets else None,
        )

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **options: Any) -> Any:
        """Turn the ids of several utterances into a list of texts, or into one output whose fields are lists."""
        decoded = [self.decode(ids, skip_special_tokens, **options) for ids in sequences]
        chars, words = (options.get(f"output_{kind}_offsets", False) for kind in ("char", "word"))
        if not chars and not words:
            return decoded
        return Wav2Vec2CTCTokenizerOutput(
            text=[one.text for one in decoded],
            char_offsets=[one.char_offsets for one in decoded] if chars else None,
            word_offsets=[one.word_offsets for one in decoded] if words else None,
        )

    def _chars(self, tokens: list[str], group: bool, dropped: set[str]) -> Offsets:
        """Characters of the tokens that are not dropped, and their frames; ``group`` joins equal neighbours."""
        chars: Offsets = []
        end = 0
        for token, run in groupby(tokens) if group else ((token, (token,)) for token in tokens):
            start, end = end, end + sum(1 for _ in run)
            if token not in dropped:
                char = self.replace_word_delimiter_char if token == self.word_delimiter_token else token
                chars.append({"char": char, "start_offset": start, "end_offset": end})
        return chars

    def _words(self, chars: Offsets) -> Offsets:
        """Words between the spaces, and their frames."""
        words: Offsets = []
        for is_space, group in groupby(chars, lambda entry: entry["char"] == self.replace_word_delimiter_char):
            if not is_space:
                run = list(group)
                word = "".join(str(entry["char"]) for entry in run)
                span = {"start_offset": run[0]["start_offset"], "end_offset": run[-1]["end_offset"]}
                words.append({"word": word, **span})
        return words

    def _get_word_offsets(self, offsets: Offsets, word_delimiter_char: str = " ") -> Offsets:
        """The name under which pipelines of the reference ask for words."""
        return self._words(offsets)

    # reading and writing

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> Wav2Vec2CTCTokenizer:
        """Read ``vocab.json``, and the other files if there are any, from a local folder, with some keys changed."""
        warn_unknown(cls.__name__, changes, (*FIELDS, *KNOWN))
        vocab = read_json(folder, VOCAB_NAME)
        values = read_json(folder, TOKENIZER_NAME, needed=False)
        kind = values.get("tokenizer_class", cls.__name__)
        if kind not in CLASSES:
            raise ValueError(
                f"{TOKENIZER_NAME} says tokenizer_class={kind!r}; unisat reads {cls.__name__} only, whose tokens are "
                "characters, not phonemes or word pieces."
            )
        # older checkpoints list the added tokens in a file of their own, and their special tokens win
        if "added_tokens_decoder" not in values:
            values |= read_json(folder, SPECIAL_NAME, needed=False)
            added = read_json(folder, ADDED_NAME, needed=False)
            values["added_tokens_decoder"] = {index: {"content": token} for token, index in added.items()}
        if changes.get("target_lang", values.get("target_lang")) != values.get("target_lang"):
            # the added ids come behind those of the other language
            del values["added_tokens_decoder"]
        values |= changes
        check_right(values.get("padding_side", "right"))
        known = {name: _content(value) for name, value in values.items() if name in FIELDS}
        extra = {name: value for name, value in values.items() if name not in FIELDS}
        kept = {name: extra[name] for name in extra if name in KNOWN}
        made = cls(vocab, **known, **kept)
        made._source, made.extra = str(Path(folder) / VOCAB_NAME), extra
        return made

    def save_pretrained(self, folder: str | Path, *, processor_class: str | None = None) -> None:
        """Write the reference's files into a folder, which is made if it is missing."""
        specials = {name: getattr(self, name) for name in SPECIAL if getattr(self, name) is not None}
        listed = self.extra.get("additional_special_tokens")
        values = {"model_max_length": int(1e30), **self.extra, "tokenizer_class": type(self).__name__}
        values |= {name: getattr(self, name) for name in FIELDS if name != "added_tokens_decoder"}
        values["added_tokens_decoder"] = {
            self._ids[token]: {
                "content": token,
                "lstrip": token in self._longer,
                "normalized": False,
                "rstrip": token in self._longer,
                "single_word": False,
                "special": token in self._special and token not in self._longer,
            }
            for token in sorted(self._longer | set(self._added) | self._special, key=self._ids.__getitem__)
        }
        write_json(self.vocab, folder, VOCAB_NAME)
        write_json(values, folder, TOKENIZER_NAME, processor_class)
        write_json({**specials, **({"additional_special_tokens": listed} if listed else {})}, folder, SPECIAL_NAME)
        if self._added:
            write_json(self._added, folder, ADDED_NAME)

    def __repr__(self) -> str:
        first = " ".join(self._tokens[index] for index in range(min(len(self), 8)))
        language = f", target_lang={self.target_lang!r}" if self.target_lang else ""
        return f"{type(self).__name__}({len(self)} tokens: {first} ...{language})"


def _content(token: Any) -> Any:
    """Text of a special token, which some files describe with an object."""
    return token["content"] if isinstance(token, Mapping) and "content" in token else token


def _splitter(tokens: Iterable[str]) -> re.Pattern[str]:
    """Pattern whose ``split`` alternates between text and tokens; it prefers longer tokens."""
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def _ids(values: Any, name: str) -> np.ndarray:
    """Integers ``(length,)`` of a list, an array or a tensor."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be (length,), got shape {array.shape}; decode a batch with batch_decode, and logits after "
            "argmax(-1)."
        )
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} are {array.dtype}; expected whole numbers: take argmax(-1) of logits first.")
    return array.astype(np.int64)


def _timed(entries: Offsets, frame_seconds: float | int | None) -> Offsets:
    """Add start and end in seconds, if the seconds of a frame are given."""
    if frame_seconds is None:
        return entries
    ends = ("start", "end")
    return [{**e, **{f"{end}_seconds": float(e[f"{end}_offset"]) * frame_seconds for end in ends}} for e in entries]


def _of_language(vocab: dict[str, Any], target_lang: str | None, source: str) -> dict[str, Any]:
    """The vocabulary itself if it is flat, or that of one language if it is nested."""
    nested = [key for key, value in vocab.items() if isinstance(value, Mapping)]
    if nested and len(nested) < len(vocab):
        flat = next(key for key in vocab if key not in nested)
        raise ValueError(f"{source} mixes languages ({nested[0]!r}) and tokens ({flat!r}); expected one of the two.")
    if nested and target_lang not in nested:
        what = "is for several languages" if target_lang is None else f"lacks {target_lang!r}"
        close = nearest(str(target_lang), nested)
        raise ValueError(f"{source} {what}{close}; pass target_lang, one of {', '.join(nested[:20])}.")
    if not nested and target_lang is not None:
        raise ValueError(
            f"{source} is flat, {{token: id}}, but target_lang={target_lang!r} needs {{language: {{token: id}}}}; pass "
            "target_lang=None, or a nested vocabulary."
        )
    return dict(vocab[target_lang] if target_lang is not None else vocab)


def _check_ids(ids: Mapping[str, Any], source: str) -> None:
    """Refuse a vocabulary that does not give each of 0, 1, ... to exactly one token."""
    if not ids:
        raise ValueError(f"{source} is empty; expected {{token: id}}.")
    for token, index in ids.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0 or not token:
            raise ValueError(f"{source} has {json.dumps({token: index}, default=repr)}; expected a token and its id.")
    tokens: dict[int, str] = {}
    for token, index in ids.items():
        if index in tokens:
            raise ValueError(
                f"{source} gives the id {index} to {tokens[index]!r} and {token!r}; expected one token for each id: "
                "remove the token that the model was not trained with."
            )
        tokens[index] = token
    if missing := [index for index in range(len(ids)) if index not in tokens]:
        raise ValueError(
            f"{source} has {len(ids)} tokens with ids up to {max(tokens)}, but none for {missing[:10]}; expected 0 to "
            f"{len(ids) - 1} without holes: check that it was written whole."
        )
