-- why: a frontend must hear that a balance ran low, a refill or a top-up arrived or a broadcast ended, without looking at
-- every shop again and again; and what an audit found must be kept, for the figure in the metrics and for who asks later.
-- An event is written in the transaction of the fact it tells, so there is never one without the other.

create table event (
    -- The transaction that wrote it. Ids are given out before transactions commit, so a reader that goes by them alone
    -- passes over what commits late; going by the transaction, and only as far as every earlier one has ended, it cannot.
    tx      xid8 not null default pg_current_xact_id(),
    id      bigint generated always as identity,
    at      timestamptz not null default now(),
    -- No foreign key: a month's refill writes one for every shop, each beside a ledger entry that has it.
    shop_id uuid not null,
    kind    text not null check (kind in ('balance_low', 'refill_done', 'top_up_settled', 'broadcast_finished')),
    -- What it is about: the period, the order or the broadcast.
    subject text not null,
    -- Numbers and names of states; never a customer, an address or a text somebody wrote.
    data    jsonb not null default '{}' check (jsonb_typeof(data) = 'object'),
    primary key (tx, id)
);
-- A shop is told once a period that its balance is low.
create unique index event_balance_low_once on event (shop_id, subject) where kind = 'balance_low';

-- Tells a fact in the transaction that makes it true.
create function emit_event(p_shop uuid, p_kind text, p_subject text, p_data jsonb) returns void language sql as $$
    insert into event (shop_id, kind, subject, data) values (p_shop, p_kind, p_subject, p_data)
    on conflict (shop_id, subject) where kind = 'balance_low' do nothing
$$;

-- The next events after a cursor, oldest first, at most 1,000; '' stands before the oldest that is kept. Nothing that
-- commits later ever comes before what was returned here: only transactions older than every one still open are read.
-- The last row's cursor goes into the next call; no row: nothing new, ask again with the same cursor.
create function read_events(p_after text, p_limit int default 100)
returns table (cursor text, at timestamptz, shop_id uuid, kind text, subject text, data jsonb)
language plpgsql stable as $$
declare v_tx xid8 := '0'; v_id bigint := 0;
begin
    if p_after is null or p_after !~ '^([0-9]{1,19}-[0-9]{1,18})?$' then
        raise exception 'an event cursor is what read_events returned, or an empty text for the beginning'
            using errcode = 'invalid_parameter_value';
    end if;
    if p_after <> '' then
        v_tx := split_part(p_after, '-', 1)::xid8;
        v_id := split_part(p_after, '-', 2)::bigint;
    end if;
    -- No such cursor was given out by this database: it was restored from a dump, and counts anew.
    if v_tx > pg_snapshot_xmax(pg_current_snapshot()) then
        raise exception 'the event cursor % is ahead of this database', p_after
            using errcode = 'invalid_parameter_value', hint = 'The database was restored from a dump: begin again with an empty cursor.';
    end if;
    return query
        select e.tx::text || '-' || e.id, e.at, e.shop_id, e.kind, e.subject, e.data
          from event e
         where (e.tx, e.id) > (v_tx, v_id) and e.tx < pg_snapshot_xmin(pg_current_snapshot())
         order by e.tx, e.id
         limit least(greatest(p_limit, 1), 1000);
end $$;

-- The cursor for who wants to hear only what happens from now on.
create function events_from_now() returns text language sql stable as $$
    select pg_snapshot_xmin(pg_current_snapshot())::text || '-0'
$$;

-- What triggers must know of the configuration; written by `carillon migrate` and by every scheduler that starts.
create table event_setting (
    is_only             boolean primary key default true check (is_only),
    -- A balance is low below this part of the allowance its period began with, in percent; 0: never.
    balance_low_percent int not null check (balance_low_percent between 0 and 100)
);
insert into event_setting (balance_low_percent) values (20);

-- A balance is looked at when tokens are set aside, when a period begins and when a person corrects it: a capture spends
-- what was set aside before. Lies on the ledger, so that whoever posts cannot forget it. For a whole statement and not for
-- each row, because a month's refill posts for every shop at once; what a capture pays is one look at its own entry.
-- `grant:2026-11` begins the period; what is granted in the middle of one has a longer operation and is not a refill.
create function ledger_entry_tells() returns trigger language plpgsql as $$
begin
    if not exists (select from added where kind in ('hold', 'adjust', 'grant', 'top_up')) then
        return null;
    end if;
    insert into event (shop_id, kind, subject, data)
    select shop_id, case kind when 'grant' then 'refill_done' else 'top_up_settled' end,
           substr(operation, length(kind) + 2),
           jsonb_build_object(case kind when 'grant' then 'granted' else 'tokens' end, allowance + extra, 'available',
               allowance_after - held_allowance_after + extra_after - held_extra_after)
      from added where kind = 'top_up' or (kind = 'grant' and split_part(operation, ':', 3) = '');
    insert into event (shop_id, kind, subject, data)
    select n.shop_id, 'balance_low', n.period, jsonb_build_object('granted', n.granted, 'available', n.available)
      from (select shop_id, substr(operation, 7) as period, allowance as granted,
                   allowance_after - held_allowance_after + extra_after - held_extra_after as available
              from added where kind = 'grant' and split_part(operation, ':', 3) = ''
            union all
            select e.shop_id, a.allowance_period, g.allowance,
                   e.allowance_after - e.held_allowance_after + e.extra_after - e.held_extra_after
              from added e
              join token_account a on a.shop_id = e.shop_id
              join ledger_entry g on g.shop_id = a.shop_id and g.operation = 'grant:' || a.allowance_period
             where e.kind in ('hold', 'adjust')) n,
           event_setting s
     where n.available * 100 < n.granted * s.balance_low_percent
    on conflict (shop_id, subject) where kind = 'balance_low' do nothing;
    return null;
end $$;
create trigger ledger_entry_tells after insert on ledger_entry
    referencing new table as added for each statement execute function ledger_entry_tells();

-- Whatever ends a broadcast, ends it here: the last settle, a plan that fails, a cancel, an empty audience. The counts are
-- those of this moment: receipts that come later change the deliveries, not the event.
create function broadcast_tells() returns trigger language plpgsql as $$
begin
    perform emit_event(new.shop_id, 'broadcast_finished', new.id::text, jsonb_strip_nulls(jsonb_build_object(
        'state', new.state,
        -- The name of the reason alone: its sentence may quote what a merchant wrote.
        'reason', substring(new.state_reason from '^[a-z_]+'),
        'missing_tokens', new.missing_tokens,
        'charged_tokens', (select captured_allowance + captured_extra - refunded_allowance - refunded_extra
                             from token_hold where broadcast_id = new.id),
        'deliveries', (select jsonb_object_agg(outcome, n)
                         from (select outcome, sum(n) as n from tally
                                where broadcast_id = new.id and stage = 'send' group by outcome) t))));
    return null;
end $$;
create trigger broadcast_tells after update of state, finished_at on broadcast for each row
    when (old.finished_at is null and new.finished_at is not null) execute function broadcast_tells();

-- Forgets events older than this, at most 10,000 a call; returns how many. Transactions are numbered as they begin, so the
-- oldest stand first and nothing else is read.
create function forget_events(p_older interval) returns bigint language sql as $$
    with old as (select tx, id from event order by tx, id limit 10000),
    gone as (delete from event e using old
              where e.tx = old.tx and e.id = old.id and e.at < now() - p_older returning 1)
    select count(*) from gone
$$;

-- What audits found, one row each. `period` names the scheduled run, so that a job which comes twice audits once; an audit
-- somebody asked for has none.
create table audit_report (
    id          bigint generated always as identity primary key,
    period      text unique check (period <> ''),
    -- Postgres' time of the snapshot that was looked at.
    taken_at    timestamptz not null,
    finished_at timestamptz not null default clock_timestamp(),
    -- Comparisons made, those that failed, and by how much in all.
    examined    bigint not null check (examined >= 0),
    broken      bigint not null check (broken >= 0),
    off_by      bigint not null check (off_by >= 0),
    -- Every check as `carillon audit --json` shows it, the first rows that broke one included.
    checks      jsonb not null check (jsonb_typeof(checks) = 'array')
);
