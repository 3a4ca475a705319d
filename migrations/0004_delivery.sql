-- why: lanes, slices, deliveries and their results, written for throughput: planned rows never change, a claim touches
-- one slice row, results are appended once, counters are kept and never counted, hot rows come last.

create type delivery_state as enum ('queued', 'sending', 'accepted', 'delivered', 'read', 'failed', 'skipped',
    'cancelled', 'expired', 'unknown');

-- The work of one broadcast on one sender. A worker works only while it holds the lane's lease.
create table lane (
    broadcast_id uuid not null references broadcast,
    sender_id    uuid not null references sender,
    shop_id      uuid not null references shop,
    channel      channel not null,
    tokens       int not null,
    planned      bigint not null,
    -- Deliveries whose sending has not ended.
    remaining    bigint not null check (remaining >= 0),
    due_at       timestamptz not null default now(),
    lease_until  timestamptz,
    epoch        int not null default 0,
    -- Failures in a row that say more of the sender than of a recipient; > 0 means probing with one message.
    strikes      int not null default 0,
    -- A bell is out for this lane since then.
    rung_at      timestamptz,
    served_at    timestamptz,
    primary key (broadcast_id, sender_id),
    unique (broadcast_id, channel)
) with (fillfactor = 50);
create index lane_to_do on lane (shop_id, due_at) where remaining > 0;

-- Planned work: one message to one customer on one channel. Never updated. A slice owns a range of its customers.
create table delivery (
    broadcast_id uuid not null,
    customer_id  bigint not null,
    address_id   bigint not null,
    twin_of      bigint,
    channel      channel not null,
    primary key (broadcast_id, channel, customer_id)
) partition by range (broadcast_id);
-- One message per (broadcast, sender, address): only twins can share one, so only they pay for the index.
create unique index delivery_once_per_address on delivery (broadcast_id, channel, twin_of) where twin_of is not null;

-- Customers of the audience who get nothing, each with the one reason.
create table skipped_customer (
    broadcast_id uuid not null,
    customer_id  bigint not null,
    reason       text not null,
    primary key (broadcast_id, customer_id)
) partition by range (broadcast_id);

create table slice (
    broadcast_id     uuid not null,
    channel          channel not null,
    slice_no         int not null,
    first_customer   bigint not null,
    last_customer    bigint not null,
    planned          int not null check (planned > 0),
    remaining        int not null check (remaining >= 0),
    state            text not null default 'planned' check (state in ('planned', 'sending', 'settled')),
    -- Raised by every claim: a settle under an older epoch writes nothing.
    epoch            int not null default 0,
    lease_until      timestamptz,
    -- The turn on the lane that claimed it; that turn renews its lease.
    lane_epoch       int not null default 0,
    due_at           timestamptz not null default now(),
    -- Members whose sending was begun and whose outcome is not written: the intent, committed before the socket write.
    in_flight        bigint[],
    -- Counts intents; part of the multicast key, so that a new membership never reuses a key.
    -- Negative: the members are sent to one by one, under keys of their own, because their multicast was refused. A
    -- repeat must do the same, or who has the message already gets it again under the multicast's key.
    intent_no        int not null default 0,
    first_attempt_at timestamptz,
    -- When the members' names were read: a later window of the claim carries the names of then.
    claimed_at       timestamptz,
    -- Repeats of the intent in flight; sets the back-off.
    repeats          int not null default 0,
    settles          int not null default 0,
    primary key (broadcast_id, channel, slice_no),
    constraint sending_is_leased check ((state = 'sending') = (lease_until is not null)),
    constraint settled_is_empty check ((state = 'settled') = (remaining = 0)),
    constraint intent_has_a_time check (in_flight is null or first_attempt_at is not null)
) partition by range (broadcast_id);
-- Short-lived and read at once: not worth the time to compress.
alter table slice alter column in_flight set storage external;
create index slice_to_do on slice (broadcast_id, channel, slice_no) where state <> 'settled';

-- How sending one delivery ended. Appended once; only receipts change it later.
create table delivery_result (
    broadcast_id   uuid not null,
    customer_id    bigint not null,
    settled_at     timestamptz not null default now(),
    changed_at     timestamptz,
    channel        channel not null,
    state          delivery_state not null,
    charged_tokens int not null,
    -- Error class of a failure, or why it was skipped or is unknown.
    reason         text,
    -- The provider's code and message id.
    code           text,
    provider_id    text,
    primary key (broadcast_id, channel, customer_id),
    constraint sending_has_ended check (state not in ('queued', 'sending')),
    constraint only_arrived_is_charged check (charged_tokens >= 0
        and (charged_tokens = 0 or state in ('accepted', 'delivered', 'read'))),
    constraint not_arrived_has_a_reason check (state in ('accepted', 'delivered', 'read', 'cancelled', 'expired')
        or reason is not null)
) partition by range (broadcast_id);

-- The allowed moves after sending has ended, the same table as src/delivery/state.rs; a test compares them.
create function delivery_may_move(p_from delivery_state, p_to delivery_state) returns boolean language sql immutable as $$
    select case p_from
        when 'accepted'  then p_to in ('delivered', 'read', 'failed')
        when 'delivered' then p_to in ('read', 'failed')
        when 'unknown'   then p_to in ('accepted', 'delivered', 'read', 'failed')
        else false end
$$;
create function delivery_guard_state() returns trigger language plpgsql as $$
begin
    if not delivery_may_move(old.state, new.state) then
        raise exception 'a delivery cannot go from % to %', old.state, new.state
            using errcode = 'check_violation', constraint = 'delivery_state_moves';
    end if;
    return new;
end $$;
create trigger delivery_state_moves before update of state on delivery_result
    for each row when (old.state is distinct from new.state) execute function delivery_guard_state();

-- Counters, kept by whoever writes the rows. stage `plan`: customers by skip reason; stage `send`: deliveries by outcome.
create table tally (
    broadcast_id uuid not null,
    stage        text not null check (stage in ('plan', 'send')),
    channel      channel,
    outcome      delivery_state not null,
    reason       text,
    n            bigint not null,
    unique nulls not distinct (broadcast_id, stage, channel, outcome, reason)
) with (fillfactor = 50);

create view delivery_with_state as
select d.broadcast_id, d.channel, d.customer_id, d.address_id,
       coalesce(r.state, case when d.customer_id = any (s.in_flight) then 'sending' else 'queued' end::delivery_state) as state,
       r.reason, r.code, r.provider_id, coalesce(r.charged_tokens, 0) as charged_tokens, r.settled_at
  from delivery d
  left join delivery_result r using (broadcast_id, channel, customer_id)
  left join slice s on r.state is null and s.broadcast_id = d.broadcast_id and s.channel = d.channel
        and s.state <> 'settled' and d.customer_id between s.first_customer and s.last_customer;

-- Months of broadcast ids: a UUIDv7 begins with its time in milliseconds.
create function broadcast_id_floor(p_at timestamptz) returns uuid language sql immutable as $$
    select (lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;
create function broadcast_id_time(p_id uuid) returns timestamptz language sql immutable as $$
    select to_timestamp(('x' || translate(left(p_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;
-- Makes the partitions of the month p_at falls into (UTC). Harmless when they are there.
create function ensure_partitions(p_at timestamptz) returns void language plpgsql as $$
declare v_from timestamptz := date_trunc('month', p_at at time zone 'UTC') at time zone 'UTC';
        v_to timestamptz := (date_trunc('month', p_at at time zone 'UTC') + interval '1 month') at time zone 'UTC';
        v_suffix text := to_char(p_at at time zone 'UTC', '_YYYY_MM'); v_table text;
begin
    if to_regclass('delivery_result' || v_suffix) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('ensure_partitions', 0));
    foreach v_table in array array['delivery', 'skipped_customer', 'slice', 'delivery_result'] loop
        execute format('create table if not exists %I partition of %I for values from (%L) to (%L)',
            v_table || v_suffix, v_table, broadcast_id_floor(v_from), broadcast_id_floor(v_to));
    end loop;
    execute format('alter table %I alter column in_flight set storage external', 'slice' || v_suffix);
    -- Slices are updated in place several times: room for that on the same page.
    execute format('alter table %I set (fillfactor = 50)', 'slice' || v_suffix);
end $$;
create function broadcast_needs_partitions() returns trigger language plpgsql as $$
begin
    perform ensure_partitions(broadcast_id_time(new.id));
    return new;
end $$;
create trigger broadcast_partitions before insert on broadcast
    for each row execute function broadcast_needs_partitions();
select ensure_partitions(now()), ensure_partitions(now() + interval '1 month');
