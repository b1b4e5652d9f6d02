"""The small shell program that a server of ours runs under, so that it never outlives its daemon for long.

The daemon has the server rewrite a heartbeat file (`DatabaseAdmin.beat`). The watchdog counts the seconds in which
the file did not change and, past the limit, ends the server. It counts its own naps rather than comparing clocks: a
laptop that slept for a night has not lost its daemon. Postgres is told SIGQUIT (immediate shutdown: the data is for
throwing away); a start script that is still under way ignores that and gets SIGKILL next. POSIX sh, because that is
what every image and machine has.
"""

from collections.abc import Sequence

_SCRIPT = r"""
beat=$1 limit=$2 starting=$3 linger=$4 leftover=$5
shift 5
(
    shift "$leftover"
    exec "$@"
) &
child=$!
told=
trap 'told=1; kill -QUIT "$child" 2>/dev/null' INT TERM
(
    trap 'kill "$nap" 2>/dev/null; wait "$nap"; exit 0' TERM
    step=$((limit / 10))
    [ "$step" -ge 1 ] || step=1
    [ "$step" -le 30 ] || step=30
    seen= idle=0 signal=QUIT
    while kill -0 "$child" 2>/dev/null; do
        sleep "$step" &
        nap=$!
        wait "$nap"
        now=
        { read -r now <"$beat"; } 2>/dev/null
        if [ "$now" = "$seen" ]; then idle=$((idle + step)); else idle=0; seen=$now; fi
        most=$limit
        [ -s "$beat" ] || [ "$signal" = KILL ] || most=$starting
        if [ "$idle" -ge "$most" ]; then
            echo "leasedb: no sign of the daemon for $idle s, stopping this server" >&2
            rm -f "$beat" # nobody is there to read the log: do not linger
            kill -"$signal" "$child"
            signal=KILL
        fi
    done
) &
watch=$!
while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break
done
if [ -z "$told" ] && kill -0 "$watch" 2>/dev/null && [ -s "$beat" ] && [ "$linger" -gt 0 ]; then
    echo "leasedb: postgres ended with exit code $code" >&2
    sleep "$linger"
fi
kill "$watch" 2>/dev/null
wait "$watch"
while [ "$leftover" -gt 0 ]; do
    rm -rf "$1"
    shift
    leftover=$((leftover - 1))
done
exit "$code"
"""


def watched(
    command: Sequence[str],
    *,
    heartbeat: str,
    limit: float,
    starting: float,
    linger: int = 0,
    leftover: Sequence[str] = (),
) -> list[str]:
    """Return the command that runs ``command`` under the watchdog.

    Args:
        command: what starts Postgres in the foreground.
        heartbeat: the file that the daemon has the server rewrite.
        limit: seconds without a beat after which the server is stopped.
        starting: seconds until the first beat, if that is more: a server has to be up before it can be told to beat.
        linger: seconds to stay, after a server that had been in service ended by itself, so that its log can be read.
        leftover: the paths to delete when the server has ended.
    """
    limits = (str(max(1, round(seconds))) for seconds in (limit, max(limit, starting)))
    return [
        "sh",
        "-c",
        _SCRIPT,
        "leasedb-watchdog",
        heartbeat,
        *limits,
        str(linger),
        str(len(leftover)),
        *leftover,
        *command,
    ]
