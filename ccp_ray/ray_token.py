"""The token that a local Ray demands of everyone who connects to it.

Ray's processes listen on the node's address, and whoever can connect can run code. So a local Ray gets a token that
only its own processes know: made up here, handed down in their environment (which other users cannot read), never
written to a file. Ray itself would make one too, and keep it in ~/.ray/auth_token with the rights of any new file.

Ray reads RAY_AUTH_MODE and the token once, when it is imported or first used. Where a host program imported ray before
us, it is told to read them again, and asked whether it did: a local Ray without its token is never started by accident.
RAY_AUTH_MODE=disabled in the environment is a person's own decision: it is obeyed, and said.
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from typing import Any

from ccp_ray.errors import CcpError
from ccp_ray.progress import say

MODE, TOKEN, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_made = ""  # the token of this process's local Rays
_mode_was_set = False


def demand_token() -> None:
    """Before a local Ray starts: it will demand a token. Raises CcpError where Ray does not take it."""
    global _made, _mode_was_set
    if os.environ.get(MODE, "").lower() == "disabled":
        say(f"ccp-ray: {MODE}=disabled: whoever reaches this machine over the network can run code in its Ray")
        return
    if TOKEN not in os.environ and PATH not in os.environ:
        _made, _mode_was_set = secrets.token_hex(32), MODE in os.environ
        os.environ[TOKEN] = _made
    os.environ[MODE] = "token"
    _read_again()


def forget_token() -> None:
    """Before a cluster is joined, which knows nothing of a local Ray's token: the environment as it was without it."""
    global _made
    if _made and os.environ.get(TOKEN) == _made:
        del os.environ[TOKEN]
        if not _mode_was_set:
            del os.environ[MODE]
        _made = ""
        _read_again()


def _read_again() -> None:
    if "ray" not in sys.modules:
        return  # it will read them when it is imported
    raylet: Any = importlib.import_module("ray._raylet")  # what Ray itself does where it makes a token
    raylet.Config.initialize("")
    loader = raylet.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    if os.environ.get(MODE) == "token" and (
        raylet.get_authentication_mode() != raylet.AuthenticationMode.TOKEN
        or (TOKEN in os.environ and loader.get_raw_token() != os.environ[TOKEN])
    ):
        raise CcpError(
            "ray was imported before ccp_ray.session and does not take a token for a local Ray; import ccp_ray.session "
            f"first, or set {MODE}=token and {TOKEN} before Python starts"
        )
