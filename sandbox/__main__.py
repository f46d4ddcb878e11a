"""python -m sandbox: starts the sandbox. What is wrong with its arguments is reported whole, with status 2."""

import argparse
import asyncio
import os
import re
import ssl
import sys
import warnings

from sandbox.control import NO_ARCHIVE
from sandbox.errors import RuleError
from sandbox.rules import Rule, parse_rule
from sandbox.server import Settings, basic, bearer, serve

_MAX_PORT = 65535


def main() -> int:
    """Run the sandbox until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a signal, 1 if the address or the directory cannot be used, 2 for arguments.
    """
    arguments = _parser().parse_args()
    settings, problems = _settings(arguments)
    if settings is None:
        for problem in problems:
            print(f"sandbox: {problem}", file=sys.stderr)
        return 2
    # pydicom warns of the contents of instances; a terminal that cannot show an arrow must not end us.
    warnings.filterwarnings("ignore", module="pydicom")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=NO_ARCHIVE)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--directory", default="sandbox-instances", help="where the instances are kept (default: %(default)s)"
    )
    parser.add_argument("--null", action="store_true", help="check what is sent, but keep nothing")
    parser.add_argument("--root", default="/dicom-web", help="path of the DICOMweb service (default: %(default)s)")
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="KEY=VALUE,…",
        help="misbehave, as in every=3,status=503 or uid=1.2.3,fail=0xA700; repeatable, the first that fits wins",
    )
    parser.add_argument("--username", help="ask for Basic authentication, together with --password")
    parser.add_argument("--password")
    parser.add_argument("--token", help="ask for this bearer token")
    parser.add_argument(
        "--tokens", metavar="FILE", help="ask for one of the bearer tokens in this file, one a line; read each time"
    )
    parser.add_argument("--tls-certificate", help="PEM file: serve https, together with --tls-key")
    parser.add_argument("--tls-key", help="PEM file")
    parser.add_argument("--tls-client-ca", help="PEM file: ask clients for a certificate of this CA")
    parser.add_argument("--quiet", action="store_true", help="no line for each request")
    return parser


def _settings(arguments: argparse.Namespace) -> tuple[Settings | None, list[str]]:
    problems: list[str] = []
    rules: list[Rule] = []
    for text in arguments.rule:
        try:
            rules.append(parse_rule(text))
        except RuleError as error:
            problems.append(f"--rule {text}: {error}")
    if not 0 <= arguments.port <= _MAX_PORT:
        problems.append(f"--port: expected 0 to {_MAX_PORT}, found {arguments.port}")
    root = arguments.root.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", root) or root.split("/")[1:2] == ["sandbox"]:
        problems.append(f"--root: expected a path like /dicom-web outside /sandbox, found {arguments.root!r}")
    if (arguments.username is None) != (arguments.password is None):
        problems.append("--username, --password: expected both or none, found one")
    credentials = []
    if arguments.username is not None and arguments.password is not None:
        credentials.append(basic(arguments.username, arguments.password))
    if arguments.token is not None:
        credentials.append(bearer(arguments.token))
    tls = _tls(arguments, problems)
    if problems:
        return None, problems
    settings = Settings(
        host=arguments.host,
        port=arguments.port,
        directory=None if arguments.null else os.path.abspath(arguments.directory),
        root=root,
        rules=tuple(rules),
        credentials=tuple(credentials),
        tokens=None if arguments.tokens is None else os.path.abspath(arguments.tokens),
        quiet=arguments.quiet,
        tls=tls,
    )
    return settings, []


def _tls(arguments: argparse.Namespace, problems: list[str]) -> ssl.SSLContext | None:
    certificate, key, client_ca = arguments.tls_certificate, arguments.tls_key, arguments.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        problems.append("--tls-certificate, --tls-key: expected both, found one or only --tls-client-ca")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        problems.append(f"--tls-certificate, --tls-key, --tls-client-ca: {error}")
    return context


if __name__ == "__main__":
    sys.exit(main())
