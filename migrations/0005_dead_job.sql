-- why: a job that nobody will run again by itself must be seen by a person and survive the loss of Redis. Its text is
-- kept as it was pushed (bytea: it may be anything, NUL included), cut at 64 KiB, with its whole length and digest.

create type dead_reason as enum ('malformed', 'exhausted', 'poison', 'rejected');

create table dead_job (
    id bigint generated always as identity primary key,
    -- the tag of the job's first claim: a row that is written twice, by two workers or after a lost answer, is one row
    reference text not null unique,
    kind text not null,
    job_id text,
    reason dead_reason not null,
    error text not null,
    attempts integer not null check (attempts >= 0),
    crashes integer not null check (crashes >= 0),
    snoozes integer not null check (snoozes >= 0),
    raw bytea not null check (octet_length(raw) <= 65536),
    raw_length bigint not null check (raw_length >= octet_length(raw)),
    raw_sha256 bytea not null check (octet_length(raw_sha256) = 32),
    first_at timestamptz not null,
    died_at timestamptz not null,
    replayed_at timestamptz
);

-- why: lists and counts look at what is still to be dealt with, by kind, newest first
create index dead_job_open on dead_job (kind, id desc) where replayed_at is null;
