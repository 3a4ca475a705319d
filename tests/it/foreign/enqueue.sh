#!/bin/sh
# Rings as a shell does, with redis-cli: a unique job by the product's own script, so that ringing twice queues one.
# Environment: REDIS_URL, PREFIX, BROADCAST_ID, RUN_AT, TRACEPARENT, WRONG (a text that breaks the contract), PUSH_LUA.
set -eu

ready="{$PREFIX}:ready:broadcast-send"
due="{$PREFIX}:due:broadcast-send"
held="{$PREFIX}:unique:broadcast-send:$BROADCAST_ID"
job='{"id": "shell:1", "unique": "'$BROADCAST_ID'", "run_at": "'$RUN_AT'", "max_attempts": 3,
      "args": {"broadcast_id": "'$BROADCAST_ID'"}, "traceparent": "'$TRACEPARENT'"}'

ring() {
    redis-cli -e -u "$REDIS_URL" --eval "$PUSH_LUA" "$ready" "$due" "$held" , "$job" shell:1 30000 ''
}
[ "$(ring)" = 1 ]
[ "$(ring)" = 0 ]
redis-cli -e -u "$REDIS_URL" rpush "$ready" "$WRONG" >/dev/null
redis-cli -e -u "$REDIS_URL" publish "{$PREFIX}:wake" broadcast-send >/dev/null
