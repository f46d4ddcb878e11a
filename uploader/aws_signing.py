"""AWS Signature Version 4, by botocore, which is optional: how AWS HealthImaging wants its requests.

botocore finds the credentials (environment, profile, role of the machine or container) and renews those that expire.
The signature covers the SHA-256 of the body. HealthImaging documents no unsigned payload, so the files are read once
more before each request; the body is never in memory.

The region is that of the host name in `url`, else the one of AWS_REGION, AWS_DEFAULT_REGION or the profile.
"""

import hashlib
import logging
import os
import re
import threading
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.exceptions
import botocore.session
import requests

from common.config import DestinationConfig
from uploader.authentication import Authentication
from uploader.multipart import Body
from uploader.tokens import CredentialsError
from uploader.verdict import Failure

# It writes what it signs, and the signature, into its lines for debugging.
logging.getLogger("botocore").setLevel(logging.WARNING)

_SERVICE = "medical-imaging"
_HOST = re.compile(r".*\.(?P<region>[a-z]{2}(?:-[a-z]+)+-[0-9]+)\.(?:amazonaws\.com(?:\.cn)?|api\.aws)")
_TEMPORARY = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.MetadataRetrievalError,
    botocore.exceptions.CredentialRetrievalError,
)


class SignatureV4(Authentication):
    """Signs requests.

    Args:
        config: the section [destination].

    Raises:
        CredentialsError: no region is named anywhere.
    """

    def __init__(self, config: DestinationConfig) -> None:
        self._session = botocore.session.Session()
        options: dict[str, Any] = {"connect_timeout": config.connect_timeout_seconds}
        if config.proxy:
            options["proxies"] = {"http": config.proxy, "https": config.proxy}
        self._session.set_default_client_config(botocore.config.Config(**options))
        if config.ca_bundle:
            self._session.set_config_variable("ca_bundle", str(config.ca_bundle))
        self._region = self._region_of(config.url)
        self._lock = threading.Lock()
        self._credentials: Any = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request: its host, path, content type, time and body."""
        headers = {"X-Amz-Content-SHA256": _digest(request.body)}
        if "Content-Type" in request.headers:
            headers["Content-Type"] = request.headers["Content-Type"]
        # Only what no proxy changes on the way is signed.
        signed = botocore.awsrequest.AWSRequest(request.method, request.url, headers)
        botocore.auth.SigV4Auth(self._frozen(), _SERVICE, self._region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        return request

    def _region_of(self, url: str) -> str:
        if found := _HOST.fullmatch(urlsplit(url).hostname or ""):
            return found["region"]
        try:
            # Containers have AWS_REGION, which botocore does not read.
            region = os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        except botocore.exceptions.BotoCoreError:
            region = None
        if not region:
            raise CredentialsError("auth = aws: expected a region in the host of url or in AWS_REGION, found none")
        return str(region)

    def _frozen(self) -> Any:
        """The credentials to use now; botocore renews them under a lock of its own."""
        try:
            with self._lock:
                if self._credentials is None:
                    self._credentials = self._session.get_credentials()
            frozen = None if self._credentials is None else self._credentials.get_frozen_credentials()
        except _TEMPORARY:
            raise CredentialsError("AWS does not give us credentials now", Failure.TOKEN) from None
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            why = f"AWS credentials cannot be had ({type(error).__name__}): check the profile or role"
            raise CredentialsError(why) from None
        if frozen is None:
            raise CredentialsError(
                "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run on a machine with a role"
            )
        return frozen


def _digest(body: object) -> str:
    """The SHA-256 of a body, in hex."""
    if isinstance(body, Body):
        return body.sha256()
    content = body.encode("utf-8") if isinstance(body, str) else body
    return hashlib.sha256(content if isinstance(content, bytes) else b"").hexdigest()
