"""The site's own certificate authority (CA), and the certificate of its router.

``HCAM_HOME/access`` on the router's machine has ``ca.key`` and ``ca.pem``, ``router.key`` and
``router.pem``. Key files contain ``ca.pem``; their users trust no other CA.
"""

import platform
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..host.home import writable_or_explain
from .access import AccessError, write_secret

CA_LASTS = timedelta(days=3650)
CA_RENEWED = timedelta(days=1100)
"""Renew the CA's certificate when it ends within this time. It must outlast the router's."""
ROUTER_LASTS = timedelta(days=825)
"""Apple's programs, among others, refuse a server's certificate that lasts longer."""
ROUTER_RENEWED = timedelta(days=275)
BACKDATED = timedelta(hours=1)
"""Clocks of clients may be slow by this much."""


def make_missing(folder: Path, names: Collection[str], now: datetime | None = None) -> str:
    """Make missing files; renew certificates that end soon; return the CA's in PEM.

    ``names`` are names and addresses of the router. A renewed CA has the key and the name of the
    old one, which stays valid until it ends, so key files need not be replaced at once. Raises
    AccessError if a file is unusable, HcamError if a file cannot be written.
    """
    now = now or datetime.now(UTC)
    with writable_or_explain(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, key = _authority(folder, now)
    path = folder / "router.pem"
    old = read(path) if path.exists() and (folder / "router.key").exists() else None
    if (
        old is None
        or old.not_valid_after_utc - now < ROUTER_RENEWED
        or names_of(old) != {*names}
        or not is_signed_by(old, ca)
    ):
        own = ec.generate_private_key(ec.SECP256R1())
        made = _signed(
            _subject("hcam router"), own.public_key(), ca.subject, key, now=now, names=names
        )
        write_secret(folder / "router.key", _key_as_text(own))
        write_secret(path, as_text(made))
    return as_text(ca)


def _authority(folder: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the CA's certificate and key; make or renew them if necessary."""
    path, key_path = folder / "ca.pem", folder / "ca.key"
    old = read(path) if path.exists() else None
    if key_path.exists():
        key = _read_key(key_path)
    elif old:
        raise AccessError(
            f"{key_path} is missing: restore it from a backup, or remove {path}, start the router "
            "again, and replace all key files on other machines"
        )
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_secret(key_path, _key_as_text(key))
    if old and old.not_valid_after_utc - now >= CA_RENEWED:
        return old, key
    subject = old.subject if old else _subject(f"hcam CA, {platform.node()}, {now:%Y-%m-%d}")
    ca = _signed(subject, key.public_key(), subject, key, now=now)
    write_secret(path, as_text(ca))
    return ca, key


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _signed(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    names: Collection[str] | None = None,
) -> x509.Certificate:
    """Return a certificate for a server with these names, or for a CA if none."""
    is_ca = names is None
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usage |= {"key_cert_sign": True, "crl_sign": True} if is_ca else {"digital_signature": True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + (CA_LASTS if is_ca else ROUTER_LASTS))
        .add_extension(x509.BasicConstraints(is_ca, 0 if is_ca else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    if names is not None:
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        alternatives = x509.SubjectAlternativeName([_general(name) for name in sorted({*names})])
        builder = builder.add_extension(server, critical=False)
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# --- reading certificates -------------------------------------------------------------------


def read(path: Path) -> x509.Certificate:
    """Return the certificate in a file. Raise AccessError if it is unusable."""
    try:
        return parsed(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise AccessError(f"{path} is not a usable certificate: {error}") from None


def parsed(text: str) -> x509.Certificate:
    """Parse PEM. Raise ValueError if it is invalid."""
    return x509.load_pem_x509_certificate(text.encode())


def as_text(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def name_of(certificate: x509.Certificate) -> str:
    """Return the subject's name in a certificate."""
    return ", ".join(str(one.value) for one in certificate.subject)


def names_of(certificate: x509.Certificate) -> set[str]:
    """Return the names and addresses of a server's certificate."""
    kind = x509.SubjectAlternativeName
    found = certificate.extensions.get_extension_for_class(kind).value
    return {str(one.value) for one in found}


def is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Return whether a CA has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("its kind is wrong")
    except (OSError, ValueError, TypeError) as error:
        raise AccessError(f"{path} is not a usable private key: {error}") from None
    return key


def _key_as_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")
