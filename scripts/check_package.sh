#!/usr/bin/env bash
# Builds the sdist and the wheel, looks into both, installs the wheel into an empty environment
# outside the checkout and runs a job there.
#
#     scripts/check_package.sh [PYTHON]     PYTHON has `build` and `twine`; default .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."

checkout=$PWD
python=${1:-.venv/bin/python}
case $python in
    /*) ;;
    */*) python=$checkout/$python ;;
esac

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

fail() {
    echo "check_package: $*" >&2
    exit 1
}

echo "== build"
"$python" -m build --outdir "$temp/dist" "$checkout" >"$temp/build.log" 2>&1 || {
    cat "$temp/build.log" >&2
    fail "the build failed"
}
"$python" -m twine --no-color check --strict "$temp"/dist/*

echo "== contents"
wheel=$(echo "$temp"/dist/*.whl)
sdist=$(echo "$temp"/dist/*.tar.gz)
[ -f "$wheel" ] && [ -f "$sdist" ] || fail "expected one wheel and one sdist"
"$python" -m zipfile -l "$wheel" | awk 'NR > 1 { print $1 }' >"$temp/wheel.txt"
# The sdist has one top folder, name-version, which is cut off.
tar -tzf "$sdist" | sed 's,^[^/]*/,,' >"$temp/sdist.txt"

for list in wheel sdist; do
    for package in bananas bananas_core bananas_brokers bananas_plugins; do
        for file in py.typed __init__.py; do
            grep -qx "$package/$file" "$temp/$list.txt" || fail "the $list has no $package/$file"
        done
    done
    grep -q '^bananas_core/testing/conformance/.*\.py$' "$temp/$list.txt" ||
        fail "the $list lacks the conformance suite"
    if grep -E '^(tests|integration|examples|benchmarks|docs|scripts|\.venv|\.git/|\.ci)' \
        "$temp/$list.txt" || grep -E '(__pycache__|\.pyc$|\.db(-wal|-shm)?$)' "$temp/$list.txt"; then
        fail "the $list has the files above, which are not for users"
    fi
done
# What git tracks in the packages is what the wheel has: a file that .gitignore hides, or data
# that the build forgets, would show up only at a user's.
git ls-files --cached --others --exclude-standard -- \
    bananas bananas_core bananas_brokers bananas_plugins |
    while read -r file; do
        [ ! -e "$file" ] || grep -qxF "$file" "$temp/wheel.txt" || fail "the wheel lacks $file"
    done

echo "== install and run a job"
# Nothing of the checkout or of the caller's environment may help.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
for name in $(compgen -e BANANAS_ || true); do unset "$name"; done
mkdir "$temp/run"
cp scripts/wheel_smoke.py "$temp/run/"
cd "$temp/run"
"$python" -m venv "$temp/venv"
"$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
"$temp/venv/bin/python" -m pip check --disable-pip-version-check
"$temp/venv/bin/python" wheel_smoke.py
