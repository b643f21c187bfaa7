"""Certificates made by a test, for servers and clients of its own."""

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.redis_server import Certificate

HERE: Final = ("localhost", "127.0.0.1")
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """Issues certificates into `path`; its own is there too, as `<name>.pem`."""

    path: Path
    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)

    def __post_init__(self) -> None:
        own = self._certify(self.name, self.key.public_key(), (), _DAY, is_authority=True)
        self.file.write_bytes(own.public_bytes(Encoding.PEM))

    @property
    def file(self) -> Path:
        return self.path / f"{self.name}.pem"

    def issue(self, name: str, *, hosts: tuple[str, ...] = HERE, lasts: timedelta = _DAY) -> Certificate:
        """Issue a certificate for `hosts`, which are names and addresses. It `lasts` from now; negative: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, private = self.path / f"{name}.crt", self.path / f"{name}.key"
        certificate.write_bytes(self._certify(name, key.public_key(), hosts, lasts).public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Certificate(certificate, private, self.file)

    def _certify(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        hosts: tuple[str, ...],
        lasts: timedelta,
        *,
        is_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(_name(self.name), _name(name), key, x509.random_serial_number())
            .not_valid_before(now - 3 * _DAY)
            .not_valid_after(now + lasts)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
