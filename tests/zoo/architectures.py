"""Every architecture that TransformerLens boots: a tiny configuration of it, or why none is built here.

The list is TransformerLens's registry; one that is in neither table makes the zoo's test fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

N_LAYERS = 4

_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32}
_MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_GATED_DELTA = {
    "head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_WINDOWS = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"] * 2}
_NO_GQA = {"num_key_value_heads": None}


@dataclass(frozen=True)
class Tiny:
    """Model type of the configuration (of the text part, where there are others), and what differs from the common."""

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None
    """Settings of the vision part of a multimodal model."""
    whole: dict[str, Any] = field(default_factory=dict)
    """Settings of a multimodal model beside its parts."""
    class_name: str | None = None
    """The class of transformers, where it is spelled in another way than in checkpoints."""
    unsaved: tuple[str, ...] = ()
    """Keys of the configuration that transformers writes and does not read again."""


_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TINY: dict[str, Tiny] = {
    "AfmoeForCausalLM": Tiny("afmoe", {**_MOE, **_WINDOWS, "head_dim": 8, "num_shared_experts": 1}),
    "ApertusForCausalLM": Tiny("apertus"),
    "ArceeForCausalLM": Tiny("arcee"),
    "BambaForCausalLM": Tiny("bamba", {**_MAMBA2, "attn_layer_indices": [1, 3]}),
    "BitNetForCausalLM": Tiny("bitnet"),
    "BloomForCausalLM": Tiny("bloom"),
    "CodeGenForCausalLM": Tiny("codegen", {**_NO_GQA, "rotary_dim": 4}),
    "Cohere2ForCausalLM": Tiny("cohere2", _WINDOWS),
    "CohereForCausalLM": Tiny("cohere"),
    "DeepseekV2ForCausalLM": Tiny(
        "deepseek_v2", {**_ROUTED, **_MLA, "first_k_dense_replace": 1, "n_shared_experts": 1}
    ),
    "DeepseekV3ForCausalLM": Tiny(
        "deepseek_v3", {**_ROUTED, **_MLA, "first_k_dense_replace": 1, "n_shared_experts": 1}
    ),
    "DeepseekV4ForCausalLM": Tiny(
        "deepseek_v4",
        {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "head_dim": 16,
            "num_key_value_heads": 1,
            "q_lora_rank": 16,
            "o_lora_rank": 8,
            "o_groups": 2,
            "qk_rope_head_dim": 8,
            "index_n_heads": 2,
            "index_head_dim": 16,
            "sliding_window": 12,
        },
        unsaved=("mlp_layer_types",),
    ),
    "Ernie4_5ForCausalLM": Tiny("ernie4_5", {"head_dim": 8}),
    "Ernie4_5_MoeForCausalLM": Tiny("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32}),
    "Exaone4ForCausalLM": Tiny("exaone4", _WINDOWS),
    "FalconForCausalLM": Tiny("falcon", _NO_GQA),
    "FalconH1ForCausalLM": Tiny("falcon_h1", {**_MAMBA2, "mamba_d_ssm": 64}),
    "FalconMambaForCausalLM": Tiny("falcon_mamba", {"state_size": 8}),
    "FlexOlmoForCausalLM": Tiny("flex_olmo", _MOE),
    "GPT2LMHeadModel": Tiny("gpt2", _NO_GQA),
    "GPTBigCodeForCausalLM": Tiny("gpt_bigcode", _NO_GQA),
    "GPTJForCausalLM": Tiny("gptj", {**_NO_GQA, "rotary_dim": 4}),
    "GPTNeoForCausalLM": Tiny("gpt_neo", {**_NO_GQA, "attention_types": [[["global", "local"], 2]], "window_size": 12}),
    "GPTNeoXForCausalLM": Tiny("gpt_neox", _NO_GQA),
    "Gemma2ForCausalLM": Tiny("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12}),
    "Gemma3ForCausalLM": Tiny("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOWS}),
    "Gemma3ForConditionalGeneration": Tiny(
        "gemma3",
        {"model_type": "gemma3_text", "head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOWS},
        _VISION,
        {"mm_tokens_per_image": 4},
    ),
    "Gemma4ForCausalLM": Tiny(
        "gemma4_text",
        {
            **_WINDOWS,
            "head_dim": 8,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 400,
            "num_kv_shared_layers": 2,
        },
    ),
    "Gemma4ForConditionalGeneration": Tiny(
        "gemma4",
        {
            "model_type": "gemma4_text",
            **_WINDOWS,
            "head_dim": 8,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 400,
            "num_kv_shared_layers": 0,
        },
        {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8},
        {"audio_config": None},
    ),
    "GemmaForCausalLM": Tiny("gemma", {"head_dim": 8}),
    "Glm4ForCausalLM": Tiny("glm4", {"head_dim": 8}),
    "Glm4MoeForCausalLM": Tiny("glm4_moe", {**_ROUTED, "head_dim": 8, "first_k_dense_replace": 1}),
    "Glm4MoeLiteForCausalLM": Tiny("glm4_moe_lite", {**_ROUTED, **_MLA, "n_shared_experts": 1}),
    "GlmForCausalLM": Tiny("glm", {"head_dim": 8}),
    "GlmMoeDsaForCausalLM": Tiny(
        "glm_moe_dsa", {**_ROUTED, **_MLA, "n_shared_experts": 1, "index_n_heads": 2, "index_head_dim": 16}
    ),
    "GptOssForCausalLM": Tiny("gpt_oss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **_WINDOWS}),
    "GraniteForCausalLM": Tiny("granite", {"residual_multiplier": 0.5}),
    "GraniteMoeForCausalLM": Tiny("granitemoe", {"num_local_experts": 4, "residual_multiplier": 0.5}),
    "GraniteMoeHybridForCausalLM": Tiny(
        "granitemoehybrid",
        {
            **_MAMBA2,
            "num_local_experts": 4,
            "shared_intermediate_size": 32,
            "layer_types": ["mamba", "attention"] * 2,
            "position_embedding_type": "rope",
        },
    ),
    "HrmTextForCausalLM": Tiny("hrm_text", {"head_dim": 8, "num_layers_per_stack": 2}),
    "HunYuanDenseV1ForCausalLM": Tiny("hunyuan_v1_dense", {"head_dim": 8}),
    "Jais2ForCausalLM": Tiny("jais2"),
    "JambaForCausalLM": Tiny(
        "jamba",
        {
            **_MOE,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "JetMoeForCausalLM": Tiny("jetmoe", {"num_local_experts": 4, "kv_channels": 8, "num_attention_heads": None}),
    "LagunaForCausalLM": Tiny("laguna", {**_MOE, **_WINDOWS, "head_dim": 8, "shared_expert_intermediate_size": 32}),
    "Lfm2ForCausalLM": Tiny("lfm2", {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"] * 2}),
    "Lfm2MoeForCausalLM": Tiny(
        "lfm2_moe", {**_MOE, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"] * 2}
    ),
    "Llama4ForCausalLM": Tiny(
        "llama4_text",
        {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 64, "attention_chunk_size": 16},
    ),
    "LlamaForCausalLM": Tiny("llama"),
    "LlavaForConditionalGeneration": Tiny(
        "llava", {"model_type": "llama"}, {"model_type": "clip_vision_model", **_VISION}
    ),
    "LlavaNextForConditionalGeneration": Tiny(
        "llava_next", {"model_type": "llama"}, {"model_type": "clip_vision_model", **_VISION}
    ),
    "LlavaOnevisionForConditionalGeneration": Tiny(
        "llava_onevision", {"model_type": "qwen2"}, {"model_type": "siglip_vision_model", **_VISION}
    ),
    "Mamba2ForCausalLM": Tiny(
        "mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8}
    ),
    "MambaForCausalLM": Tiny("mamba", {"state_size": 8}),
    "MiniMaxM2ForCausalLM": Tiny("minimax_m2", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Ministral3ForCausalLM": Tiny("ministral3", {"head_dim": 8}),
    "Mistral3ForConditionalGeneration": Tiny(
        "mistral3",
        {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        {"model_type": "pixtral", **_VISION},
    ),
    "MistralForCausalLM": Tiny("mistral", {"sliding_window": 12}),
    "MixtralForCausalLM": Tiny("mixtral", {"num_local_experts": 4}),
    "ModernBertDecoderForCausalLM": Tiny("modernbert-decoder", {"sliding_window": 12, "local_attention": 12}),
    "MptForCausalLM": Tiny("mpt", {"max_seq_len": 512, "expansion_ratio": 2}),
    "NanoChatForCausalLM": Tiny("nanochat"),
    "NemotronForCausalLM": Tiny("nemotron", {"head_dim": 8}),
    "NemotronHForCausalLM": Tiny(
        "nemotron_h",
        {
            "head_dim": 8,
            "ssm_state_size": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "hybrid_override_pattern": "M-*-",
            "layers_block_type": ["mamba", "mlp", "attention", "mlp"],
            "num_hidden_layers": None,
        },
    ),
    "OPTForCausalLM": Tiny("opt", {"word_embed_proj_dim": 32, "ffn_dim": 64}),
    "Olmo2ForCausalLM": Tiny("olmo2"),
    "Olmo3ForCausalLM": Tiny("olmo3", _WINDOWS),
    "OlmoForCausalLM": Tiny("olmo"),
    "OlmoHybridForCausalLM": Tiny(
        "olmo_hybrid",
        {
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "OlmoeForCausalLM": Tiny("olmoe", _MOE),
    "OpenAIGPTLMHeadModel": Tiny("openai-gpt", _NO_GQA),
    "Phi3ForCausalLM": Tiny("phi3"),
    "PhiForCausalLM": Tiny("phi"),
    "PhiMoEForCausalLM": Tiny("phimoe", {"num_local_experts": 4}, class_name="PhimoeForCausalLM"),
    "Qwen2ForCausalLM": Tiny("qwen2"),
    "Qwen2MoeForCausalLM": Tiny("qwen2_moe", {**_MOE, "shared_expert_intermediate_size": 32}),
    "Qwen3ForCausalLM": Tiny("qwen3", {"head_dim": 8}),
    "Qwen3MoeForCausalLM": Tiny("qwen3_moe", {**_MOE, "head_dim": 8}),
    "Qwen3NextForCausalLM": Tiny("qwen3_next", {**_MOE, **_GATED_DELTA, "shared_expert_intermediate_size": 32}),
    "Qwen3_5ForCausalLM": Tiny("qwen3_5_text", {**_GATED_DELTA, "intermediate_size": 64}),
    "Qwen3_5MoeForCausalLM": Tiny("qwen3_5_moe_text", {**_MOE, **_GATED_DELTA, "shared_expert_intermediate_size": 32}),
    "RecurrentGemmaForCausalLM": Tiny(
        "recurrent_gemma",
        {"attention_window_size": 12, "block_types": ["recurrent", "attention"], "lru_width": 32, "head_dim": 8},
    ),
    "RwkvForCausalLM": Tiny("rwkv"),
    "SeedOssForCausalLM": Tiny("seed_oss", {"head_dim": 8}),
    "SmolLM3ForCausalLM": Tiny("smollm3"),
    "StableLmForCausalLM": Tiny("stablelm"),
    "Starcoder2ForCausalLM": Tiny("starcoder2", {"sliding_window": 12}),
    "VaultGemmaForCausalLM": Tiny("vaultgemma", {"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOWS}),
    "XGLMForCausalLM": Tiny("xglm", {"ffn_dim": 64}),
    "YoutuForCausalLM": Tiny("youtu", _MLA),
    "Zamba2ForCausalLM": Tiny(
        "zamba2",
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "chunk_size": 8,
            "num_key_value_heads": 4,
        },
    ),
}

_ENCODER_DECODER = "an encoder-decoder"
_ENCODER = "an encoder, which continues no text"
_NO_TEXT = "reads images or sound, not text"
_SOUND = "a speech model"
_REMOTE = "the code is in the model's repository, and no class of transformers"
_DIFFUSION = "a diffusion model, which does not answer token by token"
_ALIAS = "another name for {}"
_OWN = "a format of TransformerLens's own"

NOT_BUILT: dict[str, str] = {
    **dict.fromkeys(
        [
            "BartForConditionalGeneration",
            "BlenderbotForConditionalGeneration",
            "Florence2ForConditionalGeneration",
            "LEDForConditionalGeneration",
            "LongT5ForConditionalGeneration",
            "M2M100ForConditionalGeneration",
            "MBartForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "MarianMTModel",
            "PegasusForConditionalGeneration",
            "SwitchTransformersForConditionalGeneration",
            "T5ForConditionalGeneration",
            "T5Gemma2ForConditionalGeneration",
            "T5GemmaForConditionalGeneration",
            "T5WithLMHeadModel",
        ],
        _ENCODER_DECODER,
    ),
    **dict.fromkeys(["BertForMaskedLM", "BertLMHeadModel", "RobertaForMaskedLM"], _ENCODER),
    **dict.fromkeys(
        [
            "ASTForAudioClassification",
            "DeiTForImageClassification",
            "DeiTModel",
            "HubertForCTC",
            "HubertModel",
            "ViTForImageClassification",
            "ViTModel",
            "Wav2Vec2ForCTC",
            "Wav2Vec2ForPreTraining",
            "Wav2Vec2Model",
        ],
        _NO_TEXT,
    ),
    **dict.fromkeys(
        [
            "AudioFlamingo3ForConditionalGeneration",
            "GlmAsrForConditionalGeneration",
            "MusicFlamingoForConditionalGeneration",
            "Qwen2AudioForConditionalGeneration",
        ],
        _SOUND,
    ),
    **dict.fromkeys(
        [
            "BaiChuanForCausalLM",
            "BaichuanForCausalLM",
            "ExaoneForCausalLM",
            "HyenaDNAForCausalLM",
            "InternLM2ForCausalLM",
            "OpenELMForCausalLM",
            "OuroForCausalLM",
            "QwenForCausalLM",
            "RWKV7ForCausalLM",
            "RavenForCausalLM",
            "MPTForCausalLM",
        ],
        _REMOTE,
    ),
    **dict.fromkeys(
        ["BD3LM", "DreamModel", "GiddForDiffusionLM", "LLaDA2MoeModelLM", "LLaDAModelLM"],
        _DIFFUSION,
    ),
    **dict.fromkeys(
        [
            "Glm4vForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
            "Qwen3_5ForConditionalGeneration",
            "Qwen3_5MoeForConditionalGeneration",
        ],
        "its vision part needs the package torchvision",
    ),
    "BloomModel": _ALIAS.format("BloomForCausalLM, without its head"),
    "Gemma1ForCausalLM": _ALIAS.format("GemmaForCausalLM"),
    "JetMoEForCausalLM": _ALIAS.format("JetMoeForCausalLM"),
    "NeoForCausalLM": _ALIAS.format("GPTNeoForCausalLM"),
    "NeoXForCausalLM": _ALIAS.format("GPTNeoXForCausalLM"),
    **dict.fromkeys(
        [
            "GPT2LMHeadCustomModel",
            "MinGPTForCausalLM",
            "NanoGPTForCausalLM",
            "NeelSoluOldForCausalLM",
            "TransformerLensNative",
            "TransformerLensPretrain",
        ],
        _OWN,
    ),
    "Emu3ForConditionalGeneration": "makes images as well as text",
    "Gemma4UnifiedForConditionalGeneration": "the text part is that of Gemma4ForConditionalGeneration",
    "Gemma3nForConditionalGeneration": "its vision part needs the package timm",
    "Idefics3ForConditionalGeneration": "the text part is a Llama",
    "Llama4ForConditionalGeneration": "the text part is that of Llama4ForCausalLM",
    "MuseGlimmerForConditionalGeneration": "reads images; no tiny configuration of it was made",
}
