"""From a timm model name to one local safetensors file: where the weights of a name come from."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg, is_model
from timm.models._hub import _parse_model_cfg, load_cfg_from_json

from timm_gam.core import CheckpointError, UnknownModelError, download_file
from timm_gam.models.weights.releases import find_release
from timm_gam.models.weights.shipped_weights import find_shipped
from timm_gam.models.weights.tags import as_released, is_identity

WEIGHTS_NAME = "model.safetensors"
HEAD_NAME = "head.safetensors"
HEAD_KEY = "timm_gam_head"
"""True in the config.json of a repository that has a head (`timm_gam.embed.Head`) under that name."""

# Arguments of timm.create_model that a config must not set: other files to read, another place to run.
_FACTORY_ARGUMENTS = {
    "cache_dir",
    "checkpoint_path",
    "device",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}

# No network has more blocks, channels or pixels a side; building one of 2^31 blocks would never end.
_LARGEST = 2**16
# Of a config's pretrained_cfg, what describes the weights; not where they come from, which is known by now.
_SOURCE_KEYS = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
_CFG_KEYS = {field.name for field in fields(PretrainedCfg)} - _SOURCE_KEYS


@dataclass(frozen=True)
class PretrainedSource:
    """Pretrained weights as one file, and the model they are for.

    Attributes:
        architecture: Registered timm model name.
        file: Local safetensors file.
        reference: What to call it in a record: "owner/name@commit", or the folder's name.
        pretrained_cfg: timm's data config and class count of these weights.
        model_args: Arguments the model was built with, stored beside the weights.
        head: Local safetensors file of a head that was published with them, or None.
    """

    architecture: str
    file: Path
    reference: str
    pretrained_cfg: dict[str, Any]
    model_args: dict[str, Any]
    head: Path | None = None


def check_model_name(name: str) -> str:
    """The architecture of a registered "name" or "name.tag".

    Raises:
        UnknownModelError: unknown name (near matches are listed) or unknown tag (its tags are listed).
    """
    if ":" in name:
        raise UnknownModelError(f"'{name}' names weights; a plain model name is needed here, such as resnet50_gam")
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        near = difflib.get_close_matches(architecture.lower(), timm.list_models(), n=3)
        hint = f"near: {', '.join(near)}" if near else "see timm.list_models()"
        raise UnknownModelError(f"no model '{architecture}'; {hint}")
    if tag and f"{architecture}.{tag}" not in get_arch_pretrained_cfgs(architecture):
        tags = [cfg.partition(".")[2] for cfg in timm.list_pretrained(f"{architecture}.*")]
        legal = f"legal: {', '.join(tags)}" if tags else "it has no pretrained weights"
        raise UnknownModelError(f"model '{architecture}' has no tag '{tag}'; {legal}")
    return architecture


def find_pretrained(name: str) -> PretrainedSource:
    """Find the pretrained weights of a model name: in the package, in a folder, or on the Hub.

    Args:
        name: "name", "name.tag", "hf-hub:owner/repo[@revision]" or "local-dir:folder".

    Raises:
        UnknownModelError: no such model or tag.
        CheckpointError: the model has no weights, or none as safetensors.
        HubError: the Hub repository cannot be had.
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "hf-hub":
        return _from_hub(rest)
    if colon and scheme == "local-dir":
        return _from_folder(Path(rest))
    if colon or "/" in name:
        raise UnknownModelError(
            f"'{name}' is no model name; legal: name, name.tag, hf-hub:owner/repo, local-dir:folder"
        )
    if (shipped := find_shipped(name)) is not None:
        return _from_folder(shipped)
    architecture = check_model_name(name)
    cfg = get_pretrained_cfg(name)
    if cfg is not None and (shipped := find_shipped(f"{architecture}.{cfg.tag}")) is not None and cfg.file:
        return _from_folder(shipped)
    cfg = cfg and as_released(cfg)
    if cfg is None or not cfg.has_weights:
        raise CheckpointError(f"model '{name}' has no pretrained weights; name a checkpoint file, or random weights")
    if not cfg.hf_hub_id:
        raise CheckpointError(f"the weights of '{name}' are not on the Hub; only safetensors files are read")
    file, reference = fetch_weights(cfg)
    described = {key: value for key, value in cfg.to_dict().items() if key in _CFG_KEYS}
    return PretrainedSource(
        architecture, file, reference, described, {"gate_init": "identity"} if is_identity(cfg.tag) else {}
    )


def fetch_weights(cfg: Any, cache_dir: str | Path | None = None) -> tuple[Path, str]:
    """Pull the weights of a `timm.models.PretrainedCfg` that names a Hub repository, as it was released where it was.

    Returns:
        The local safetensors file, and "owner/name@commit".

    Raises:
        CheckpointError: its weights are no safetensors file.
        HubError: the Hub repository cannot be had, or does not hold what was released.
    """
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else cfg.architecture
    repo_id, _, revision = (cfg.hf_hub_id + (name if cfg.hf_hub_id.endswith("/") else "")).partition("@")
    filename = cfg.hf_hub_filename or WEIGHTS_NAME
    if not filename.endswith(".safetensors"):
        raise CheckpointError(f"the weights of '{name}' are '{filename}'; only safetensors files are read")
    return _pull(repo_id, revision, filename, cache_dir)


def _pull(repo_id: str, revision: str, filename: str, cache_dir: str | Path | None = None) -> tuple[Path, str]:
    release = find_release(repo_id)
    released = release is not None and revision in ("", release.revision)
    file, commit = download_file(
        repo_id,
        filename,
        release.revision if release and released else revision or None,
        sha256=release.sha256 if release and released and filename == WEIGHTS_NAME else None,
        cache_dir=cache_dir,
    )
    return file, f"{repo_id}@{commit}"


def _from_hub(model_id: str) -> PretrainedSource:
    repo_id, _, revision = model_id.partition("@")
    config, _ = _pull(repo_id, revision, "config.json")
    file, reference = _pull(repo_id, revision, WEIGHTS_NAME)
    return _from_config(config, file, reference, lambda: _pull(repo_id, revision, HEAD_NAME)[0])


def _from_folder(folder: Path) -> PretrainedSource:
    for needed in ("config.json", WEIGHTS_NAME):
        if not (folder / needed).is_file():
            raise CheckpointError(f"folder '{folder}' has no {needed}; local-dir: needs config.json and {WEIGHTS_NAME}")
    return _from_config(folder / "config.json", folder / WEIGHTS_NAME, folder.name, lambda: folder / HEAD_NAME)


def _from_config(config: Path, file: Path, reference: str, head: Callable[[], Path]) -> PretrainedSource:
    """Read a timm config.json by timm's own parser. Its values are data: nothing it names is imported or run."""
    try:
        content = load_cfg_from_json(config)
        has_head = content.get(HEAD_KEY) is True
        cfg, architecture, model_args = _parse_model_cfg(content, {})
        cfg = {key: value for key, value in dict(cfg).items() if key in _CFG_KEYS}
        model_args = dict(model_args or {})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"the config.json of '{reference}' is not a timm config: {error!r}") from error
    if foreign := _FACTORY_ARGUMENTS & model_args.keys():
        raise CheckpointError(
            f"the config.json of '{reference}' sets {', '.join(sorted(foreign))}: refused as untrusted"
        )
    if huge := sorted(name for name, value in model_args.items() if name != "num_classes" and _is_huge(value)):
        raise CheckpointError(
            f"the config.json of '{reference}' sets {', '.join(huge)} to numbers above {_LARGEST:,}: "
            "refused as untrusted"
        )
    if not isinstance(architecture, str) or not is_model(architecture):
        raise UnknownModelError(f"'{reference}' is for model '{architecture}', which is not registered here")
    return PretrainedSource(architecture, file, reference, cfg, model_args, head() if has_head else None)


def _is_huge(value: Any) -> bool:
    """Whether a value of a config is, or holds, a number that no network is built with."""
    if isinstance(value, dict | list | tuple):
        return any(_is_huge(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and not abs(value) <= _LARGEST
