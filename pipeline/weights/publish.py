"""An exported folder on the hub: whether it may go there, which is asked before the long work, and its way there.

Knows names, tokens and folders; nothing of what is in the files.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from data_prep.tokenizers.hub import bars_on_terminals, first_line, is_unreachable, parse_name, why_unreachable

LOG_IN = "give one that may write by `hf auth login` or HF_TOKEN=…, from the hub's settings, Access Tokens"


def check_target(name: str, private: bool) -> None:
    """See that a model of this name can be written with the token that there is; nothing is made.

    Raises:
        ValueError: the name is none, there is no token, it may not write there, or the model is public where a private one is
            wanted; also where the hub cannot be asked.
    """
    import huggingface_hub
    from huggingface_hub import errors

    parsed = parse_name(name)
    if parsed is None or parsed.revision is not None:
        raise ValueError(f"--push {name}: write the model's name on the hub, ORG/NAME or USER/NAME")
    hub = huggingface_hub.HfApi()
    try:
        _check_rights(name, hub.whoami())
        if private and not hub.model_info(name).private:
            raise ValueError(
                f"--push {name}: is a public model already, which --private does not hide; make it private in its settings, or "
                "give another name"
            )
    except errors.RepositoryNotFoundError:
        return
    except errors.LocalTokenNotFoundError:
        raise ValueError(f"--push {name}: there is no token; {LOG_IN}") from None
    except (errors.HTTPError, OSError) as error:
        if is_unreachable(error):
            later = by_hand(name, "HF_DIR", private)
            raise ValueError(
                f"--push {name}: {why_unreachable(error)}; export without --push, and upload it later by {later}"
            ) from None
        raise ValueError(f"--push {name}: the token is refused ({_status(error)}); {LOG_IN}") from None


def _check_rights(name: str, who: dict[str, Any]) -> None:
    """ValueError where the token only reads, or is somebody else's; of tokens with rights of their own the hub decides."""
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise ValueError(f"--push {name}: the token of {who['name']} may only read; {LOG_IN}")
    spaces = [who["name"], *(organization["name"] for organization in who.get("orgs") or [])]
    if role == "write" and name.split("/")[0] not in spaces:
        raise ValueError(
            f"--push {name}: the token of {who['name']} writes to {', '.join(spaces)} alone; give one of these"
        )


def push(folder: Path, files: Collection[str], name: str, private: bool) -> str:
    """Upload these files of a folder to the model of that name, which is made where there is none; the commit's address.

    Raises:
        ValueError: it has failed; says how to upload by hand. The folder stays as it is.
    """
    import huggingface_hub
    from huggingface_hub import errors

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(name, private=private or None, exist_ok=True)
        with bars_on_terminals():
            done = hub.upload_folder(
                repo_id=name, folder_path=folder, allow_patterns=sorted(files), commit_message="Export of xlm-align"
            )
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = why_unreachable(error) if is_unreachable(error) else _status(error)
        raise ValueError(
            f"--push {name}: not uploaded ({reason}); the export is whole in {folder}, and uploaded by "
            f"{by_hand(name, folder, private)}"
        ) from None
    return str(done.commit_url)


def by_hand(name: str, folder: Path | str, private: bool) -> str:
    """The command that uploads a folder."""
    return f"`hf upload {name} {folder} .{' --private' if private else ''}`"


def _status(error: Exception) -> str:
    """What the hub has answered, with its own words where it gives any."""
    response = getattr(error, "response", None)
    if response is None:
        return first_line(error)
    message = getattr(error, "server_message", None)
    return f"{response.status_code}{f': {message}' if message else ''}"
