#!/usr/bin/env bash
# Prints CHANGELOG.md's section of the version that a tag names; an error if the project has another version:
#
#     scripts/release_notes.sh v0.1.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=${1#v}
if ! grep -qxF "version = \"$version\"" pyproject.toml; then
    echo "release_notes.sh: pyproject.toml is not at version $version" >&2
    exit 1
fi
# The first heading is the version's: `## 0.1.0 (date)`. While it says "unreleased", there is nothing to release.
heading=$(grep -m 1 '^## ' CHANGELOG.md)
if [[ $heading != "## $version "* || $heading == *unreleased* ]]; then
    echo "release_notes.sh: the changelog begins with '$heading', expected '## $version (date)'" >&2
    exit 1
fi
awk '/^## / { found += 1; next } found == 1' CHANGELOG.md
