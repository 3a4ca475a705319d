-- why: a settle runs for every few hundred messages, and half of what it did was of no use. Results that are new for certain
-- are appended without being looked for; a lane's counter no longer rewrites the lane's indexes; no cache is built for rows
-- that are met once.

-- Whether a lane has work left, for the indexes: an index whose condition names the counter itself is written anew whenever
-- the counter moves. This rewrites the table: it has a row for a broadcast and channel, not for a message.
alter table lane add column is_open boolean generated always as (remaining > 0) stored;
drop index lane_to_do, lane_of_sender;
create index lane_to_do on lane (shop_id, due_at) where is_open;
create index lane_of_sender on lane (sender_id) where is_open;

-- Which lanes to ring for: those of a shop, those that want a sender, or (both null) all. At most p_per_shop of a shop and, on a
-- sender of the platform, p_per_sender of all shops are in the ready list or at work at once. On a shared sender every shop gets
-- one place before any gets two, the shop served least goes first; of one shop the lane served longest ago. A bell nobody
-- answered within p_stale_secs counts as lost.
create or replace function lanes_to_ring(p_shop uuid, p_sender uuid, p_per_shop int, p_per_sender int, p_stale_secs double precision)
returns table (broadcast_id uuid, sender_id uuid) language sql as $$
    with stop as (
        select exists (select from pause where resumed_at is null and (scope = 'everything' or kind = 'broadcast-send')) as all_shops,
               array(select shop_id from pause where resumed_at is null and scope = 'shop') as shops),
    open as (
        select l.broadcast_id, l.sender_id, l.shop_id, l.served_at, s.shop_id is null as shared,
               coalesce(l.lease_until > now() or l.rung_at > now() - p_stale_secs * interval '1 second', false) as busy,
               lane_is_due(l, b) and (b.state = 'cancelled' or b.deadline_at <= now()
                   or (s.state <> 'paused' and not p.all_shops and l.shop_id <> all (p.shops))) as due
          from stop p, lane l
          join broadcast b on b.id = l.broadcast_id and lanes_are_open(b)
          join sender s on s.id = l.sender_id
         where l.is_open and ((p_shop is null and p_sender is null) or l.shop_id = p_shop or l.sender_id = p_sender)),
    waiting as (select * from open where due and not busy),
    -- Counted over every lane, also those the question leaves out.
    shops as (
        select w.shop_id, p_per_shop - (select count(*) from lane l where l.shop_id = w.shop_id and l.is_open
                   and (l.lease_until > now() or l.rung_at > now() - p_stale_secs * interval '1 second')) as places
          from (select distinct shop_id from waiting) w),
    senders as (
        select w.sender_id, p_per_sender - (select count(*) from lane l where l.sender_id = w.sender_id and l.is_open
                   and (l.lease_until > now() or l.rung_at > now() - p_stale_secs * interval '1 second')) as places
          from (select distinct sender_id from waiting where shared) w),
    at_work as (select o.sender_id, o.shop_id, count(*) as n from open o where o.busy and o.shared group by 1, 2),
    in_shop as (
        select w.*, s.places as shop_places, coalesce(a.n, 0)
                 + row_number() over (partition by w.sender_id, w.shop_id order by w.served_at nulls first, w.broadcast_id) as place
          from waiting w join shops s on s.shop_id = w.shop_id and s.places > 0
          left join at_work a on a.sender_id = w.sender_id and a.shop_id = w.shop_id),
    on_sender as (
        select i.*, row_number() over (partition by i.sender_id
                   order by i.place, coalesce(t.served, 0), i.served_at nulls first, i.broadcast_id) as sender_place
          from in_shop i left join sender_turn t on t.sender_id = i.sender_id and t.shop_id = i.shop_id),
    turn as (
        select o.*, row_number() over (partition by o.shop_id order by o.served_at nulls first, o.broadcast_id, o.sender_id) as shop_place
          from on_sender o left join senders s on s.sender_id = o.sender_id
         where not o.shared or o.sender_place <= s.places),
    -- A locked lane is being worked on or rung for by somebody else; waiting for it, two ringers could wait for each other.
    free as (
        select l.broadcast_id, l.sender_id
          from lane l join turn t on l.broadcast_id = t.broadcast_id and l.sender_id = t.sender_id
         where t.shop_place <= t.shop_places and (l.lease_until is null or l.lease_until <= now())
           and (l.rung_at is null or l.rung_at <= now() - p_stale_secs * interval '1 second')
           for update of l skip locked)
    update lane l set rung_at = now()
      from free f
     where l.broadcast_id = f.broadcast_id and l.sender_id = f.sender_id
    returning l.broadcast_id, l.sender_id
$$;

-- Takes a lane's lease for a turn. mode: `send`, or `cancelled` / `expired` when the rest is to be ended with that outcome.
-- remaining: deliveries left on it. rivals: other shops that wait for a place on the same shared sender.
-- No row: nothing to do, not due, somebody else has it, it is paused, or it wants a shared sender and was not rung for: only
-- lanes_to_ring gives places, or a bell that happens to come while one is handed on would overtake everybody who waits.
create or replace function begin_turn(p_broadcast uuid, p_sender uuid, p_lease_secs double precision)
returns table (sender_id uuid, channel channel, epoch int, mode text, strikes int, remaining bigint, shop_id uuid, shared boolean, rivals int)
language plpgsql as $$
begin
    update lane l
       set lease_until = now() + p_lease_secs * interval '1 second', epoch = l.epoch + 1, rung_at = null, served_at = now(),
           turn_remaining = l.remaining
      from broadcast b, sender s
     where l.broadcast_id = p_broadcast and l.sender_id = p_sender and b.id = l.broadcast_id and s.id = l.sender_id
       and l.remaining > 0 and lane_is_due(l, b) and (l.lease_until is null or l.lease_until <= now())
       and lanes_are_open(b)
       and (b.state = 'cancelled' or b.deadline_at <= now() or (s.state <> 'paused' and not sending_is_paused(l.shop_id)))
       and (s.shop_id is not null or l.rung_at is not null)
    returning l.sender_id, l.channel, l.epoch, l.strikes, l.remaining, l.shop_id, s.shop_id is null,
        case when b.state = 'cancelled' then 'cancelled' when b.deadline_at <= now() then 'expired' else 'send' end
      into sender_id, channel, epoch, strikes, remaining, shop_id, shared, mode;
    if not found then
        return;
    end if;
    rivals := 0;
    if shared then
        -- The clock before the shop's own row, everywhere.
        insert into sender_clock as c values (p_sender, coalesce((select t.served from sender_turn t
                where t.sender_id = p_sender and t.shop_id = begin_turn.shop_id), 0))
        on conflict on constraint sender_clock_pkey do update set served = greatest(c.served, excluded.served);
        insert into sender_turn as t select p_sender, begin_turn.shop_id, c.served from sender_clock c where c.sender_id = p_sender
        on conflict on constraint sender_turn_pkey do update set served = greatest(t.served, excluded.served);
        select count(distinct l.shop_id) into rivals
          from lane l join broadcast b on b.id = l.broadcast_id and b.state = 'sending'
         where l.sender_id = p_sender and l.is_open and l.shop_id <> begin_turn.shop_id and l.due_at <= now()
           and (l.lease_until is null or l.lease_until <= now()) and l.rung_at is null;
    end if;
    return next;
end $$;

-- Addresses and customers are met once a slice: a cache for them is only filled.
alter function claim_slice(uuid, channel, int, int, double precision, double precision, boolean) set enable_memoize = off;

-- Writes the results of some members of a claimed slice, does everything that follows from them (counters, capture and
-- release, the end of lane and broadcast), and in the same transaction commits what is sent next:
--   p_next       members who begin now, as intent p_intent_no; empty: nobody, while the worker waits for permits;
--                null: the claim ends and what is left goes back, due in p_wait_secs
--   p_flying     members of this claim's intents who are still on their way: they stay in flight, and so does the claim
--   p_uncertain  members whose outcome is open and whose send will be repeated: in flight, whoever has the slice
-- Called again with the same arguments after a lost answer it changes nothing more: the results are there, and p_intent_no
-- is said, not counted. It is the number of the claim's latest intent whatever p_next is: one that comes late, after another
-- intent was committed (its connection broke and it was sent again), would forget who is in flight by now, and is `stale`.
-- Returns `stale` (nothing was written: the slice belongs to somebody else), or the state of the
-- broadcast, `expired` standing for one past its deadline; in any but `sending` p_next was not begun.
create or replace function settle_window(p_broadcast uuid, p_channel channel, p_slice_no int, p_epoch int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[],
        p_next bigint[], p_intent_no int, p_flying bigint[], p_uncertain bigint[], p_wait_secs double precision,
        p_lease_secs double precision)
returns text language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare s record; v_new int := 0; v_accepted int; v_lane_left bigint; v_keeps boolean; v_empty boolean; v_begins boolean;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[];
begin
    select t.state, t.epoch, t.intent_no, t.remaining, t.settles, t.first_customer, t.last_customer, l.tokens,
           coalesce(p_customers[1] = any (t.in_flight), false) as in_flight,
           case when b.state = 'sending' and b.deadline_at <= now() then 'expired' else b.state end as broadcast_state
      into s
      from slice t
      join lane l on l.broadcast_id = t.broadcast_id and l.channel = t.channel
      join broadcast b on b.id = t.broadcast_id
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no for update of t;
    if not found or s.state <> 'sending' or s.epoch <> p_epoch or abs(p_intent_no) < abs(s.intent_no) then
        return 'stale';
    end if;
    if s.in_flight then
        -- Whoever is in flight has no result, and results of one settle are written together: nothing to look for.
        insert into delivery_result (broadcast_id, channel, customer_id, state, charged_tokens, reason, code, provider_id)
        select p_broadcast, p_channel, t.customer, t.state, case when t.state = 'accepted' then s.tokens else 0 end,
               t.reason, t.code, t.provider_id
          from unnest(p_customers, p_states, p_reasons, p_codes, p_provider_ids)
               as t (customer, state, reason, code, provider_id);
        v_new := cardinality(p_customers);
        v_accepted := cardinality(array_positions(p_states, 'accepted'));
        if v_accepted = v_new then
            v_states := '{accepted}'; v_reasons := '{null}'; v_counts := array[v_new];
        else
            select array_agg(t.state order by t.state, t.reason), array_agg(t.reason order by t.state, t.reason),
                   array_agg(t.n order by t.state, t.reason)
              into v_states, v_reasons, v_counts
              from (select u.state, u.reason, count(*) as n from unnest(p_states, p_reasons) as u (state, reason) group by 1, 2) t;
        end if;
    elsif cardinality(p_customers) > 0 then
        with added as (
            insert into delivery_result (broadcast_id, channel, customer_id, state, charged_tokens, reason, code, provider_id)
            select p_broadcast, p_channel, t.customer, t.state, case when t.state = 'accepted' then s.tokens else 0 end,
                   t.reason, t.code, t.provider_id
              from unnest(p_customers, p_states, p_reasons, p_codes, p_provider_ids)
                   as t (customer, state, reason, code, provider_id)
             -- The slice is locked, so looking is enough, and the first time there is nothing: `on conflict` would cost a fifth.
             -- With the slice's range, or the planner may choose to hash every result of the broadcast, for every settle.
             where s.settles = 0 or not exists (select from delivery_result r where r.broadcast_id = p_broadcast
                     and r.channel = p_channel and r.customer_id between s.first_customer and s.last_customer
                     and r.customer_id = t.customer)
            returning state, reason),
        counted as (select state, reason, count(*) as n from added group by state, reason)
        select coalesce(sum(n), 0), coalesce(sum(n) filter (where state = 'accepted'), 0),
               array_agg(state order by state, reason), array_agg(reason order by state, reason),
               array_agg(n order by state, reason)
          into v_new, v_accepted, v_states, v_reasons, v_counts
          from counted;
    end if;
    v_empty := s.remaining = v_new;
    -- A stopped broadcast begins nothing new, whatever the worker asked for.
    v_begins := cardinality(p_next) > 0 and s.broadcast_state = 'sending';
    v_keeps := not v_empty and (cardinality(p_flying) > 0 or (p_next is not null and s.broadcast_state = 'sending'));
    update slice t
       set remaining = t.remaining - v_new, settles = t.settles + (v_new > 0)::int,
           state = case when v_empty then 'settled' when v_keeps then 'sending' else 'planned' end,
           lease_until = case when v_keeps then now() + p_lease_secs * interval '1 second' end,
           due_at = case when v_keeps or v_empty then t.due_at else now() + p_wait_secs * interval '1 second' end,
           in_flight = case when not v_empty then
                           nullif(case when v_begins then p_next else '{}' end || p_flying || p_uncertain, '{}') end,
           intent_no = case when v_begins then p_intent_no else t.intent_no end,
           -- The oldest send in flight decides how long the provider can be trusted to remember.
           first_attempt_at = case when v_begins and cardinality(p_flying) + cardinality(p_uncertain) = 0 then now()
                                   else t.first_attempt_at end,
           repeats = case when v_keeps and cardinality(p_uncertain) = 0 then 0 else t.repeats end
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no;
    if v_new = 0 then
        return s.broadcast_state;
    end if;
    update lane set remaining = remaining - v_new where broadcast_id = p_broadcast and channel = p_channel
    returning remaining into v_lane_left;
    if v_lane_left = 0 then
        perform from broadcast where id = p_broadcast for update;
    end if;
    insert into tally (broadcast_id, stage, channel, outcome, reason, n)
    select p_broadcast, 'send', p_channel, t.state, t.reason, t.n from unnest(v_states, v_reasons, v_counts) as t (state, reason, n)
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, v_accepted::bigint * s.tokens, (v_new - v_accepted)::bigint * s.tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, s.settles + 1));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
        select state into s.broadcast_state from broadcast where id = p_broadcast;
    end if;
    return s.broadcast_state;
end $$;
