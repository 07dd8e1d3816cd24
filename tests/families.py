"""Tiny configurations of the families of transformers: those that every test tries, and those of the sweep."""

from transformers import AutoConfig, PretrainedConfig

# What every test of the model room and of acting tries.
SIZES = {"vocab_size": 16, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
FAMILIES: dict[str, dict[str, object]] = {
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 16},
    "llama": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1},
    "qwen3": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16},
    "gpt_neox": {**SIZES, "intermediate_size": 64},
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "mistral": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "sliding_window": 8},
    "gemma3_text": {
        **SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8,
    },
    "phi": {**SIZES, "intermediate_size": 64},
    "bloom": {"n_layer": 2, "hidden_size": 32, "n_head": 2, "vocab_size": 16},
    "mixtral": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "num_local_experts": 4},
}  # fmt: skip

# What a size is called, in any family: of these names, a configuration takes those that it knows.
TINY: dict[str, object] = {
    "vocab_size": 16, "vocab_size_per_layer_input": 16, "hidden_size": 32, "d_model": 32, "n_embd": 32,
    "embedding_size": 32, "word_embed_proj_dim": 32, "lru_width": 32, "input_embedding_size": 32,
    "intermediate_size": 64, "ffn_dim": 64, "dff": 64, "n_inner": 64, "ffn_hidden_size": 64, "dim_ff": 64,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_blocks": 2, "decoder_layers": 2,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "decoder_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16, "rotary_dim": 8, "hidden_size_per_layer_input": 8,
    "max_position_embeddings": 512, "n_positions": 512, "sliding_window": 8, "chunk_size": 8, "attention_chunk_size": 8,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 16, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64,
    "state_size": 4, "mamba_d_state": 4, "ssm_state_size": 4, "mamba_n_heads": 4, "mamba_d_head": 16,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_n_groups": 1, "n_groups": 1, "mamba_d_ssm": 64,
    "time_step_rank": 4, "mamba_dt_rank": 4, "conv_kernel": 2, "mamba_chunk_size": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "image_size": 28, "patch_size": 14, "depth": 1, "embed_dim": 32, "out_hidden_size": 32,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


# What differs where a family has no model of those sizes, or would be none of its own kind.
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
OWN: dict[str, dict[str, object]] = {
    **dict.fromkeys(("glm4v_text", "paddleocr_vl_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"), _MROPE),
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"n_head": 4},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 1, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "diffllama": {"num_key_value_heads": 2},
    "ernie4_5_moe": {"moe_k": 2},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_expand": 2},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "moshi": {"sliding_window": 512},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"]},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_vl_moe_text": {**_MROPE, "sliding_window": None},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 8},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def tiny_config(family: str) -> PretrainedConfig:
    """Return a small configuration of a family, and of the parts of a composite one."""
    plain = AutoConfig.for_model(family)
    return AutoConfig.for_model(family, **{**_sizes(plain), **OWN.get(family, {})})


def _sizes(config: PretrainedConfig) -> dict[str, object]:
    known = config.to_dict()
    sizes = {key: value for key, value in TINY.items() if key in known}
    if "kv_lora_rank" in known:  # all heads have keys of their own, and head_dim is what is rotated
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    for part in config.sub_configs:
        inner = getattr(config, part, None)
        if isinstance(inner, PretrainedConfig):
            sizes[part] = {"model_type": inner.model_type, **_sizes(inner), **OWN.get(inner.model_type, {})}
    return sizes


# with eyes or ears beside the language model
_SEEING = """
    aria aya_vision blip-2 deepseek_vl exaone4_5 fuyu gemma3 gemma4 glm4v hunyuan_vl idefics2 idefics3
    internvl lfm2_vl lighton_ocr llava llava_onevision mistral3 mllama paddleocr_vl paligemma
    qwen2_5_vl qwen2_vl qwen3_5 qwen3_vl qwen3_vl_moe smolvlm
    """
_PLAIN = """
    afmoe apertus arcee aria_text biogpt bitnet bloom codegen cohere cohere2 cwm dbrx
    deepseek_v2 deepseek_v3 deepseek_v32 diffllama dots1 ernie4_5 ernie4_5_moe exaone4 falcon
    gemma gemma2 gemma3_text gemma4_text glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox
    gpt_oss gptj granite granitemoe helium hunyuan_v1_dense jetmoe llama llama4_text minicpm3
    minimax_m2 ministral ministral3 mistral mixtral modernbert-decoder moshi mpt nanochat nemotron olmo olmo2 olmo3
    olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm starcoder2 vaultgemma
    xglm youtu
    bamba falcon_h1 falcon_mamba granitemoehybrid jamba lfm2 lfm2_moe mamba mamba2 minimax nemotron_h olmo_hybrid
    qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zaya
    bert ctrl deepseek_v4 electra openai-gpt xlnet
    """
COMPOSITES = tuple(_SEEING.split())
SWEEP = COMPOSITES + tuple(_PLAIN.split())
