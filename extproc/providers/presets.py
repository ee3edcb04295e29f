"""Known providers: where they are, how they want their key, and what they do differently.

Facts only, each from the page in `docs`; docs/providers.md says which of them could not be confirmed. A provider
that is missing here works by its base URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from extproc.providers.quirks import ALL_OPERATIONS, Quirks

_CHAT = frozenset({"chat.completions"})
_TEXT = _CHAT | {"completions"}
_SPEECH = frozenset({"audio.speech", "audio.transcriptions", "audio.translations"})


@dataclass(frozen=True, slots=True)
class Preset:
    """One provider as a configuration may name it.

    `base_url`: "" where it is the user's own, as with Azure.
    `key_variable`: the environment variable that the vendor's pages use; "" for a server that needs no key.
    `health_path`: a cheap GET at the host (not below the base path) that needs no key; "" when none is known.
    `docs`: the vendor's page.
    """

    name: str
    title: str
    base_url: str
    key_variable: str
    docs: str
    quirks: Quirks = field(default_factory=Quirks)
    dialect: str = "openai"
    health_path: str = ""


_ALL = (
    Preset(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "https://platform.openai.com/docs/api-reference",
        Quirks(realtime=True),
    ),
    Preset(
        "azure-openai",
        "Azure OpenAI",
        "",
        "AZURE_OPENAI_API_KEY",
        "https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
        Quirks(operations=ALL_OPERATIONS - {"images.variations", "moderations"}, realtime=True),
        dialect="azure-openai",
    ),
    Preset(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com/v1",
        "ANTHROPIC_API_KEY",
        "https://docs.anthropic.com/en/api/openai-sdk",
        Quirks(operations=_CHAT),
    ),
    Preset(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        "https://inference-docs.cerebras.ai/resources/openai",
        Quirks(operations=_TEXT),
    ),
    Preset(
        "cohere",
        "Cohere",
        "https://api.cohere.ai/compatibility/v1",
        "CO_API_KEY",
        "https://docs.cohere.com/docs/compatibility-api",
        Quirks(operations=_CHAT | {"embeddings", "audio.transcriptions"}),
    ),
    Preset(
        "databricks",
        "Databricks",
        "",
        "DATABRICKS_TOKEN",
        "https://docs.databricks.com/machine-learning/model-serving/score-foundation-models.html",
        Quirks(operations=_TEXT | {"embeddings", "responses"}),
    ),
    Preset(
        "deepinfra",
        "DeepInfra",
        "https://api.deepinfra.com/v1/openai",
        "DEEPINFRA_API_KEY",
        "https://deepinfra.com/docs/advanced/openai_api",
    ),
    Preset(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        "https://api-docs.deepseek.com/api/create-chat-completion",
        Quirks(max_tokens="max_tokens", operations=_CHAT),
    ),
    Preset(
        "fireworks",
        "Fireworks AI",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
    ),
    Preset(
        "gemini",
        "Google Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        "https://ai.google.dev/gemini-api/docs/openai",
        Quirks(operations=_CHAT | {"embeddings", "images.generations"}),
    ),
    Preset(
        "github-models",
        "GitHub Models",
        "https://models.github.ai/inference",
        "GITHUB_TOKEN",
        "https://docs.github.com/en/github-models/quickstart",
        Quirks(operations=_CHAT | {"embeddings"}),
    ),
    Preset(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        "https://console.groq.com/docs/openai",
        Quirks(drops=("metadata", "store"), operations=_CHAT | _SPEECH | {"responses"}),
    ),
    Preset(
        "huggingface",
        "Hugging Face",
        "https://router.huggingface.co/v1",
        "HF_TOKEN",
        "https://huggingface.co/docs/inference-providers/index",
        Quirks(operations=_CHAT | {"responses"}),
    ),
    Preset(
        "hyperbolic",
        "Hyperbolic",
        "https://api.hyperbolic.xyz/v1",
        "HYPERBOLIC_API_KEY",
        "https://docs.hyperbolic.xyz/docs/rest-api",
    ),
    Preset(
        "minimax",
        "MiniMax",
        "https://api.minimax.io/v1",
        "MINIMAX_API_KEY",
        "https://platform.minimax.io/docs/api-reference/text-openai-api",
        Quirks(operations=_CHAT | {"responses"}),
    ),
    Preset(
        "mistral",
        "Mistral AI",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        "https://docs.mistral.ai/api/",
        Quirks(
            include_usage=False,
            max_tokens="max_tokens",
            drops=("safety_identifier", "store", "stream_options", "user"),
            operations=_CHAT | {"embeddings", "audio.speech", "audio.transcriptions", "moderations"},
        ),
    ),
    Preset(
        "moonshot",
        "Moonshot AI (Kimi)",
        "https://api.moonshot.ai/v1",
        "MOONSHOT_API_KEY",
        "https://platform.moonshot.ai/docs/api/chat",
        Quirks(max_tokens="max_tokens", operations=_CHAT),
    ),
    Preset(
        "nvidia",
        "NVIDIA NIM",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        "https://docs.api.nvidia.com/nim/reference/llm-apis",
        Quirks(max_tokens="max_tokens"),
    ),
    Preset(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        "https://openrouter.ai/docs/api-reference/overview",
    ),
    Preset(
        "perplexity",
        "Perplexity",
        "https://api.perplexity.ai/v1",
        "PERPLEXITY_API_KEY",
        "https://docs.perplexity.ai/docs/grounded-llm/openai-compatibility",
        Quirks(operations=frozenset({"responses"})),
    ),
    Preset(
        "qwen",
        "Alibaba Cloud (Qwen)",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        "https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope",
    ),
    Preset(
        "sambanova",
        "SambaNova",
        "https://api.sambanova.ai/v1",
        "SAMBANOVA_API_KEY",
        "https://docs.sambanova.ai/docs/en/features/openai-compatibility",
    ),
    Preset(
        "together",
        "Together AI",
        "https://api.together.ai/v1",
        "TOGETHER_API_KEY",
        "https://docs.together.ai/docs/inference/openai-compatibility",
        Quirks(max_tokens="max_tokens"),
    ),
    Preset(
        "xai",
        "xAI",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        "https://docs.x.ai/docs/api-reference",
        Quirks(realtime=True),
    ),
    Preset(
        "zhipu",
        "Z.ai (Zhipu, GLM)",
        "https://api.z.ai/api/paas/v4",
        "ZAI_API_KEY",
        "https://docs.z.ai/guides/develop/openai/python",
        Quirks(max_tokens="max_tokens"),
    ),
    Preset(
        "litellm",
        "LiteLLM proxy",
        "http://127.0.0.1:4000/v1",
        "LITELLM_PROXY_API_KEY",
        "https://docs.litellm.ai/docs/proxy/health",
        Quirks(realtime=True),
        health_path="/health/readiness",
    ),
    Preset(
        "llama-cpp",
        "llama.cpp server",
        "http://127.0.0.1:9931/v1",
        "",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        Quirks(operations=_TEXT | {"embeddings", "responses", "audio.transcriptions"}),
        health_path="/health",
    ),
    Preset(
        "lm-studio",
        "LM Studio",
        "http://127.0.0.1:1234/v1",
        "",
        "https://lmstudio.ai/docs/api/openai-api",
        Quirks(operations=_TEXT | {"embeddings", "responses"}),
    ),
    Preset(
        "localai",
        "LocalAI",
        "http://127.0.0.1:8080/v1",
        "",
        "https://localai.io/docs/features/",
        Quirks(realtime=True),
        health_path="/readyz",
    ),
    Preset(
        "ollama",
        "Ollama",
        "http://127.0.0.1:11434/v1",
        "",
        "https://github.com/ollama/ollama/blob/main/docs/api/openai-compatibility.mdx",
        Quirks(max_tokens="max_tokens", operations=_TEXT | {"embeddings", "images.generations", "responses"}),
        health_path="/",
    ),
    Preset(
        "sglang",
        "SGLang",
        "http://127.0.0.1:30000/v1",
        "",
        "https://docs.sglang.io/basic_usage/openai_api.html",
        health_path="/health",
    ),
    Preset(
        "tgi",
        "Text Generation Inference",
        "http://127.0.0.1:3000/v1",
        "",
        "https://huggingface.co/docs/text-generation-inference/reference/api_reference",
        Quirks(max_tokens="max_tokens", operations=_TEXT),
        health_path="/health",
    ),
    Preset(
        "vllm",
        "vLLM",
        "http://127.0.0.1:8000/v1",
        "",
        "https://docs.vllm.ai/en/stable/serving/online_serving.html",
        Quirks(
            operations=_TEXT | {"embeddings", "responses", "audio.transcriptions", "audio.translations"},
            realtime=True,
        ),
        health_path="/health",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
