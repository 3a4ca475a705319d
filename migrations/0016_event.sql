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
