#!/bin/sh
# Start a fresh Coffer for one measurement: coffer_peer.sh DIR PORT HTTP_PORT AE_TITLE MOVE_HOST MOVE_PORT
# The settings are the defaults a user gets, except for ports, names and folders.
set -eu
dir=$1 port=$2 http=$3 aet=$4 movehost=$5 moveport=$6
coffer=${COFFER:-$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/coffer}
mkdir -p -m 700 "$dir/key"
export XDG_STATE_HOME="$dir/state"
cat >"$dir/coffer.toml" <<END
archive = "$dir/archive"

[dimse]
ae_title = "$aet"
host = "127.0.0.1"
port = $port

[http]
host = "127.0.0.1"
port = $http

[keys]
provider = "file"
key_file = "$dir/key/coffer.key"

[[peers]]
ae_title = "MOVEDST"
host = "$movehost"
port = $moveport
END
"$coffer" --config "$dir/coffer.toml" init --yes-same-disk >/dev/null
exec "$coffer" --config "$dir/coffer.toml" serve
