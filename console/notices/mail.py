"""A notice as plain text to the addresses of [notify] mail_to, by the mail server there.

The certificate of the server is verified before a password or an address goes out, unless mail_security is none. What
the server answers is not passed on: it quotes addresses.
"""

import contextlib
import smtplib
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from common import logs
from common.config import NotifyConfig
from common.settings_console import MailSecurity
from console.notices.channels import UndeliveredError
from console.notices.telling import Notice
from console.notices.wording import subject, text

log = logs.get(__name__)

_TIMEOUT_SECONDS = 30.0


class Mail:
    """The mail server.

    Args:
        settings: section [notify]; its mail_server is set.
        host: the name of this machine.
    """

    name = "mail"

    def __init__(self, settings: NotifyConfig, host: str) -> None:
        self._settings = settings
        self._host = host

    def send(self, notice: Notice) -> None:
        """Hand a notice to the mail server, for all addresses at once.

        Raises:
            UndeliveredError: it takes it for nobody.
        """
        try:
            with contextlib.closing(self._connect()) as server:
                if self._settings.mail_username:
                    server.login(self._settings.mail_username, self._settings.mail_password)
                refused = server.send_message(
                    self.message(notice), self._settings.mail_from, list(self._settings.mail_to)
                )
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()  # it has been taken, however this ends
        except smtplib.SMTPResponseException as error:
            raise UndeliveredError(f"the mail server answered {error.smtp_code} ({_step(error)})") from None
        except smtplib.SMTPRecipientsRefused:
            raise UndeliveredError("the mail server refused every address of mail_to") from None
        except smtplib.SMTPNotSupportedError:
            raise UndeliveredError("the mail server lacks STARTTLS or a way to sign in") from None
        except ssl.SSLCertVerificationError as error:
            raise UndeliveredError(f"the certificate of the mail server is not good ({error.verify_message})") from None
        except TimeoutError:
            raise UndeliveredError("no answer of the mail server in time") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise UndeliveredError(f"no connection to the mail server ({type(error).__name__})") from None
        if refused:
            log.warning("mail server refused some addresses of mail_to", addresses=len(refused))

    def message(self, notice: Notice) -> EmailMessage:
        """The notice as a mail. The same notice has the same Message-ID each time."""
        settings = self._settings
        message = EmailMessage(policy=SMTP)
        domain = settings.mail_from.rpartition("@")[2]
        message["From"] = Address("Stowgate", addr_spec=settings.mail_from)
        message["To"] = [Address(addr_spec=address) for address in settings.mail_to]
        message["Subject"] = subject(notice, self._host)
        message["Date"] = format_datetime(notice.at)
        message["Message-ID"] = f"<stowgate-{notice.id}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer of a person on holiday
        message.set_content(text(notice, self._host))
        return message

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        if settings.mail_security is MailSecurity.NONE:
            return smtplib.SMTP(settings.mail_server, settings.mail_port, timeout=_TIMEOUT_SECONDS)
        context = ssl.create_default_context(cafile=str(settings.ca_bundle) if settings.ca_bundle else None)
        if settings.mail_security is MailSecurity.TLS:
            return smtplib.SMTP_SSL(settings.mail_server, settings.mail_port, timeout=_TIMEOUT_SECONDS, context=context)
        server = smtplib.SMTP(settings.mail_server, settings.mail_port, timeout=_TIMEOUT_SECONDS)
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
        return server


def _step(error: smtplib.SMTPResponseException) -> str:
    """At which step, by the class of what smtplib raised."""
    steps = {
        smtplib.SMTPAuthenticationError: "signing in",
        smtplib.SMTPSenderRefused: "mail_from",
        smtplib.SMTPDataError: "the message",
        smtplib.SMTPHeloError: "the greeting",
        smtplib.SMTPConnectError: "connecting",
    }
    return steps.get(type(error), "a command")
