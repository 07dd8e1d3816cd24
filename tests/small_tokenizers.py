"""Small tokenizers of the families that backbones have, trained offline on a few sentences."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

TEXTS = [
    "take lamp", "take clé", "put the brown shirt in the wardrobe", "wait", "open the red door\nand go\n\nnorth",
    "100 >",
    "Your task is to pick up objects", "a room: lamp, hat (dirty)", "\n", "\n\n", " take", "reward 12.5",
] * 4  # fmt: skip
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _byte_level(add_prefix_space: bool) -> PreTrainedTokenizerBase:
    """As GPT-2's and SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)  # pyright: ignore
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _fast(tokenizer)


def _sentence_piece(model: str) -> PreTrainedTokenizerBase:
    """As Llama-2's (BPE, what it does not know as bytes) and T5's (Unigram): a space stands before each piece."""
    if model == "bpe":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<unk>", *MARKS, *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.train_from_iterator([text.replace("\n", " ") for text in TEXTS], trainer)
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        return _fast(tokenizer, unk_token="<unk>")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", *MARKS], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _fast(tokenizer, unk_token="<unk>")


def _word_piece() -> PreTrainedTokenizerBase:
    """As BERT's: in lower case, so that a text does not come back as it was."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", *MARKS], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _fast(tokenizer, unk_token="[UNK]")


def _fast(tokenizer: Tokenizer, **marks: str) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=MARKS[0], eos_token=MARKS[0], additional_special_tokens=MARKS[1:], **marks
    )


# that give every text back
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte level": lambda: _byte_level(False),
    "byte level, space in front": lambda: _byte_level(True),
    "sentence piece": lambda: _sentence_piece("bpe"),
    "bytes": lambda: ByT5Tokenizer(extra_ids=0),
}
LOSSY: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "unigram": lambda: _sentence_piece("unigram"),
    "word piece": _word_piece,
}
