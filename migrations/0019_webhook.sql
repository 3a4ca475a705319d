-- why: what a provider tells us must be on disk before it is acknowledged, exactly as it came, and be worked through once
-- however often, late or out of order it is told. The raw request is written once and never changed; what is still to be
-- done with it is a small row beside it, so that working through a million webhooks rewrites none of them.

-- The account's id with its provider (a page, a number), as credentials have it; '' where they have none. Null until a worker
-- needed it: Meta tells one address of many accounts, and credentials are sealed.
alter table sender add column account text;
create index sender_account on sender (channel, account) where account <> '';

-- One request of a provider. Partitioned by day of its id, a UUIDv7, so that old ones go by dropping a table.
create table webhook (
    id          uuid not null primary key,
    -- The sender it was addressed to. No foreign key: each insert would lock the sender's row against its own neighbours.
    sender_id   uuid not null,
    provider    text not null check (provider ~ '^[a-z]{1,20}$'),
    -- What its signature is looked for in, when nobody verified it yet, and its content type. Names in small letters.
    headers     jsonb not null default '{}' check (jsonb_typeof(headers) = 'object'),
    -- The query of the address it was sent to, without the question mark and without what is secret.
    query       text not null default '',
    -- The bytes the signature is about.
    body        bytea not null,
    -- Whether the signature was found right before it was stored; if not, the worker looks.
    is_verified boolean not null,
    received_at timestamptz not null default now()
) partition by range (id);

-- What is still to be done: a row while a webhook waits, and while it is put aside as failed; none once it is done.
create table webhook_pending (
    webhook_id uuid primary key,
    -- Before this time somebody has a bell for it, or has it in hand; after it, whoever looks may take it.
    due_at     timestamptz not null,
    -- Times it was taken and did not end.
    attempts   int not null default 0,
    -- Nobody takes it any more by itself; `reason` says why. A person replays it.
    failed_at  timestamptz,
    -- Why the last attempt came to nothing; never what the body says.
    reason     text,
    check (failed_at is null or reason is not null)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
create index webhook_pending_due on webhook_pending (due_at) where failed_at is null;
create index webhook_pending_failed on webhook_pending (failed_at) where failed_at is not null;

-- A webhook with its state: `stored` waits, `failed` waits for a person, `done` is done.
create view webhook_with_state as
select w.*, case when p.webhook_id is null then 'done' when p.failed_at is null then 'stored' else 'failed' end as state,
       p.reason, coalesce(p.attempts, 0) as attempts, p.due_at
  from webhook w left join webhook_pending p on p.webhook_id = w.id;

-- Makes the partition of the day p_at falls into (UTC). Harmless when it is there.
create function ensure_webhook_day(p_at timestamptz) returns void language plpgsql as $$
declare v_from timestamptz := date_trunc('day', p_at at time zone 'UTC') at time zone 'UTC';
        v_to timestamptz := (date_trunc('day', p_at at time zone 'UTC') + interval '1 day') at time zone 'UTC';
        v_table text := 'webhook' || to_char(p_at at time zone 'UTC', '_YYYY_MM_DD');
begin
    if to_regclass(v_table) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('ensure_partitions', 0));
    execute format('create table if not exists %I partition of webhook for values from (%L) to (%L)',
        v_table, broadcast_id_floor(v_from), broadcast_id_floor(v_to));
end $$;
select ensure_webhook_day(now() + d * interval '1 day') from generate_series(0, 3) as d;

-- Stores requests and returns their ids in the same order. What is due is rung for by whoever stores, after the commit;
-- p_bell_secs later the scheduler rings.
create function store_webhooks(p_senders uuid[], p_providers text[], p_headers jsonb[], p_queries text[], p_bodies bytea[],
    p_verified boolean[], p_bell_secs float8) returns setof uuid language plpgsql as $$
begin
    -- Days ahead are made by the scheduler; where none ran for days, nothing is refused for it.
    perform ensure_webhook_day(clock_timestamp());
    return query
        with request as materialized (
            select new_broadcast_id() as id, r.* from unnest(p_senders, p_providers, p_headers, p_queries, p_bodies, p_verified)
                with ordinality as r(sender_id, provider, headers, query, body, is_verified, nr)),
        stored as (
            insert into webhook (id, sender_id, provider, headers, query, body, is_verified)
            select id, sender_id, provider, headers, query, body, is_verified from request),
        waiting as (
            insert into webhook_pending (webhook_id, due_at) select id, now() + p_bell_secs * interval '1 second' from request)
        select id from request order by nr;
end $$;

-- For a frontend that takes webhooks itself: stores one in the caller's transaction and returns its id, for the bell after
-- the commit. The worker verifies it, so p_headers must hold the header of the signature.
create function store_webhook(p_sender uuid, p_provider text, p_headers jsonb, p_body bytea, p_query text default '')
returns uuid language plpgsql as $$
declare v_headers jsonb; v_id uuid;
begin
    if not exists (select from sender where id = p_sender) then
        raise exception 'there is no sender %', p_sender using errcode = 'foreign_key_violation';
    end if;
    if octet_length(p_body) > 8 * 1024 * 1024 then
        raise exception 'a webhook has at most 8 MiB, this one has %', octet_length(p_body) using errcode = 'program_limit_exceeded';
    end if;
    select coalesce(jsonb_object_agg(lower(h.key), h.value), '{}') into v_headers
      from jsonb_each(coalesce(p_headers, '{}')) h where jsonb_typeof(h.value) = 'string';
    select store_webhooks into strict v_id
      from store_webhooks(array[p_sender], array[p_provider], array[v_headers], array[coalesce(p_query, '')], array[p_body], array[false], 5);
    return v_id;
end $$;

-- Takes up to p_limit webhooks nobody has in hand, for p_lease_secs. One that was taken before and did not end is taken
-- alone, so that what kills a worker is blamed for it and its neighbours are not.
create function take_due_webhooks(p_limit int, p_lease_secs float8) returns setof uuid language plpgsql as $$
begin
    return query
        update webhook_pending p set attempts = p.attempts + 1, due_at = now() + p_lease_secs * interval '1 second'
         where p.webhook_id = any (array(
            select f.webhook_id
              from (select d.webhook_id, d.attempts, row_number() over (order by d.due_at) as nr,
                           bool_or(d.attempts > 0) over (order by d.due_at) as suspect
                      from (select q.webhook_id, q.attempts, q.due_at from webhook_pending q
                             where q.failed_at is null and q.due_at <= now()
                             order by q.due_at limit p_limit for update skip locked) d) f
             where nr = 1 or not suspect))
        returning p.webhook_id;
end $$;

-- Puts webhooks back to be worked through (again): those failed, or done, whose raw request is still kept. How many.
create function replay_webhooks(p_ids uuid[]) returns bigint language sql as $$
    with again as (
        insert into webhook_pending (webhook_id, due_at)
        select w.id, now() + interval '5 seconds' from webhook w where w.id = any (p_ids)
        on conflict (webhook_id) do update set due_at = excluded.due_at, attempts = 0, failed_at = null, reason = null
        returning 1)
    select count(*) from again
$$;

-- Forgets requests that came more than p_days ago, a whole day at a time; how many days went. A day that still holds one
-- nobody has worked through stays, and the alert about it is older than that.
create function forget_webhooks(p_days int) returns bigint language plpgsql as $$
declare v_day record; v_gone bigint := 0;
        v_limit text := 'webhook' || to_char((now() - p_days * interval '1 day') at time zone 'UTC', '_YYYY_MM_DD');
begin
    -- Whoever waits for this lock keeps every webhook behind it waiting: better to come again in an hour.
    set local lock_timeout = '2s';
    for v_day in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
                  where i.inhparent = 'webhook'::regclass and c.relname < v_limit order by 1
    loop
        continue when exists (
            select from webhook_pending p
             where p.failed_at is null
               and p.webhook_id >= broadcast_id_floor(to_date(right(v_day.relname, 10), 'YYYY_MM_DD')::timestamp at time zone 'UTC')
               and p.webhook_id < broadcast_id_floor((to_date(right(v_day.relname, 10), 'YYYY_MM_DD') + 1)::timestamp at time zone 'UTC'));
        execute format('drop table %I', v_day.relname);
        v_gone := v_gone + 1;
    end loop;
    delete from webhook_pending p
     where p.failed_at is not null and p.failed_at < now() - p_days * interval '1 day'
       and not exists (select from webhook w where w.id = p.webhook_id);
    return v_gone;
end $$;
