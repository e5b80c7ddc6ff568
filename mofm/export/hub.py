"""Bundles on the Hugging Face hub: `hf://OWNER/NAME` in the place of a folder, and `mofm export --push-to OWNER/NAME`.

A thin layer over huggingface_hub (extra `hub`), which keeps what it fetched, goes on with what was cut short, and knows who
the user is (`hf auth login`, or HF_TOKEN); HF_ENDPOINT names another hub. A bundle from there is checked as any other is.
Only what a bundle has of its own is fetched: JSON, safetensors and Parquet; `compiled/` is left there.
"""

from pathlib import Path
from types import ModuleType

from mofm.errors import InputError

HUB = "hf://"
FETCHED = ("*.json", "*.safetensors", "*.parquet", "LICENSE")
LEFT = ("compiled/*",)


def fetch(place: str) -> Path:
    """The folder of a bundle at hf://OWNER/NAME, or hf://OWNER/NAME@REVISION, fetched where it is not there yet.

    Raises:
      InputError: huggingface_hub is not installed; no such bundle, or it may not be read.
    """
    repo, _, revision = place.removeprefix(HUB).partition("@")
    hub = _hub()
    try:
        return Path(
            hub.snapshot_download(repo, revision=revision or None, allow_patterns=FETCHED, ignore_patterns=LEFT)
        )
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise _refused(f"{place}: cannot be fetched", error) from error


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a bundle to OWNER/NAME, which is made where there is none. Returns where it is to be seen.

    Raises:
      InputError: huggingface_hub is not installed, or the hub refuses.
    """
    hub = _hub()
    try:
        made = hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"mofm bundle {folder.name}")
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise _refused(f"{HUB}{repo}: cannot be written", error) from error
    return str(made)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(f'{HUB} needs huggingface_hub: pip install "mofm[hub]"') from error
    return huggingface_hub


def _refused(what: str, error: Exception) -> InputError:
    cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return InputError(f"{what} ({cause}); check the name, and who you are (`hf auth login`)")
