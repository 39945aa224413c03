"""Makes the keys and certificates of one cluster, of this package or of the tests' own.

They are made anew for each one and trusted by nothing else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# The names by which clients on this machine, and later pods, reach the server.
DNS_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
LIFETIME = timedelta(days=2)


@dataclass(frozen=True)
class ClusterCertificates:
    """Paths of PEM files."""

    authority: Path
    """Who is trusted."""
    server_certificate: Path
    """The API server's own."""
    server_key: Path
    kubelet_client_certificate: Path
    """What the API server shows to kubelets, when it asks them for logs."""
    kubelet_client_key: Path
    token_public_key: Path
    """Of the pair that signs service accounts' tokens."""
    token_private_key: Path


def make_certificates(folder: Path, *, addresses: tuple[str, ...]) -> ClusterCertificates:
    """Write a new authority, a server certificate for `addresses`, and a token key pair."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    client_key = ec.generate_private_key(ec.SECP256R1())
    token_key = ec.generate_private_key(ec.SECP256R1())
    authority = self_signed_authority(authority_key)
    server = server_certificate(server_key, authority, authority_key, addresses)
    client = client_certificate(client_key, authority, authority_key)
    return ClusterCertificates(
        authority=write(folder / "ca.crt", certificate_pem(authority)),
        server_certificate=write(folder / "apiserver.crt", certificate_pem(server)),
        server_key=write(folder / "apiserver.key", private_pem(server_key)),
        kubelet_client_certificate=write(folder / "kubelet-client.crt", certificate_pem(client)),
        kubelet_client_key=write(folder / "kubelet-client.key", private_pem(client_key)),
        token_public_key=write(folder / "service-accounts.pub", public_pem(token_key)),
        token_private_key=write(folder / "service-accounts.key", private_pem(token_key)),
    )


def self_signed_authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return a certificate that may sign others."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-cluster-ca")])
    return (
        new_certificate(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def server_certificate(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    addresses: tuple[str, ...],
) -> x509.Certificate:
    """Return the API server's certificate, for its names and IP addresses."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in DNS_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    return (
        new_certificate(subject, authority.subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def client_certificate(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return the certificate by which kubelets know the API server."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver-kubelet-client")])
    return (
        new_certificate(subject, authority.subject, key.public_key())
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def new_certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    """Return an unsigned certificate, valid from an hour ago: clocks differ."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the private key as unencrypted PEM, in the form Kubernetes reads."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half as PEM."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def write(path: Path, content: bytes) -> Path:
    """Write a file that only its owner reads, and return where it lies."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path
