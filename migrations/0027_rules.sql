-- why: rules a shop or a provider sets beyond the tokens: what LINE still lets an account send this month, how often one customer
-- may hear from a shop, when nobody may be disturbed, and whom a shop's own lists exclude.

-- All locks at once, in the order in which work takes them.
lock table shop in share row exclusive mode;
lock table customer, address in access exclusive mode;

-- LINE's prices are price tables like the others.
alter table price_table drop constraint price_table_kind_check;
alter table price_table add constraint price_table_kind_check
    check (kind in ('plans', 'token_costs', 'block_prices', 'line_plans'));

-- What LINE last said of an account's month, and since when it says nothing.
create table line_quota (
    sender_id     uuid primary key references sender on delete cascade,
    -- Messages of the month; null: no limit. Null with read_at null: nothing is known.
    may_send      bigint check (may_send >= 0),
    used          bigint check (used >= 0),
    -- The moment before LINE was asked.
    read_at       timestamptz,
    failing_since timestamptz,
    failed_at     timestamptz,
    -- The class and code of the last failure.
    failure       text,
    constraint a_reading_is_whole check ((read_at is null) = (used is null))
);

-- LINE messages of a broadcast that was let start, until LINE's own figure holds all of them. `counted`: messages that LINE had, or
-- may have had, when it was last asked: they are in that figure.
create table line_reservation (
    broadcast_id uuid not null references broadcast on delete cascade,
    sender_id    uuid not null references sender on delete cascade,
    messages     bigint not null check (messages > 0),
    counted      bigint not null default 0 check (counted >= 0),
    reserved_at  timestamptz not null default now(),
    primary key (broadcast_id, sender_id)
);
create index line_reservation_of_sender on line_reservation (sender_id);

-- Of each broadcast that has reserved on a sender: what is still to be sent, and what LINE has or may have by now. What failed, was
-- skipped, cancelled or expired is in neither: it is free again the moment it is written.
create function line_progress(p_sender uuid) returns table (broadcast_id uuid, to_go bigint, sent bigint) language sql stable as $$
    select r.broadcast_id, coalesce(l.remaining, 0),
           coalesce((select sum(t.n) from tally t where t.broadcast_id = r.broadcast_id and t.stage = 'send' and t.channel = 'line'
                        and t.outcome in ('accepted', 'delivered', 'read', 'unknown')), 0)::bigint
      from line_reservation r
      left join lane l on l.broadcast_id = r.broadcast_id and l.sender_id = r.sender_id
     where r.sender_id = p_sender
$$;

-- Messages promised to broadcasts and not in LINE's figure.
create function line_reserved(p_sender uuid) returns bigint language sql stable as $$
    select coalesce(sum(p.to_go + greatest(p.sent - r.counted, 0)), 0)::bigint
      from line_progress(p_sender) p
      join line_reservation r on r.broadcast_id = p.broadcast_id and r.sender_id = p_sender
$$;

-- To be called before LINE is asked: the moment, and what each broadcast has sent by now.
create function line_before_asking(p_sender uuid, out asked_at timestamptz, out sent jsonb) language sql stable as $$
    select now(), coalesce(jsonb_object_agg(p.broadcast_id, p.sent), '{}') from line_progress(p_sender) p
$$;

-- Writes down what LINE said, unless a later question was answered first. Reservations that are all in its figure are over.
create function line_quota_read(p_sender uuid, p_may_send bigint, p_used bigint, p_asked_at timestamptz, p_sent jsonb)
returns void language plpgsql as $$
begin
    insert into line_quota as q (sender_id, may_send, used, read_at) values (p_sender, p_may_send, p_used, p_asked_at)
    on conflict (sender_id) do update
       set may_send = excluded.may_send, used = excluded.used, read_at = excluded.read_at, failing_since = null, failure = null
     where q.read_at is null or q.read_at < excluded.read_at;
    if not found then
        return;
    end if;
    update line_reservation r set counted = greatest(r.counted, least((p_sent ->> r.broadcast_id::text)::bigint, r.messages))
     where r.sender_id = p_sender and p_sent ? r.broadcast_id::text;
    delete from line_reservation r using line_progress(p_sender) p
     where r.sender_id = p_sender and r.broadcast_id = p.broadcast_id and p.to_go = 0 and p.sent <= r.counted;
end $$;

-- Writes down that LINE did not answer, or not as promised; returns for how many seconds it has not. A failure nobody asked after for
-- minutes says nothing of the time in between.
create function line_quota_failed(p_sender uuid, p_failure text) returns double precision language sql as $$
    insert into line_quota as q (sender_id, failing_since, failed_at, failure) values (p_sender, now(), now(), p_failure)
    on conflict (sender_id) do update
       set failing_since = case when q.failed_at > now() - interval '3 minutes' then coalesce(q.failing_since, now()) else now() end,
           failed_at = now(), failure = excluded.failure
    returning extract(epoch from now() - failing_since)::double precision
$$;

-- Reserves a planned broadcast's LINE messages, in the transaction that opens it; the caller has its row. Returns how many are
-- missing: above 0 nothing was reserved. p_checked false: LINE refuses the account, so nothing can leave there until a person has
-- looked, and what is reserved is only remembered. Whoever reserves on an account holds its row: two never share what is left.
create function reserve_line_quota(p_broadcast uuid, p_checked boolean) returns bigint language plpgsql as $$
declare v_sender uuid; v_messages bigint; v record; v_missing bigint;
begin
    select sender_id, planned into v_sender, v_messages from broadcast_channel
     where broadcast_id = p_broadcast and channel = 'line' and planned > 0;
    if not found then
        return 0;
    end if;
    insert into line_quota (sender_id) values (v_sender) on conflict do nothing;
    select may_send, used into v from line_quota where sender_id = v_sender for update;
    if p_checked and v.may_send is not null then
        v_missing := v_messages - greatest(v.may_send - v.used - line_reserved(v_sender), 0);
        if v_missing > 0 then
            return v_missing;
        end if;
    end if;
    insert into line_reservation (broadcast_id, sender_id, messages) values (p_broadcast, v_sender, v_messages)
    on conflict do nothing;
    return 0;
end $$;

-- How often one customer may hear from a shop: so many marketing broadcasts in the calendar month, or in so many days.
create table frequency_cap (
    shop_id    uuid primary key references shop on delete cascade,
    broadcasts smallint not null check (broadcasts between 1 and 1000),
    days       smallint check (days between 1 and 366)
);

-- When a shop disturbs nobody on a channel: from one time of day up to another, over midnight where the end is the smaller one.
create table quiet_hours (
    shop_id uuid not null references shop on delete cascade,
    channel channel not null,
    starts  time not null,
    ends    time not null,
    primary key (shop_id, channel),
    constraint quiet_hours_end check (starts <> ends)
);

-- The recipient's own clock, where a frontend knows it; null: the shop's.
alter table customer add column time_zone text;
create function customer_zone_is_known() returns trigger language plpgsql as $$
begin
    perform time_zone_must_be_known(new.time_zone);
    return new;
end $$;
create trigger customer_zone_is_known before insert or update of time_zone on customer
    for each row when (new.time_zone is not null) execute function customer_zone_is_known();
create index customer_with_zone on customer (shop_id) where time_zone is not null;

-- The rule of src/delivery/quiet.rs; a test holds one against the other.
create function is_quiet(p_at timestamptz, p_zone text, p_starts time, p_ends time) returns boolean language sql stable as $$
    select case when p_starts < p_ends then t >= p_starts and t < p_ends else t >= p_starts or t < p_ends end
      from (select (p_at at time zone p_zone)::time as t) c
$$;
-- When the quiet time is over that holds at p_at; null when none does. Where clocks are changed at that very time, an hour late at
-- most: whoever comes by then is asked again.
create function quiet_until(p_at timestamptz, p_zone text, p_starts time, p_ends time) returns timestamptz language sql stable as $$
    select case when is_quiet(p_at, p_zone, p_starts, p_ends)
                then (l.local::date + p_ends + case when p_ends <= l.local::time then interval '1 day' else interval '0' end)
                     at time zone p_zone end
      from (select p_at at time zone p_zone as local) l
$$;

-- Until when a whole lane sleeps, because everybody on it is on the shop's clock; null: not now, or each member must be asked.
create function lane_sleeps_until(p_broadcast uuid, p_sender uuid) returns timestamptz language sql stable as $$
    select quiet_until(now(), sh.time_zone, q.starts, q.ends)
      from lane l
      join quiet_hours q on q.shop_id = l.shop_id and q.channel = l.channel
      join shop sh on sh.id = l.shop_id
      join broadcast b on b.id = l.broadcast_id and b.purpose <> 'test'
     where l.broadcast_id = p_broadcast and l.sender_id = p_sender
       and not exists (select from customer c where c.shop_id = l.shop_id and c.time_zone is not null)
       -- Whose message may have left is not kept waiting: the provider forgets our keys.
       and not exists (select from slice t where t.broadcast_id = l.broadcast_id and t.channel = l.channel and t.in_flight is not null)
$$;

-- Sets a shop's quiet hours on a channel, or with nulls takes them away. What waits is due again at once: by the new hours it may
-- leave, or sleeps on. Slices before lanes, as everywhere; what somebody holds is asked again by its holder.
create function set_quiet_hours(p_shop uuid, p_channel channel, p_starts time, p_ends time) returns void language plpgsql as $$
begin
    if p_starts is null then
        delete from quiet_hours where shop_id = p_shop and channel = p_channel;
    else
        insert into quiet_hours (shop_id, channel, starts, ends) values (p_shop, p_channel, p_starts, p_ends)
        on conflict (shop_id, channel) do update set starts = excluded.starts, ends = excluded.ends;
    end if;
    update slice t set due_at = now()
      from (select s.broadcast_id, s.slice_no from lane l
              join slice s on s.broadcast_id = l.broadcast_id and s.channel = l.channel
             where l.shop_id = p_shop and l.channel = p_channel and l.is_open and s.state = 'planned' and s.due_at > now()
               and s.in_flight is null for update of s skip locked) w
     where t.broadcast_id = w.broadcast_id and t.channel = p_channel and t.slice_no = w.slice_no;
    update lane t set due_at = now(), rung_at = null
      from (select l.broadcast_id, l.sender_id from lane l
             where l.shop_id = p_shop and l.channel = p_channel and l.is_open and l.due_at > now() and l.strikes = 0
               and (l.lease_until is null or l.lease_until <= now()) for update skip locked) w
     where t.broadcast_id = w.broadcast_id and t.sender_id = w.sender_id;
end $$;

-- Lets lanes of a sender probe at once that rest because nothing gets through; returns how many. A person has looked.
create function probe_sender(p_sender uuid) returns bigint language sql as $$
    with free as (
        select l.broadcast_id, l.sender_id from lane l
         where l.sender_id = p_sender and l.is_open and l.strikes > 0 and l.due_at > now()
           and (l.lease_until is null or l.lease_until <= now()) for update skip locked),
    probed as (
        update lane l set due_at = now(), rung_at = null from free f
         where l.broadcast_id = f.broadcast_id and l.sender_id = f.sender_id returning 1)
    select count(*) from probed
$$;

-- As before (a window may close between planning and sending, too), and members whom quiet hours protect now stay in their slice, which is due when the first of them may be disturbed.
create or replace function claim_slice(p_broadcast uuid, p_channel channel, p_lane_epoch int, p_window int, p_lease_secs double precision,
        p_key_secs double precision, p_same_body boolean)
returns table (slice_no int, epoch int, intent_no int, repeats int, in_flight bigint[], customers bigint[],
               address_ids bigint[], addresses text[], first_names text[], last_names text[])
language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set enable_memoize = off set plan_cache_mode = force_generic_plan as $$
declare s slice; v_repeat boolean; v_stopped text; v_gone bigint[]; v_gone_states delivery_state[]; v_gone_reasons text[];
        v_none text[];
        v_zone text; v_quiet record; v_wakes timestamptz; v_windowed boolean; v_lost text := case when p_key_secs > 0 then 'key_expired' else 'interrupted' end;
begin
    -- The worker took the lane a moment ago; since then somebody may have paused, cancelled or run into a wall.
    select case when sh.state <> 'active' then 'shop_suspended' when se.state = 'disconnected' then 'sender_disconnected' end,
           sh.time_zone,
           -- A WhatsApp number that sends by approved templates needs no window.
           l.channel in ('messenger', 'whatsapp') and not se.sends_templates
      into v_stopped, v_zone, v_windowed
      from lane l join shop sh on sh.id = l.shop_id join sender se on se.id = l.sender_id
      join broadcast b on b.id = l.broadcast_id
     where l.broadcast_id = p_broadcast and l.channel = p_channel and l.epoch = p_lane_epoch
       and b.state = 'sending' and b.deadline_at > now() and se.state <> 'paused';
    if not found then
        return;
    end if;
    -- Quiet hours are nearly nobody's: without them nothing below asks for a clock.
    select q.starts, q.ends into v_quiet
      from lane l join broadcast b on b.id = l.broadcast_id and b.purpose <> 'test'
      join quiet_hours q on q.shop_id = l.shop_id and q.channel = l.channel
     where l.broadcast_id = p_broadcast and l.channel = p_channel;
    -- Bounded: a suspended shop may have thousands of slices, and this transaction holds its lane and its tokens.
    for v_turn in 1..20 loop
        -- Skip what another worker is claiming this very moment rather than wait for it.
        select * into s from slice t
         where t.broadcast_id = p_broadcast and t.channel = p_channel and t.state <> 'settled'
           and (case t.state when 'planned' then t.due_at else t.lease_until end) <= now()
         order by t.slice_no limit 1 for update skip locked;
        if not found then
            return;
        end if;
        v_repeat := s.in_flight is not null and s.first_attempt_at > now() - p_key_secs * interval '1 second';
        -- Only members in flight escape the question whether they may still be sent to: their message may be out already.
        select array_agg(m.customer_id) filter (where m.gone is null and m.wakes is null), array_agg(m.address_id) filter (where m.gone is null and m.wakes is null),
               array_agg(m.address) filter (where m.gone is null and m.wakes is null), array_agg(m.first_name) filter (where m.gone is null and m.wakes is null),
               array_agg(m.last_name) filter (where m.gone is null and m.wakes is null),
               array_agg(m.customer_id) filter (where m.gone is not null), array_agg(m.gone) filter (where m.gone is not null),
               array_agg(case when m.flying then 'unknown' else 'skipped' end::delivery_state) filter (where m.gone is not null),
               min(m.wakes) filter (where m.gone is null)
          into customers, address_ids, addresses, first_names, last_names, v_gone, v_gone_reasons, v_gone_states, v_wakes
          from (select d.customer_id, d.address_id, a.address, coalesce(d.customer_id = any (s.in_flight), false) as flying,
                       c.first_name, c.last_name,
                       case when d.customer_id = any (s.in_flight) and not v_repeat then v_lost
                            when a.id is null or c.id is null then 'erased'
                            when d.customer_id = any (s.in_flight) and p_same_body and c.renamed_at >= s.claimed_at then 'renamed'
                            when d.customer_id = any (s.in_flight) then null
                            when v_stopped is not null then v_stopped
                            when c.opted_out or a.state = 'opted_out' then 'opted_out'
                            when a.state = 'suppressed' then 'suppressed'
                            when v_windowed and coalesce(a.last_inbound_at <= now() - interval '24 hours', true)
                                 then 'window_closed' end as gone,
                       -- Who is in flight is not asked: their message may have left before.
                       case when v_quiet.starts is not null and d.customer_id <> all (coalesce(s.in_flight, '{}'))
                            then quiet_until(now(), coalesce(c.time_zone, v_zone), v_quiet.starts, v_quiet.ends) end as wakes
                  from delivery d
                  left join address a on a.id = d.address_id
                  left join customer c on c.id = d.customer_id and c.id between s.first_customer and s.last_customer
                 where d.broadcast_id = p_broadcast and d.channel = p_channel
                   and d.customer_id between s.first_customer and s.last_customer
                   and (s.settles = 0 or not exists (select from delivery_result r
                           where r.broadcast_id = p_broadcast and r.channel = p_channel
                             and r.customer_id between s.first_customer and s.last_customer
                             and r.customer_id = d.customer_id))
                 order by d.customer_id) m;
        if v_gone is not null then
            -- This transaction may come here again for the next slice, then holding tokens: it takes lane and broadcast
            -- before them now, or another lane that ends meanwhile would wait for us and we for it.
            perform from lane l where l.broadcast_id = p_broadcast and l.channel = p_channel for update;
            perform from broadcast where id = p_broadcast for update;
            v_none := array_fill(null::text, array[cardinality(v_gone)]);
            if record_results(p_broadcast, p_channel, s.slice_no, v_gone, v_gone_states, v_gone_reasons, v_none, v_none)
               = s.remaining then
                continue;
            end if;
        end if;
        if customers is null then
            -- Whoever is left sleeps. The slice rests until the first of them may be disturbed, and holds nobody's claim.
            update slice t set state = 'planned', epoch = t.epoch + 1, lease_until = null, in_flight = null, due_at = v_wakes
             where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = s.slice_no;
            continue;
        end if;
        -- Somebody erased while in flight leaves the intent; the others keep its key, or they would get it twice.
        select array_agg(c order by c) into in_flight from unnest(s.in_flight) as c where c = any (customers);
        v_repeat := v_repeat and in_flight is not null;
        slice_no := s.slice_no;
        epoch := s.epoch + 1;
        intent_no := case when v_repeat then s.intent_no else abs(s.intent_no) + 1 end;
        repeats := case when v_repeat then s.repeats + 1 else 0 end;
        in_flight := case when v_repeat then in_flight else customers[1:p_window] end;
        update slice u
           set state = 'sending', epoch = claim_slice.epoch, lease_until = now() + p_lease_secs * interval '1 second',
               lane_epoch = p_lane_epoch, intent_no = claim_slice.intent_no, repeats = claim_slice.repeats, in_flight = claim_slice.in_flight,
               first_attempt_at = case when v_repeat then u.first_attempt_at else now() end, claimed_at = now()
         where u.broadcast_id = p_broadcast and u.channel = p_channel and u.slice_no = s.slice_no;
        return next;
        return;
    end loop;
end $$;

-- Whom a shop's own lists exclude, whether or not we know them: an address that comes later is closed when it comes. Kept by the hash of
-- the address: who is erased leaves no text here and stays excluded, or they would be written to again with the next import.
create table suppression (
    shop_id      uuid not null references shop on delete cascade,
    channel      channel not null,
    address_hash bytea not null check (length(address_hash) = 32),
    -- As the list wrote it; null: the person was erased.
    address      text check (address <> ''),
    state        text not null check (state in ('opted_out', 'suppressed')),
    reason       text not null check (reason <> ''),
    listed_at    timestamptz not null default now(),
    primary key (shop_id, channel, address_hash)
);

-- The same address however it is written: mail without regard to case, phone numbers in the form they are stored in.
create function address_key(p_channel channel, p_address text) returns text language sql immutable as $$
    select case when p_channel = 'email' then lower(btrim(p_address))
                when p_channel in ('sms', 'whatsapp') then normal_phone(p_address)
                else btrim(p_address) end
$$;
create function suppression_hash(p_shop uuid, p_channel channel, p_address text) returns bytea language sql immutable as $$
    select sha256(convert_to(p_shop::text || ' ' || p_channel::text || ' ' || address_key(p_channel, p_address), 'UTF8'))
$$;

-- Takes lines of a list in, all or none: an address, or `sha256:` and what an export said of one that was erased. Returns how many are new
-- or say something else than before. Addresses that are known are closed. The same list again changes nothing.
create function suppress_listed(p_shop uuid, p_channels channel[], p_addresses text[], p_states text[], p_reasons text[])
returns bigint language plpgsql as $$
declare v_changed bigint;
begin
    -- Whoever writes addresses of the shop holds this lock until they commit: an address that comes at this moment is either seen
    -- here, or sees what is written here (`address_was_listed`).
    perform pg_advisory_xact_lock(hashtextextended('address:' || p_shop::text, 0));
    with lines as (
        -- Of lines about one address the last counts, as if they had come one after the other.
        select distinct on (l.channel, l.hash) l.* from (
            select t.channel, t.state, t.reason, t.place, nullif(t.address, 'sha256:' || substr(t.address, 8)) as address,
                   case when t.address like 'sha256:%' then decode(substr(t.address, 8), 'hex')
                        else suppression_hash(p_shop, t.channel, t.address) end as hash
              from unnest(p_channels, p_addresses, p_states, p_reasons) with ordinality as t (channel, address, state, reason, place)) l
         order by l.channel, l.hash, l.place desc),
    kept as (
        insert into suppression as s (shop_id, channel, address_hash, address, state, reason)
        select p_shop, channel, hash, address, state, reason from lines order by channel, hash
        on conflict (shop_id, channel, address_hash) do update set state = excluded.state, reason = excluded.reason
         where (s.state, s.reason) is distinct from (excluded.state, excluded.reason)
        returning 1)
    select count(*) into v_changed from kept;
    -- Each address is hashed once, and each line: a list of thousands meets a shop's hundreds of thousands in one pass.
    perform close_address(t.id, t.state, t.reason)
       from (with named as materialized (
                    select distinct l.channel, case when l.address like 'sha256:%' then decode(substr(l.address, 8), 'hex')
                                                    else suppression_hash(p_shop, l.channel, l.address) end as hash
                      from unnest(p_channels, p_addresses) as l (channel, address)),
                 ours as materialized (
                    select a.id, a.state, se.channel, suppression_hash(p_shop, se.channel, a.address) as hash
                      from sender se join address a on a.sender_id = se.id and a.shop_id = p_shop
                     where se.channel = any (p_channels) and (se.shop_id = p_shop or se.shop_id is null)
                       and a.state in ('active', 'suppressed'))
             select a.id, s.state, s.reason
               from ours a
               join named n on n.channel = a.channel and n.hash = a.hash
               join suppression s on s.shop_id = p_shop and s.channel = n.channel and s.address_hash = n.hash
              where a.state = 'active' or s.state = 'opted_out'
              order by a.id) t;
    return v_changed;
end $$;

-- An address that comes is closed if a list names it. Triggers of one event fire by name: this one after `address_twins`, which
-- takes the lock that a list is taken in under.
create function address_was_listed() returns trigger language plpgsql as $$
begin
    -- Nearly no shop has a list: nothing is hashed then.
    if not exists (select from suppression s where s.shop_id = any (select distinct a.shop_id from added a)) then
        return null;
    end if;
    perform close_address(t.id, t.state, t.reason)
       from (select a.id, s.state, s.reason
               from added a
               join sender se on se.id = a.sender_id
               join suppression s on s.shop_id = a.shop_id and s.channel = se.channel
                and s.address_hash = suppression_hash(a.shop_id, se.channel, a.address)
              where a.state = 'active' order by a.id) t;
    return null;
end $$;
create trigger address_was_listed after insert on address
    referencing new table as added for each statement execute function address_was_listed();

-- Who is erased leaves only the hash.
create function suppression_forgets() returns trigger language plpgsql as $$
begin
    update suppression s set address = null
      from gone g join sender se on se.id = g.sender_id
     where s.address is not null and s.shop_id = g.shop_id and s.channel = se.channel
       and s.address_hash = suppression_hash(g.shop_id, se.channel, g.address);
    return null;
end $$;
create trigger suppression_forgets after delete on address
    referencing old table as gone for each statement execute function suppression_forgets();
