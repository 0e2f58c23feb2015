"""Account: who asks Globus. A service by its credentials, or a person who has logged in by `proxyfab globus login`.

`$PROXYFAB_GLOBUS_CLIENT_ID` names the application; with `$PROXYFAB_GLOBUS_CLIENT_SECRET` it acts for itself, without
it for the person who has logged in. Promises: only `log_in` ever prompts. Tokens lie in `$PROXYFAB_GLOBUS_TOKENS`,
readable by their owner only; those of a service stay in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from proxyfab.connectors.globus.refusals import asked
from proxyfab.errors import CredentialsExpired, MissingDependency

if TYPE_CHECKING:
    from globus_sdk import AuthLoginClient, GlobusApp, TransferClient

_NAME = "proxyfab"
_TRIES = 2
_PATIENCE = 10.0


class Account(NamedTuple):
    """A client of the Transfer service and the login behind it; `close` both."""

    app: GlobusApp
    client: TransferClient
    service: bool
    """Whether it is a service's, which needs nobody to log in."""
    login: AuthLoginClient

    def close(self) -> None:
        """Give connections back."""
        self.client.close()
        self.app.close()
        self.login.close()


def tokens_path() -> str:
    """The file that a person's tokens lie in."""
    return os.environ.get("PROXYFAB_GLOBUS_TOKENS") or os.path.expanduser("~/.config/proxyfab/globus-tokens.json")


def open_account() -> Account:
    """The account of this process; asks nobody anything.

    Raises:
        MissingDependency: globus-sdk is not installed.
        CredentialsExpired: There is no application, or nobody has logged in.
    """
    try:
        import globus_sdk
    except ModuleNotFoundError as error:
        raise MissingDependency("globus:// needs 'globus-sdk': pip install 'proxyfab[globus]'") from error
    client_id = os.environ.get("PROXYFAB_GLOBUS_CLIENT_ID", "")
    if not client_id:
        raise CredentialsExpired(
            "globus:// needs an application: register one at https://app.globus.org/settings/developers, set "
            "PROXYFAB_GLOBUS_CLIENT_ID (a service's PROXYFAB_GLOBUS_CLIENT_SECRET, too), then: proxyfab globus login"
        )
    secret = os.environ.get("PROXYFAB_GLOBUS_CLIENT_SECRET")
    login, app = _service(client_id, secret) if secret else _person(client_id)
    client = asked("open a client", lambda: globus_sdk.TransferClient(app=app))
    client.retry_config.max_retries = _TRIES
    client.transport.http_timeout = _PATIENCE
    return Account(app, client, bool(secret), login)


def _service(client_id: str, secret: str) -> tuple[AuthLoginClient, GlobusApp]:
    from globus_sdk import ClientApp, ConfidentialAppAuthClient, GlobusAppConfig

    login = ConfidentialAppAuthClient(client_id, secret, app_name=_NAME)
    login.retry_config.max_retries = _TRIES
    return login, ClientApp(_NAME, login_client=login, config=GlobusAppConfig(token_storage="memory"))


def _person(client_id: str) -> tuple[AuthLoginClient, GlobusApp]:
    from globus_sdk import GlobusAppConfig, NativeAppAuthClient, UserApp
    from globus_sdk.token_storage import JSONTokenStorage

    path = tokens_path()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    config = GlobusAppConfig(
        token_storage=JSONTokenStorage(path),
        request_refresh_tokens=True,
        auto_redrive_gares=False,
        token_validation_error_handler=None,  # the usual one prompts, and a worker that prompts hangs
    )
    login = NativeAppAuthClient(client_id, app_name=_NAME)
    login.retry_config.max_retries = _TRIES
    return login, UserApp(_NAME, login_client=login, config=config)


def log_in(collections: Sequence[str], consents: Sequence[str]) -> str:
    """Log in, and consent to what mapped collections ask for; prompts a person. Returns where the tokens are."""
    from globus_sdk.gare import GlobusAuthorizationParameters

    account = open_account()
    try:
        if not account.service:
            asked("log in", account.app.login)
        mapped = [each for each in collections if _wants_consent(account.client, each)]
        if mapped:
            account.client.add_app_data_access_scope(mapped)
        if consents:
            wanted = GlobusAuthorizationParameters(required_scopes=list(consents))
            asked("consent", lambda: account.app.login(auth_params=wanted))
        else:
            asked("log in", account.app.login)
    finally:
        account.close()
    return "memory (a service needs no login)" if account.service else tokens_path()


def _wants_consent(client: TransferClient, collection: str) -> bool:
    """Asking for the consent of a collection of any other kind breaks the login."""
    found = asked(f"look at {collection}", lambda: client.get_endpoint(collection))
    return found["entity_type"] == "GCSv5_mapped_collection" and not found.get("high_assurance")
