-- why: periodic work (refills, settlements, the audit) is due by the calendar, not by a process that happens to be up. Each
-- period has one row here, whoever finds it and however often; the row says how far its work has come, so that one whose bell
-- was lost, or that nobody finished, is found again.

-- A schedule that was ever seen in schedule.toml.
create table schedule (
    name         text primary key check (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(name) <= 60),
    -- When it was first seen: no period due before is missing.
    began_at     timestamptz not null,
    -- Every period due up to here has been looked at. What is due between here and now was missed by everybody so far.
    looked_until timestamptz not null
);

create table schedule_period (
    schedule   text not null references schedule,
    -- Its name, such as 2026-11. It stands for one moment, so whoever finds it late, twice or elsewhere finds this row.
    period     text not null check (period <> '' and length(period) <= 20),
    -- What it rings: as schedule.toml said when it was found, so that a later edit never changes work that is under way.
    kind       text not null,
    args       jsonb not null check (jsonb_typeof(args) = 'object'),
    due_at     timestamptz not null,
    found_at   timestamptz not null default now(),
    -- Not rung by then: skipped. Null: rung however late.
    give_up_at timestamptz,
    -- due: nobody has rung for it. rung: Redis took the bell. begun: a worker has it. done: its work reported the end.
    -- skipped: the schedule's policy for what was missed left it out.
    state      text not null default 'due' check (state in ('due', 'rung', 'begun', 'done', 'skipped')),
    -- The last bell, and how many there were; more than one: earlier ones came to nothing.
    rung_at    timestamptz,
    rings      integer not null default 0 check (rings >= 0),
    begun_at   timestamptz,
    done_at    timestamptz,
    -- The operator who asked for it by hand, the last one.
    asked_by   text check (asked_by <> ''),
    primary key (schedule, period),
    constraint schedule_period_done_says_when check ((state = 'done') = (done_at is not null)),
    constraint schedule_period_rung_says_when check (state not in ('rung') or rung_at is not null),
    constraint schedule_period_begun_says_when check (state <> 'begun' or begun_at is not null)
);
-- Looked at every few seconds, and nearly always empty.
create index schedule_period_open on schedule_period (due_at) where state in ('due', 'rung', 'begun');

-- Which scheduler looks at the schedules. It only saves the others the work: rows decide, so two that lead at once do no harm.
create table scheduler_lease (
    -- A fingerprint of the list of schedules: a scheduler of another release, with another list, is led by its own.
    list        text primary key,
    holder      uuid not null,
    -- One more with each change of the holder.
    term        bigint not null check (term > 0),
    lease_until timestamptz not null
);
