#!/bin/sh
# serve (the default) answers on EDGEC_PORT; anything else is run as it is.
set -eu
bundle="${EDGEC_BUNDLE:-/opt/edgec/bundle}"
port="${EDGEC_PORT:-8000}"
command="${1:-serve}"
[ "$#" -eq 0 ] || shift
case "$command" in
serve)
    exec python -B -m edgec_runtime serve "$bundle" --host 0.0.0.0 --port "$port" "$@"
    ;;
health)
    exec python -B -m edgec_runtime health "$bundle" --address "http://127.0.0.1:$port"
    ;;
*)
    exec "$command" "$@"
    ;;
esac
