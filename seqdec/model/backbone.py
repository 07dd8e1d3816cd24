"""Any Hugging Face decoder, by name, folder or Hub id: pretrained or its random twin, whole or its first layers.

A backbone reads embeddings and gives hidden states; it has a vocabulary only where words are to be read, and output
embeddings only where they are to be predicted. What it must
be able to do (read `inputs_embeds`, look only backwards, continue from its cache) is tried out when it is loaded, not
looked up.
"""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import (
    ByT5Tokenizer,
    Cache,
    GPT2Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.hub import quietly
from seqdec.model.adapters import add_adapters, base_fingerprint, merged, read_adapters
from seqdec.model.composite import language_config, random_model
from seqdec.model.lower import LowerLayers
from seqdec.model.pretrained import first_token, load_weights, locate, one_sentence, read_config, read_tokenizer
from seqdec.model.probes import decoder_of, layers_of, logits_of, scale_of, table_of, takes_positions_of, try_out
from seqdec.model.shortcuts import last_mlp, only_at, use_shortcuts
from seqdec.model.words import Vocabulary

if TYPE_CHECKING:
    from peft import PeftModel

Init = Literal["pretrained", "random"]
Finetune = Literal["full", "lora", "frozen"]
DROPOUT_KEYS = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "dropout", "activation_dropout",
)  # fmt: skip
WORTH_SKIPPING = 64  # tokens; the MLP of fewer takes less time than leaving them out


@dataclass(frozen=True)
class BackboneSource:
    """How a backbone was made, so that it can be made again under an adapter."""

    name: str
    init: Init = "pretrained"
    num_layers: int | None = None
    finetune: Finetune = "full"
    seed: int = 0
    lora_rank: int = 16
    vocabulary: bool = False
    predicts_words: bool = False
    freeze_layers: int = 0


@dataclass(frozen=True, eq=False)
class Backbone:
    """A decoder ready to be finetuned, and what its surroundings must know of it.

    `embedding_scale` is the standard deviation of its token embeddings, which new embeddings should start with;
    `takes_positions` says whether it must be told the place of each token where there is padding between them,
    `last_mlp` may be computed only at the tokens whose states are read (see `shortcuts`), and `lower` only once for
    the same words (see `lower`).
    """

    model: "PreTrainedModel | PeftModel"
    source: BackboneSource
    width: int
    embedding_scale: float
    takes_positions: bool = False
    tokenizer: PreTrainedTokenizerBase | None = None
    last_mlp: nn.Module | None = None
    lower: LowerLayers | None = None

    @property
    def decoder(self) -> PreTrainedModel:
        """What gives hidden states: the model without its head."""
        return decoder_of(self.model)

    def vocabulary(self) -> Vocabulary:
        """Return how words are read and written, without tokens that mark their beginning or end.

        Raises:
            UsageError: the backbone was loaded without its vocabulary.
        """
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise UsageError("this backbone has no vocabulary: load it with load_backbone(..., vocabulary=True)")
        table = table_of(self.model)

        def tokens_of(text: str, **options: bool) -> list[int]:
            tokens = tokenizer(text, add_special_tokens=False, **options)["input_ids"]  # pyright: ignore
            last = max(tokens, default=0)
            if last >= table.num_embeddings:
                raise DataError(
                    f"the text {text[:60]!r} has the token {tokenizer.convert_ids_to_tokens(last)!r}, which "
                    f"{self.source.name!r} has no embedding of: write it otherwise, or use another backbone"
                )
            return tokens

        return Vocabulary(
            tokens_of,
            lambda text: tokens_of(text, split_special_tokens=True),
            lambda tokens: tokenizer.decode(tokens, clean_up_tokenization_spaces=False),  # pyright: ignore
            first_token(tokenizer),
            dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)),
            table,
            (lambda hidden: logits_of(self.model, hidden)) if self.source.predicts_words else None,
        )

    def read(
        self, tokens: Tensor, is_token: Tensor | None = None, cache: Cache | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Read tokens [B, L, D]; return their hidden states [B, L, D].

        Args:
            tokens: new ones; padding at their end needs no mask.
            is_token: False on padding between tokens, [B, all tokens read so far and new]; None where there is none.
            cache: of the tokens read before; it takes up the new ones.
            places: the tokens whose states are needed, int64 [n]; the others' may be anything.
        """
        mask, positions = None, {}
        if is_token is not None:
            mask = is_token.long()
            if self.takes_positions:
                positions["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        skipping = nullcontext()
        num_skipped = 0 if places is None else len(tokens) * (tokens.shape[1] - len(places))
        if self.last_mlp is not None and places is not None and num_skipped >= WORTH_SKIPPING:
            skipping = only_at(self.last_mlp, places)
        with skipping:
            output = self.decoder(
                inputs_embeds=tokens, attention_mask=mask, past_key_values=cache, use_cache=cache is not None,
                **positions,
            )  # fmt: skip
        return output.last_hidden_state

    @property
    def config(self) -> PretrainedConfig:
        """The Hugging Face configuration."""
        return self.model.config  # pyright: ignore[reportReturnType]


def load_backbone(
    name: str,
    *,
    init: Init = "pretrained",
    num_layers: int | None = None,
    finetune: Finetune = "full",
    dropout: float | None = None,
    seed: int = 0,
    num_tokens: int | None = None,
    lora_rank: int = 16,
    vocabulary: bool = False,
    predicts_words: bool = False,
    freeze_layers: int = 0,
) -> Backbone:
    """Return a decoder in float32, its trainable parameters chosen.

    Args:
        name: `smollm2` (the packaged weights, or the Hub's), `small` (the network of Chen et al. 2021: 3 layers,
            width 128, 1 head, always random), a Hub id, or a folder in Hugging Face format.
        init: `random` draws the same architecture's weights anew.
        num_layers: keep the first layers only.
        finetune: `full`, `lora` (adapters on every linear layer), or `frozen` (norms only).
        dropout: sets every dropout probability that the architecture has; None leaves its own.
        seed: of random weights and adapters.
        num_tokens: positions that will be used, checked against what the backbone has.
        lora_rank: rank of the adapters.
        vocabulary: keep the tokenizer and its embeddings, to read words with. `small` has one token a byte.
        predicts_words: keep the output embeddings, too.
        freeze_layers: how many of the lower layers are not trained. Where all is words, what they give is kept.

    Raises:
        UsageError: for an unknown name, a model that cannot do what is needed (see `probes`), or too few positions.
        DataError: for weights that are damaged, incomplete or not finite.
    """
    for value, kind in ((init, Init), (finetune, Finetune)):
        if value not in get_args(kind):
            raise UsageError(f"{value!r} is not one of {', '.join(get_args(kind))}")
    init = "random" if name == "small" else init
    vocabulary = vocabulary or predicts_words
    chosen = {"lora_rank": lora_rank, "predicts_words": predicts_words, "freeze_layers": freeze_layers}
    source = BackboneSource(name, init, num_layers, finetune, seed, vocabulary=vocabulary, **chosen)
    folder = "" if name == "small" else locate(name)
    with one_sentence(f"backbone {name!r} cannot be used", UsageError):
        if name == "small":
            tokenizer = ByT5Tokenizer(extra_ids=0) if vocabulary else None
            config = _small_config(num_tokens or 0, len(tokenizer) if tokenizer else 1)
        else:
            config = read_config(folder, name)
            tokenizer = read_tokenizer(folder, name) if vocabulary else None
        _adjust(language_config(config), name, num_tokens, num_layers, dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if init == "random":
                model = random_model(config, predicts_words=predicts_words)
            else:
                model = load_weights(folder, config, name, predicts_words=predicts_words)
            scale = scale_of(model)
            _fit_vocabulary(model, tokenizer, name)
            try_out(model, name, predicts_words=predicts_words)
            return _make_trainable(model, source, scale, tokenizer)


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write the backbone in Hugging Face format, or its adapter and how to make the rest, into an open folder."""
    with quietly():
        if isinstance(backbone.model, PreTrainedModel):
            backbone.model.save_pretrained(folder)
        else:
            backbone.model.save_pretrained(str(folder), save_embedding_layers=False)
        if backbone.tokenizer is not None:
            backbone.tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template; the policy folder has a card of its own
    description: dict[str, object] = {**asdict(backbone.source), "embedding_scale": backbone.embedding_scale}
    if backbone.source.finetune == "lora":
        description["base_sha256"] = base_fingerprint(backbone.model)
    storage.write_json(folder / "source.json", description)


def reload_backbone(folder: Path, *, merge_adapters: bool = False, dropout: float | None = None) -> Backbone:
    """Read what `save_backbone` wrote; `merge_adapters` adds LoRA's matrices to the weights, for speed.

    `dropout` is that of further training, as `load_backbone` has it.

    Raises:
        DataError: if a file is missing or damaged, or the base weights are not those that the adapter was made for.
    """
    description = storage.read_json(folder / "source.json")
    base_sha256 = description.pop("base_sha256", None)
    scale = float(description.pop("embedding_scale"))
    try:
        source = BackboneSource(**description)
    except TypeError as error:
        raise DataError(f"{folder / 'source.json'} does not describe a backbone: {error}") from error
    tokenizer = read_tokenizer(str(folder), str(folder)) if source.vocabulary else None
    if source.finetune != "lora":
        with one_sentence(f"{folder} holds no backbone that can be used", DataError):
            config = read_config(str(folder), str(folder))
            _adjust(language_config(config), source.name, None, None, dropout)
            model = load_weights(str(folder), config, str(folder), predicts_words=source.predicts_words)
            return _make_trainable(model, source, scale, tokenizer)
    base = load_backbone(**asdict(replace(source, finetune="full")), dropout=0.0)
    if base_fingerprint(base.model) != base_sha256:
        raise DataError(f"the weights of {source.name!r} here are not those that {folder} is an adapter for")
    model = read_adapters(folder, base.model, merge=merge_adapters)  # pyright: ignore[reportArgumentType]
    backbone = replace(base, model=model, source=source, embedding_scale=scale, tokenizer=tokenizer)
    return whole(backbone) if merge_adapters else backbone


def whole(backbone: Backbone) -> Backbone:
    """Return a backbone that needs no other one under it: its adapters, if any, are added to its weights."""
    return replace(backbone, model=merged(backbone.model), source=replace(backbone.source, finetune="full"))


def _small_config(num_tokens: int, vocab_size: int) -> PretrainedConfig:
    return GPT2Config(
        vocab_size=vocab_size, n_positions=max(1024, num_tokens), n_embd=128, n_layer=3, n_head=1,
        activation_function="relu", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _adjust(
    config: PretrainedConfig, name: str, num_tokens: int | None, num_layers: int | None, dropout: float | None
) -> None:
    """Check that there are enough positions; keep the first layers, and set dropout, where that is asked for."""
    options = config.to_dict()
    num_positions = options.get("max_position_embeddings", options.get("n_positions"))
    if num_tokens is not None and num_positions is not None and num_tokens > num_positions:
        raise UsageError(
            f"the context needs {num_tokens} positions, {name} has {num_positions}: use a shorter context",
            option="context_length",
        )
    if num_layers is not None:
        if not 1 <= num_layers <= config.num_hidden_layers:
            raise UsageError(f"{name} has {config.num_hidden_layers} layers: num_layers cannot be {num_layers}")
        if options.get("layer_types"):
            config.layer_types = options["layer_types"][:num_layers]
        config.num_hidden_layers = num_layers
    if dropout is not None:
        for key in (key for key in DROPOUT_KEYS if key in options):
            setattr(config, key, dropout)


def _fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, name: str) -> None:
    """Check that a tokenizer and a table of embeddings belong together; without one, cut the table down to a token."""
    table, config = table_of(model), model.config
    if tokenizer is not None:
        if tokenizer.vocab_size > table.num_embeddings:  # tokens that were only added may never be written
            raise UsageError(
                f"the tokenizer of {name!r} has {tokenizer.vocab_size} words, its table of embeddings has "
                f"{table.num_embeddings} rows: they do not belong together"
            )
        return
    num_rows = 1 + table.num_embeddings - config.vocab_size  # some architectures add rows by themselves
    table.weight = nn.Parameter(torch.zeros(num_rows, table.embedding_dim), requires_grad=False)
    table.num_embeddings, table.padding_idx = num_rows, None
    config.vocab_size, config.pad_token_id = 1, 0


def _make_trainable(
    model: PreTrainedModel, source: BackboneSource, scale: float, tokenizer: PreTrainedTokenizerBase | None
) -> Backbone:
    """Choose the parameters that are trained, and take the shortcuts that this decoder allows."""
    use_shortcuts(model)
    table, decoder, trained = table_of(model), decoder_of(model), model
    num_layers, num_frozen = model.config.num_hidden_layers, source.freeze_layers
    layers = layers_of(decoder, num_layers)
    if num_frozen and (layers is None or not 0 < num_frozen < num_layers):
        raise UsageError(f"{source.name} has {num_layers} layers: freeze_layers cannot be {num_frozen}")
    if source.finetune == "lora":
        trained = add_adapters(model, source.lora_rank)
    else:
        for name, module in model.named_modules():
            is_norm = "norm" in type(module).__name__.lower() or name.rsplit(".", 1)[-1].startswith("ln_")
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(is_norm or source.finetune == "full")
        is_new = source.vocabulary and source.init == "random" and source.finetune == "full"
        for embeddings in (table, model.get_output_embeddings()):
            if embeddings is not None:
                embeddings.weight.requires_grad_(is_new)  # pretrained embeddings stay as they are
    lower = None
    if layers is not None and num_frozen:
        below = [module for module in decoder.modules() if isinstance(module, nn.Embedding)]  # positions, for one
        for module in (*below, *layers[:num_frozen]):
            module.requires_grad_(False)
        lower = LowerLayers(decoder, layers, num_frozen)
        lower = lower if not table.weight.requires_grad and lower.works(table.embedding_dim) else None
    mlp = last_mlp(decoder, num_layers, table.embedding_dim)
    return Backbone(trained, source, table.embedding_dim, scale, takes_positions_of(decoder), tokenizer, mlp, lower)
