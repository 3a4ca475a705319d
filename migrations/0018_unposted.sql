-- why: a window in which everybody was accepted is by far the most frequent settle, and most of what it cost was the rows every
-- settle of a broadcast shares: its lane, its counters, its tokens. Such a window now writes its results and its slice alone, and the
-- slice remembers how many are to be posted; they are when the claim ends or something else than `accepted` comes, which a turn
-- on a lane brings within seconds. Until then the tokens of those messages stay in the hold.

-- Messages of the slice that were accepted and are not yet taken off the lane, counted in `tally` or captured.
alter table slice add column unposted int not null default 0,
    add constraint unposted_is_a_number check (unposted >= 0),
    add constraint settled_is_posted check (unposted = 0 or state <> 'settled');

-- Writes a window in which everybody was accepted, and commits what is sent next, like settle_window (which does the rest where
-- there is more to do than that). p_next is never null: the claim goes on.
create function settle_accepted(p_broadcast uuid, p_channel channel, p_slice_no int, p_epoch int, p_customers bigint[],
        p_provider_ids text[], p_next bigint[], p_intent_no int, p_flying bigint[], p_uncertain bigint[],
        p_lease_secs double precision)
returns text language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare s record; v_new int := cardinality(p_customers); v_none text[];
begin
    select t.state, t.epoch, t.intent_no, t.remaining, l.tokens, p_customers[1] = any (t.in_flight) as in_flight,
           b.state = 'sending' and b.deadline_at > now() as goes_on
      into s
      from slice t
      join lane l on l.broadcast_id = t.broadcast_id and l.channel = t.channel
      join broadcast b on b.id = t.broadcast_id
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no for update of t;
    if not found or s.state <> 'sending' or s.epoch <> p_epoch or abs(p_intent_no) < abs(s.intent_no) then
        return 'stale';
    end if;
    if s.in_flight is distinct from true or not s.goes_on or s.remaining <= v_new then
        v_none := array_fill(null::text, array[v_new]);
        return settle_window(p_broadcast, p_channel, p_slice_no, p_epoch, p_customers,
            array_fill('accepted'::delivery_state, array[v_new]), v_none, v_none, p_provider_ids, p_next, p_intent_no, p_flying,
            p_uncertain, 0, p_lease_secs);
    end if;
    -- Whoever is in flight has no result, and results of one settle are written together: nothing to look for.
    insert into delivery_result (broadcast_id, channel, customer_id, state, charged_tokens, provider_id)
    select p_broadcast, p_channel, t.customer, 'accepted', s.tokens, t.provider_id
      from unnest(p_customers, p_provider_ids) as t (customer, provider_id);
    update slice t
       set remaining = t.remaining - v_new, unposted = t.unposted + v_new, settles = t.settles + 1,
           lease_until = now() + p_lease_secs * interval '1 second',
           in_flight = nullif(p_next || p_flying || p_uncertain, '{}'),
           intent_no = case when p_next = '{}' then t.intent_no else p_intent_no end,
           -- The oldest send in flight decides how long the provider can be trusted to remember.
           first_attempt_at = case when p_next <> '{}' and cardinality(p_flying) + cardinality(p_uncertain) = 0 then now()
                                   else t.first_attempt_at end,
           repeats = case when cardinality(p_uncertain) = 0 then 0 else t.repeats end
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no;
    return 'sending';
end $$;

-- Writes the results of some members of a claimed slice, does everything that follows from them (counters, capture and
-- release, the end of lane and broadcast), and in the same transaction commits what is sent next:
--   p_next       members who begin now, as intent p_intent_no; empty: nobody, while the worker waits for permits;
--                null: the claim ends and what is left goes back, due in p_wait_secs
--   p_flying     members of this claim's intents who are still on their way: they stay in flight, and so does the claim
--   p_uncertain  members whose outcome is open and whose send will be repeated: in flight, whoever has the slice
-- Called again with the same arguments after a lost answer it changes nothing more: the results are there, and p_intent_no
-- is said, not counted. It is the number of the claim's latest intent whatever p_next is: one that comes late, after another
-- intent was committed (its connection broke and it was sent again), would forget who is in flight by now, and is `stale`.
-- What settle_accepted left unposted of the slice is posted here, too.
-- Returns `stale` (nothing was written: the slice belongs to somebody else), or the state of the
-- broadcast, `expired` standing for one past its deadline; in any but `sending` p_next was not begun.
create or replace function settle_window(p_broadcast uuid, p_channel channel, p_slice_no int, p_epoch int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[],
        p_next bigint[], p_intent_no int, p_flying bigint[], p_uncertain bigint[], p_wait_secs double precision,
        p_lease_secs double precision)
returns text language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare s record; v_new int := 0; v_accepted int := 0; v_lane_left bigint; v_keeps boolean; v_empty boolean; v_begins boolean;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[];
begin
    select t.state, t.epoch, t.intent_no, t.remaining, t.unposted, t.settles, t.first_customer, t.last_customer, l.tokens,
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
       set remaining = t.remaining - v_new, unposted = 0, settles = t.settles + (v_new + s.unposted > 0)::int,
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
    if s.unposted > 0 then
        v_new := v_new + s.unposted;
        v_accepted := v_accepted + s.unposted;
        v_states := v_states || 'accepted'::delivery_state; v_reasons := v_reasons || null::text; v_counts := v_counts || s.unposted::bigint;
    end if;
    if v_new = 0 then
        return s.broadcast_state;
    end if;
    update lane set remaining = remaining - v_new where broadcast_id = p_broadcast and channel = p_channel
    returning remaining into v_lane_left;
    if v_lane_left = 0 then
        perform from broadcast where id = p_broadcast for update;
    end if;
    insert into tally (broadcast_id, stage, channel, outcome, reason, n)
    select p_broadcast, 'send', p_channel, t.state, t.reason, sum(t.n)
      from unnest(v_states, v_reasons, v_counts) as t (state, reason, n) group by t.state, t.reason
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, v_accepted::bigint * s.tokens, (v_new - v_accepted)::bigint * s.tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, s.settles + 1));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
        select state into s.broadcast_state from broadcast where id = p_broadcast;
    end if;
    return s.broadcast_state;
end $$;

-- Appends how sending ended for some members of a slice whose row the caller has locked, and does everything that
-- follows from it: counters, capture and release, the end of lane and broadcast. Returns how many were new.
create or replace function record_results(p_broadcast uuid, p_channel channel, p_slice_no int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[])
returns int language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare v_tokens int; v_new int; v_accepted int; v_settles int; v_unposted int; v_first bigint; v_last bigint; v_lane_left bigint;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[];
begin
    select tokens into strict v_tokens from lane where broadcast_id = p_broadcast and channel = p_channel;
    select settles, unposted, first_customer, last_customer into strict v_settles, v_unposted, v_first, v_last from slice
     where broadcast_id = p_broadcast and channel = p_channel and slice_no = p_slice_no;
    with added as (
        insert into delivery_result (broadcast_id, channel, customer_id, state, charged_tokens, reason, code, provider_id)
        select p_broadcast, p_channel, t.customer, t.state, case when t.state = 'accepted' then v_tokens else 0 end,
               t.reason, t.code, t.provider_id
          from unnest(p_customers, p_states, p_reasons, p_codes, p_provider_ids)
               as t (customer, state, reason, code, provider_id)
         -- The slice is locked, so looking is enough, and the first time there is nothing: `on conflict` would cost a fifth.
         -- With the slice's range, or the planner may choose to hash every result of the broadcast, for every settle.
         where v_settles = 0 or not exists (select from delivery_result r where r.broadcast_id = p_broadcast
                 and r.channel = p_channel and r.customer_id between v_first and v_last and r.customer_id = t.customer)
        returning state, reason),
    counted as (select state, reason, count(*) as n from added group by state, reason)
    select coalesce(sum(n), 0), coalesce(sum(n) filter (where state = 'accepted'), 0),
           array_agg(state order by state, reason), array_agg(reason order by state, reason), array_agg(n order by state, reason)
      into v_new, v_accepted, v_states, v_reasons, v_counts
      from counted;
    if v_new = 0 then
        return 0;
    end if;
    update slice
       set remaining = remaining - v_new, unposted = 0, settles = settles + 1,
           state = case when remaining = v_new then 'settled' else state end,
           lease_until = case when remaining = v_new then null else lease_until end,
           in_flight = case when remaining = v_new then null else in_flight end
     where broadcast_id = p_broadcast and channel = p_channel and slice_no = p_slice_no
    returning settles into v_settles;
    update lane set remaining = remaining - v_new - v_unposted where broadcast_id = p_broadcast and channel = p_channel
    returning remaining into v_lane_left;
    if v_lane_left = 0 then
        perform from broadcast where id = p_broadcast for update;
    end if;
    insert into tally (broadcast_id, stage, channel, outcome, reason, n)
    select p_broadcast, 'send', p_channel, t.state, t.reason, sum(t.n)
      from unnest(v_states || 'accepted'::delivery_state, v_reasons || null::text, v_counts || v_unposted::bigint) as t (state, reason, n)
     where t.n > 0 group by t.state, t.reason
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, (v_accepted + v_unposted)::bigint * v_tokens, (v_new - v_accepted)::bigint * v_tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, v_settles));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
    end if;
    return v_new;
end $$;

-- Posts what settle_accepted left of the slices these customers are in: before a receipt takes back what was charged for one, it
-- must have been captured. The caller holds no lock on lane, counters or tokens yet.
create function post_slices(p_broadcast uuid, p_channel channel, p_customers bigint[]) returns void language plpgsql as $$
declare s record; v_tokens int;
begin
    for s in
        select t.slice_no, t.unposted, t.settles from slice t
         where t.broadcast_id = p_broadcast and t.channel = p_channel and t.state <> 'settled' and t.unposted > 0
           and exists (select from unnest(p_customers) as c where c between t.first_customer and t.last_customer)
         order by t.slice_no for update of t
    loop
        update slice set unposted = 0, settles = settles + 1
         where broadcast_id = p_broadcast and channel = p_channel and slice_no = s.slice_no;
        -- Deliveries of the slice are left, so neither the lane nor the broadcast ends here.
        update lane set remaining = remaining - s.unposted where broadcast_id = p_broadcast and channel = p_channel
        returning tokens into strict v_tokens;
        insert into tally (broadcast_id, stage, channel, outcome, n) values (p_broadcast, 'send', p_channel, 'accepted', s.unposted)
        on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
        perform ledger_settle(p_broadcast, p_channel, s.unposted::bigint * v_tokens, 0,
            format('%s:%s:%s:%s', p_broadcast, p_channel, s.slice_no, s.settles + 1));
    end loop;
end $$;
