"""LiteLLM's names of providers, and which of ours they are.

https://docs.litellm.ai/docs/providers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Vendor:
    """One provider of LiteLLM's.

    `preset`: ours; "" for a server of somebody's own that speaks OpenAI's API.
    `key`: the variable that LiteLLM reads without `api_key`; "" where no key is needed.
    `base`: the variable that it reads without `api_base`; "" for none.
    `suffix`: what our base URL has after LiteLLM's `api_base`.
    `native`: it speaks the vendor's own API, so that an `api_base` of somebody's own need not speak OpenAI's.
    `note`: what is different here; "" when nothing is.
    """

    preset: str
    key: str = ""
    base: str = ""
    suffix: str = ""
    native: bool = False
    note: str = ""


_LAYER = "through the vendor's layer for OpenAI clients, where LiteLLM translates to its own API"
_OWN = Vendor("", "OPENAI_API_KEY")

VENDORS: Mapping[str, Vendor] = MappingProxyType(
    {
        "openai": Vendor("openai", "OPENAI_API_KEY"),
        "text-completion-openai": Vendor("openai", "OPENAI_API_KEY"),
        "custom_openai": _OWN,
        "openai_like": _OWN,
        "azure": Vendor("azure-openai", "AZURE_API_KEY", "AZURE_API_BASE"),
        "azure_text": Vendor("azure-openai", "AZURE_API_KEY", "AZURE_API_BASE"),
        "anthropic": Vendor("anthropic", "ANTHROPIC_API_KEY", native=True, note=f"{_LAYER}: chat only"),
        "cerebras": Vendor("cerebras", "CEREBRAS_API_KEY"),
        "cohere": Vendor("cohere", "COHERE_API_KEY", native=True, note=f"{_LAYER}: no rerank"),
        "cohere_chat": Vendor("cohere", "COHERE_API_KEY", native=True, note=_LAYER),
        "dashscope": Vendor("qwen", "DASHSCOPE_API_KEY"),
        "databricks": Vendor("databricks", "DATABRICKS_API_KEY", "DATABRICKS_API_BASE"),
        "deepinfra": Vendor("deepinfra", "DEEPINFRA_API_KEY"),
        "deepseek": Vendor("deepseek", "DEEPSEEK_API_KEY"),
        "fireworks_ai": Vendor("fireworks", "FIREWORKS_API_KEY"),
        "gemini": Vendor("gemini", "GEMINI_API_KEY", native=True, note=_LAYER),
        "github": Vendor("github-models", "GITHUB_API_KEY"),
        "groq": Vendor("groq", "GROQ_API_KEY"),
        "huggingface": Vendor("huggingface", "HF_TOKEN"),
        "hyperbolic": Vendor("hyperbolic", "HYPERBOLIC_API_KEY"),
        "minimax": Vendor("minimax", "MINIMAX_API_KEY"),
        "mistral": Vendor("mistral", "MISTRAL_API_KEY"),
        "moonshot": Vendor("moonshot", "MOONSHOT_API_KEY"),
        "nvidia_nim": Vendor("nvidia", "NVIDIA_NIM_API_KEY"),
        "openrouter": Vendor("openrouter", "OPENROUTER_API_KEY"),
        "perplexity": Vendor("perplexity", "PERPLEXITYAI_API_KEY", note="responses only: its chat API has ended"),
        "sambanova": Vendor("sambanova", "SAMBANOVA_API_KEY"),
        "together_ai": Vendor("together", "TOGETHERAI_API_KEY"),
        "xai": Vendor("xai", "XAI_API_KEY"),
        "zai": Vendor("zhipu", "ZAI_API_KEY"),
        "litellm_proxy": Vendor("litellm", "LITELLM_PROXY_API_KEY", "LITELLM_PROXY_API_BASE"),
        "lm_studio": Vendor("lm-studio", "", "LM_STUDIO_API_BASE"),
        "ollama": Vendor("ollama", "", suffix="/v1", note="through Ollama's /v1, where LiteLLM uses its own API"),
        "ollama_chat": Vendor("ollama", "", suffix="/v1", note="through Ollama's /v1, where LiteLLM uses its own API"),
        "hosted_vllm": Vendor("vllm", "", "HOSTED_VLLM_API_BASE"),
        "vllm": Vendor("vllm", ""),
    }
)

# What a model without a provider's name is, by how it begins.
_FAMILIES = (
    (
        "openai",
        ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "dall-e-", "whisper-", "tts-", "omni-", "ft:"),
    ),
    ("anthropic", ("claude-",)),
    ("cohere", ("command-", "embed-")),
    ("deepseek", ("deepseek-chat", "deepseek-reasoner")),
)
# Parts of LiteLLM's model that choose one of its ways to call, and are not the model's name.
_ROUTES = {
    "azure": ("o_series/", "gpt5_series/", "responses/"),
    "openai": ("responses/", "chat/completions/"),
}


def split(model: str, provider: str = "") -> tuple[str, str]:
    """LiteLLM's `provider/name` as both; the provider is "" when it cannot be told."""
    first, slash, rest = model.partition("/")
    if provider:
        return provider, _bare(provider, rest if slash and first == provider else model)
    if slash and (first in VENDORS or first in UNSUPPORTED):
        return first, _bare(first, rest)
    family = next((name for name, starts in _FAMILIES if model.startswith(starts)), "")
    return family, model


def _bare(provider: str, name: str) -> str:
    for route in _ROUTES.get(provider, ()):
        name = name.removeprefix(route)
    if provider == "fireworks_ai" and "*" not in name and not name.startswith("accounts/"):
        return f"accounts/fireworks/models/{name}"
    if provider == "huggingface" and name.count("/") > 1:
        hub, _, own = name.partition("/")
        return f"{own}:{hub}"
    return name


_NOT_OPENAI = "it does not speak OpenAI's API"
UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "bedrock", "bedrock_converse", "vertex_ai", "vertex_ai_beta", "sagemaker", "sagemaker_chat", "watsonx",
                "watsonx_text", "replicate", "snowflake", "oci", "sap", "palm", "petals", "nlp_cloud", "aleph_alpha",
                "ai21", "voyage", "jina_ai", "infinity", "elevenlabs", "deepgram", "assemblyai", "triton", "topaz",
                "stability", "recraft", "runwayml", "predibase", "cloudflare", "baseten", "clarifai", "bytez",
                "gigachat", "anthropic_text",
            ),
            _NOT_OPENAI,
        ),
        "azure_ai": "its addresses differ by model: no preset knows them",
        "github_copilot": "it signs in by a device, not by a key",
        "chatgpt": "it signs in by a device, not by a key",
        "custom": "a provider of your own code",
    }
)  # fmt: skip
