#!/bin/sh
# serve (the default) builds the engine where needed, verifies it and answers on EDGEC_PORT;
# check, build, verify, bench, run and info are subcommands of edgec_engine; anything else is run as it is.
set -eu
bundle="${EDGEC_BUNDLE:-/opt/edgec/bundle}"
port="${EDGEC_PORT:-8000}"
export PYTHONPATH="$bundle/device${PYTHONPATH:+:$PYTHONPATH}"
command="${1:-serve}"
[ "$#" -eq 0 ] || shift
case "$command" in
serve)
    exec python3 -B -m edgec_engine serve "$bundle" --host 0.0.0.0 --port "$port" "$@"
    ;;
health)
    exec python3 -B -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/v2/health/ready', timeout=4)"
    ;;
check | build | verify | bench | run | info)
    exec python3 -B -m edgec_engine "$command" "$bundle" "$@"
    ;;
*)
    exec "$command" "$@"
    ;;
esac
