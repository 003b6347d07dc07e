"""Certificates for a server on loopback."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from integration.servers.base import HOST, ServerFailed, ServerMissing

DAYS = "2"
# All that strict clients want to see, as Python's are from 3.13 on.
SERVER = f"""subjectAltName=IP:{HOST},DNS:localhost
basicConstraints=CA:FALSE
keyUsage=digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
AUTHORITY = "keyUsage=critical,keyCertSign,cRLSign"


def make_certificates(folder: Path) -> None:
    """Write ``ca.crt``, ``server.crt`` and ``server.key``; valid for two days.

    Raises:
        ServerMissing: there is no ``openssl`` program.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ServerMissing("TLS needs the openssl program: `apt-get install openssl`")
    names = folder / "server.ext"
    names.write_text(SERVER)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["-x509", "-days", DAYS, "-subj", "/CN=bananas-test-ca", "-addext", AUTHORITY]
    commands = [
        ["req", *key, *authority, "-keyout", "ca.key", "-out", "ca.crt"],
        ["req", *key, "-subj", f"/CN={HOST}", "-keyout", "server.key", "-out", "server.csr"],
        [
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", DAYS, "-extfile", names.name, "-out", "server.crt"),
        ],
    ]
    for arguments in commands:
        done = subprocess.run([openssl, *arguments], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ServerFailed(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
