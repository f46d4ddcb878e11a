"""The TLS side of the receiver: its certificate, and the CA that its clients must show certificates of."""

import ssl
from pathlib import Path

from common.config import ReceiverConfig
from common.errors import ConfigError


def server_context(config: ReceiverConfig) -> ssl.SSLContext | None:
    """The TLS context that the section [receiver] asks for; None if it asks for none.

    TLS 1.2 and newer (PS3.15 B.12, RFC 9325). With tls_client_ca, a client must show a certificate.

    Raises:
        ConfigError: a file is no usable certificate or key.
    """
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Costs a peer nothing and us a handshake; no sender needs it (RFC 9325 3.5).
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        # The password is given so that OpenSSL does not ask for it on the terminal.
        context.load_cert_chain(config.tls_certificate, config.tls_key, password="")
    except (OSError, ValueError) as error:
        key = "tls_key" if _holds_certificates(config.tls_certificate) else "tls_certificate"
        expected = {
            "tls_certificate": "a PEM file with the server's certificate",
            "tls_key": "a PEM file with the key of tls_certificate, without a passphrase",
        }[key]
        raise ConfigError((f"[receiver] {key}: expected {expected}, found {_found(error)}",)) from error
    if config.tls_client_ca is not None:
        try:
            context.load_verify_locations(config.tls_client_ca)
        except (OSError, ValueError) as error:
            problem = f"[receiver] tls_client_ca: expected a PEM file with CA certificates, found {_found(error)}"
            raise ConfigError((problem,)) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _holds_certificates(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (OSError, ValueError):
        return False
    return True


def _found(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"one that OpenSSL cannot use ({error.reason or 'no PEM'})"
    return f"one that cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
