"""A notice posted as JSON, in the form of [notify] webhook_format, to the URL of webhook_url.

The certificate is verified, no redirect is followed, nothing of the environment (proxy, netrc) counts. Whoever knows
the URL may post there: no text of ours names it, and no text of requests is passed on, since those do.
"""

import requests
from requests.adapters import HTTPAdapter

from common.config import NotifyConfig
from common.settings_console import WebhookFormat
from console.notices.channels import UndeliveredError
from console.notices.telling import Notice
from console.notices.wording import card, document

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 20.0


class Webhook:
    """The web hook.

    Args:
        settings: section [notify]; its webhook_url is set.
        host: the name of this machine.
    """

    name = "webhook"

    def __init__(self, settings: NotifyConfig, host: str) -> None:
        self._url = settings.webhook_url
        self._verify: bool | str = str(settings.ca_bundle) if settings.ca_bundle else True
        self._host = host
        self._form = card if settings.webhook_format is WebhookFormat.TEAMS else document

    def send(self, notice: Notice) -> None:
        """Post a notice; any 2xx is well.

        Raises:
            UndeliveredError: it was not taken.
        """
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.verify = self._verify
                for scheme in ("http://", "https://"):
                    session.mount(scheme, HTTPAdapter(max_retries=0))
                response = session.post(
                    self._url,
                    json=self._form(notice, self._host),
                    headers={"User-Agent": "Stowgate"},
                    timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                    allow_redirects=False,
                    stream=True,  # what it answers is not read
                )
                status = response.status_code
                response.close()
        except requests.exceptions.SSLError:
            raise UndeliveredError("expected a good certificate, found another, or no TLS") from None
        except requests.exceptions.Timeout:
            raise UndeliveredError("no answer in time") from None
        except requests.exceptions.ConnectionError:
            raise UndeliveredError("no connection") from None
        except (requests.exceptions.RequestException, OSError, ValueError) as error:
            raise UndeliveredError(f"not to be posted there ({type(error).__name__})") from None
        if not 200 <= status < 300:
            why = ", a redirect, which is not followed" if 300 <= status < 400 else ""
            raise UndeliveredError(f"expected HTTP 2xx, found {status}{why}")
