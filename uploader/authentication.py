"""How a request shows the destination who we are: what `auth` in [destination] says.

One object for all delivery threads. It puts the credentials on a request before each try; when the destination
answers 401, it is asked once whether there are others by now. What it cannot do raises `CredentialsError`.

Google's and Amazon's libraries are optional: their adapters are imported only where `auth` says so.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from common.config import Auth, DestinationConfig
from uploader.oauth2 import ClientCredentials
from uploader.tokens import CredentialsError, TokenProvider

_MAX_TOKEN_FILE = 64 * 1024
_BEARER = "Bearer "


class Authentication(AuthBase, ABC):
    """Credentials for requests; safe to call from several threads at once."""

    @abstractmethod
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the credentials on a request.

        Raises:
            CredentialsError: there are none.
        """

    def renew(self, refused: requests.PreparedRequest) -> bool:
        """Whether there are other credentials by now than those of this request, which was answered 401.

        Raises:
            CredentialsError: there are none.
        """
        del refused
        return False


class Unauthenticated(Authentication):
    """Shows nothing; a client certificate may do that."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Leave the request as it is."""
        return request


class Basic(Authentication):
    """User and password (RFC 7617)."""

    def __init__(self, username: str, password: str) -> None:
        # Bytes, since requests would encode text as Latin-1; RFC 7617 2.1 has UTF-8.
        self._auth = HTTPBasicAuth(username.encode("utf-8"), password.encode("utf-8"))

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put user and password on a request."""
        self._auth(request)
        return request


class Bearer(Authentication, ABC):
    """A bearer token (RFC 6750)."""

    @abstractmethod
    def token(self) -> str:
        """The token to show now."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token on a request."""
        request.headers["Authorization"] = _BEARER + self.token()
        return request


class FixedToken(Bearer):
    """A token that stands in the settings."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        """The token."""
        return self._token


class FileToken(Bearer):
    """A token in a file that somebody else renews, such as a mounted secret.

    The file is read for every request: it is small, and no clock and no file system must be trusted to tell that it
    has changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        """What the file holds now."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_TOKEN_FILE + 1)
        except OSError as error:
            raise CredentialsError(f"token_file in [destination] cannot be read: {error.strerror}") from None
        token = content.strip()
        if not token or len(content) > _MAX_TOKEN_FILE or any(not 0x20 < byte < 0x7F for byte in token):
            raise CredentialsError(
                "token_file in [destination]: expected one token of visible ASCII characters, found something else"
            )
        return token.decode("ascii")

    def renew(self, refused: requests.PreparedRequest) -> bool:
        """Whether the file holds another token by now."""
        return bool(_shown_by(refused) != self.token())


class RenewedToken(Bearer):
    """A token that is fetched, and fetched again."""

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider

    def token(self) -> str:
        """The token to show now."""
        return self._provider.token()

    def renew(self, refused: requests.PreparedRequest) -> bool:
        """Whether there is another token by now."""
        return self._provider.renew(_shown_by(refused))


def _shown_by(request: requests.PreparedRequest) -> str:
    return str(request.headers.get("Authorization", "")).removeprefix(_BEARER)


def authentication_of(config: DestinationConfig) -> Authentication:
    """What `auth` says."""
    if config.auth is Auth.BASIC:
        return Basic(config.username, config.password)
    if config.auth is Auth.BEARER:
        return FileToken(config.token_file) if config.token_file is not None else FixedToken(config.token)
    if config.auth is Auth.OAUTH2:
        return RenewedToken(TokenProvider(ClientCredentials(config).fetch))
    if config.auth is Auth.GOOGLE:
        from uploader.google_credentials import ApplicationDefault  # noqa: PLC0415 -- optional

        return RenewedToken(TokenProvider(ApplicationDefault(config).fetch))
    if config.auth is Auth.AWS:
        from uploader.aws_signing import SignatureV4  # noqa: PLC0415 -- optional

        return SignatureV4(config)
    return Unauthenticated()
