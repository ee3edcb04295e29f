"""The TLS files of a server: read, checked, and read again when they change."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from sidecar.errors import ConfigError, Problem
from sidecar.options import Tls

_log = structlog.get_logger("tls")
# RFC 9113, section 9.2.2, forbids most suites of TLS 1.2; these are allowed. TLS 1.3 has none that is forbidden.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the files held."""

    context: ssl.SSLContext
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


class TlsFiles:
    """The files of one server. Not for two threads at once."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen: object = None

    def read(self) -> Identity:
        """Read the files. Raises `ConfigError` naming the file and the mend."""
        self._seen = self._state()
        return read_identity(self._tls)

    def read_if_changed(self) -> Identity | None:
        """What the files hold now; None when that is what they held before, or when they cannot be used (then it is
        logged, once for each change, and what was read before stays in force).
        """
        state = self._state()
        if state == self._seen:
            return None
        self._seen = state
        try:
            identity = read_identity(self._tls)
        except ConfigError as error:
            for problem in error.problems:
                _log.error("tls_files_rejected", file=problem.place, reason=problem.message)
            return None
        _log.info("tls_files_taken", file=str(self._tls.certificate))
        return identity

    def _state(self) -> object:
        return tuple(_stamp(path) for path in (self._tls.certificate, self._tls.key, self._tls.client_ca) if path)


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def trusting(ca: Path | str | None = None) -> ssl.SSLContext:
    """A client's context that trusts the authorities in the PEM file `ca`, or the system's.

    It asks of a certificate what Envoy asks: from Python 3.13 on the default also refuses the authorities that people
    make with openssl(1), whose certificates have no authority key identifier (RFC 5280, section 4.2.1.1). Raises
    `OSError` when the file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def read_identity(tls: Tls) -> Identity:
    """The files' content and an SSL context of it: TLS 1.2 or newer, ALPN h2 (RFC 9113, sections 3.2 and 9.2).

    Raises `ConfigError` naming the file and the mend.
    """
    certificate = _pem(tls.certificate, b"-----BEGIN CERTIFICATE-----", "certificate")
    key = _pem(tls.key, b"PRIVATE KEY-----", "private key")
    if b"ENCRYPTED" in key:
        raise _error(tls.key, "the private key is encrypted", "write it without a passphrase")
    client_ca = None if tls.client_ca is None else _pem(tls.client_ca, b"-----BEGIN CERTIFICATE-----", "certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise _error(tls.key, f"the key is not that of {tls.certificate}", "write both of one pair") from error
        reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "no reason given"
        text = f"cannot be used with the key in {tls.key}: {reason}"
        raise _error(tls.certificate, text, "write a PEM certificate and its PEM key") from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise _error(tls.client_ca, "holds a certificate that cannot be read", "write it as PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return Identity(context, certificate, key, client_ca)


def _pem(path: Path, mark: bytes, what: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}", f"name a PEM file with the {what}") from error
    if mark not in content:
        raise _error(path, f"holds no {what} in PEM", f"name a PEM file with the {what}")
    return content


def _error(path: Path, message: str, mend: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", message, mend)])
