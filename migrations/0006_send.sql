-- why: the moves of the delivery pipeline, each one call and one transaction: open, take a lane, claim a slice, settle,
-- drain, finish. Locks are taken in one order everywhere: slice, lane, broadcast, tally, hold, account.
-- Sequential and parallel scans are switched off inside: a fresh partition without statistics must never be read whole,
-- and a slice is too small to start a process for. What runs once a window is planned once a connection: planning costs as
-- much as running there, and for a slice nested loops over keys are right whatever the statistics say.

-- Ends a broadcast none of whose lanes has work left. The caller holds the lock on the broadcast row: of two lanes
-- that empty at once the second waits there and then sees the first.
create function finish_broadcast(p_broadcast uuid) returns boolean language plpgsql as $$
begin
    if exists (select from lane where broadcast_id = p_broadcast and remaining > 0) then
        return false;
    end if;
    update broadcast
       set state = case state when 'cancelled' then 'cancelled' else 'completed' end, resume_state = null, finished_at = now()
     where id = p_broadcast and finished_at is null
       and (state in ('sending', 'cancelled') or resume_state = 'sending');
    if not found then
        return false;
    end if;
    update token_hold set state = 'closed', closed_at = now() where broadcast_id = p_broadcast and state = 'open';
    return true;
end $$;

-- Appends how sending ended for some members of a slice whose row the caller has locked, and does everything that
-- follows from it: counters, capture and release, the end of lane and broadcast. Returns how many were new.
create function record_results(p_broadcast uuid, p_channel channel, p_slice_no int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[])
returns int language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare v_tokens int; v_new int; v_accepted int; v_settles int; v_first bigint; v_last bigint; v_lane_left bigint;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[];
begin
    select tokens into strict v_tokens from lane where broadcast_id = p_broadcast and channel = p_channel;
    select settles, first_customer, last_customer into strict v_settles, v_first, v_last from slice
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
       set remaining = remaining - v_new, settles = settles + 1,
           state = case when remaining = v_new then 'settled' else state end,
           lease_until = case when remaining = v_new then null else lease_until end,
           in_flight = case when remaining = v_new then null else in_flight end
     where broadcast_id = p_broadcast and channel = p_channel and slice_no = p_slice_no
    returning settles into v_settles;
    update lane set remaining = remaining - v_new where broadcast_id = p_broadcast and channel = p_channel
    returning remaining into v_lane_left;
    if v_lane_left = 0 then
        perform from broadcast where id = p_broadcast for update;
    end if;
    insert into tally (broadcast_id, stage, channel, outcome, reason, n)
    select p_broadcast, 'send', p_channel, t.state, t.reason, t.n from unnest(v_states, v_reasons, v_counts) as t (state, reason, n)
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, v_accepted::bigint * v_tokens, (v_new - v_accepted)::bigint * v_tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, v_settles));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
    end if;
    return v_new;
end $$;

-- The last step of planning. Returns `opened`, `completed` (nobody to send to), `short`, `over_budget` or `stale`.
create function open_broadcast(p_broadcast uuid, p_epoch int) returns text language plpgsql as $$
declare b broadcast; v_missing bigint; v_deliveries bigint;
begin
    select * into b from broadcast where id = p_broadcast for update;
    if not found or b.state <> 'planning' or b.plan_epoch <> p_epoch then
        return 'stale';
    end if;
    select coalesce(sum(planned * tokens), 0), coalesce(sum(planned), 0) into b.cost_tokens, v_deliveries
      from broadcast_channel where broadcast_id = p_broadcast;
    if b.cost_tokens > b.budget_tokens then
        update broadcast set state = 'failed', cost_tokens = b.cost_tokens, purge = true, finished_at = now(),
            state_reason = format('over_budget: the plan costs %s tokens, the budget is %s', b.cost_tokens, b.budget_tokens)
         where id = p_broadcast;
        return 'over_budget';
    end if;
    v_missing := ledger_hold(p_broadcast, b.shop_id, b.cost_tokens);
    if v_missing > 0 then
        update broadcast set state = 'failed', cost_tokens = b.cost_tokens, missing_tokens = v_missing, purge = true,
            finished_at = now(), state_reason = format('tokens_short: %s tokens are missing', v_missing)
         where id = p_broadcast;
        return 'short';
    end if;
    update broadcast
       set state = case when v_deliveries = 0 then 'completed' else 'sending' end, cost_tokens = b.cost_tokens,
           sending_at = now(), deadline_at = now() + deadline_hours * interval '1 hour',
           finished_at = case when v_deliveries = 0 then now() end
     where id = p_broadcast;
    if v_deliveries = 0 then
        update token_hold set state = 'closed', closed_at = now() where broadcast_id = p_broadcast;
        return 'completed';
    end if;
    insert into lane (broadcast_id, sender_id, shop_id, channel, tokens, planned, remaining)
    select p_broadcast, sender_id, b.shop_id, channel, tokens, planned, planned
      from broadcast_channel where broadcast_id = p_broadcast and planned > 0;
    return 'opened';
end $$;

-- A lane that rests is woken once by its broadcast's deadline.
create function lane_is_due(l lane, b broadcast) returns boolean language sql stable as $$
    select l.due_at <= now() or (b.deadline_at <= now() and (l.served_at is null or l.served_at < b.deadline_at))
$$;

-- Which lanes to ring for: at most p_per_shop of a shop are in the ready list or at work at once, the one served
-- longest ago first. A bell nobody answered within p_stale_secs counts as lost.
create function lanes_to_ring(p_shop uuid, p_per_shop int, p_stale_secs double precision)
returns table (broadcast_id uuid, sender_id uuid) language sql as $$
    with open as (
        select l.broadcast_id, l.sender_id, l.shop_id, l.served_at,
               l.lease_until > now() or l.rung_at > now() - p_stale_secs * interval '1 second' as busy,
               lane_is_due(l, b) and (b.state = 'cancelled' or b.deadline_at <= now() or s.state <> 'paused') as due
          from lane l
          join broadcast b on b.id = l.broadcast_id and b.state in ('sending', 'cancelled')
          join sender s on s.id = l.sender_id
         where l.remaining > 0 and (p_shop is null or l.shop_id = p_shop)),
    turn as (
        select o.broadcast_id, o.sender_id,
               row_number() over (partition by shop_id order by served_at nulls first, o.broadcast_id, o.sender_id) as place,
               (select count(*) from open b where b.shop_id = o.shop_id and coalesce(b.busy, false)) as busy
          from open o where o.due and not coalesce(o.busy, false)),
    -- A locked lane is being worked on or rung for by somebody else; waiting for it, two ringers could wait for each other.
    free as (
        select l.broadcast_id, l.sender_id
          from lane l join turn t on l.broadcast_id = t.broadcast_id and l.sender_id = t.sender_id
         where t.place <= p_per_shop - t.busy and (l.lease_until is null or l.lease_until <= now())
           and (l.rung_at is null or l.rung_at <= now() - p_stale_secs * interval '1 second')
           for update of l skip locked)
    update lane l set rung_at = now()
      from free f
     where l.broadcast_id = f.broadcast_id and l.sender_id = f.sender_id
    returning l.broadcast_id, l.sender_id
$$;

-- Takes a lane's lease. mode: `send`, or `cancelled` / `expired` when the rest is to be ended with that outcome.
-- No row: nothing to do, not due, somebody else has it, or it is paused.
create function take_lane(p_broadcast uuid, p_sender uuid, p_lease_secs double precision)
returns table (sender_id uuid, channel channel, epoch int, mode text, strikes int) language sql as $$
    update lane l
       set lease_until = now() + p_lease_secs * interval '1 second', epoch = l.epoch + 1, rung_at = null, served_at = now()
      from broadcast b, sender s
     where l.broadcast_id = p_broadcast and l.sender_id = p_sender and b.id = l.broadcast_id and s.id = l.sender_id
       and l.remaining > 0 and lane_is_due(l, b) and (l.lease_until is null or l.lease_until <= now())
       and b.state in ('sending', 'cancelled')
       and (b.state = 'cancelled' or b.deadline_at <= now() or s.state <> 'paused')
    returning l.sender_id, l.channel, l.epoch,
        case when b.state = 'cancelled' then 'cancelled' when b.deadline_at <= now() then 'expired' else 'send' end, l.strikes
$$;

-- Extends a turn's lease on its lane and on the slices it has claimed, while its worker is at it. A slice whose lease
-- ran out is not taken back: somebody may be about to claim it. False when the lane is no longer the worker's.
create function renew_lane(p_broadcast uuid, p_sender uuid, p_epoch int, p_lease_secs double precision)
returns boolean language plpgsql set enable_seqscan = off as $$
declare v_channel channel;
begin
    -- Slices before the lane, as everywhere.
    select l.channel into v_channel from lane l where broadcast_id = p_broadcast and sender_id = p_sender and epoch = p_epoch;
    update slice set lease_until = now() + p_lease_secs * interval '1 second'
     where broadcast_id = p_broadcast and channel = v_channel and state = 'sending' and lane_epoch = p_epoch
       and lease_until > now();
    update lane set lease_until = now() + p_lease_secs * interval '1 second'
     where broadcast_id = p_broadcast and sender_id = p_sender and epoch = p_epoch and lease_until is not null;
    return found;
end $$;

-- Gives a lane back. Due again at the latest of p_wait_secs from now and the time its first open slice can be claimed.
-- One that is to be ended and not sent waits for no provider, only for slices under a live lease.
create function leave_lane(p_broadcast uuid, p_sender uuid, p_epoch int, p_wait_secs double precision, p_strikes int)
returns timestamptz language plpgsql as $$
declare v_due timestamptz;
begin
    -- Locked first, so that a cancel which has the lane now is seen below.
    perform from lane where broadcast_id = p_broadcast and sender_id = p_sender and epoch = p_epoch for update;
    update lane l
       set lease_until = null, rung_at = null, strikes = p_strikes,
           due_at = (select case when b.state = 'cancelled' or b.deadline_at <= now()
                             then coalesce(min(case s.state when 'sending' then s.lease_until else now() end), now())
                             else greatest(now() + p_wait_secs * interval '1 second',
                                           min(case s.state when 'sending' then s.lease_until else s.due_at end)) end
                       from broadcast b left join slice s
                         on s.broadcast_id = l.broadcast_id and s.channel = l.channel and s.state <> 'settled'
                      where b.id = l.broadcast_id group by b.state, b.deadline_at)
     where l.broadcast_id = p_broadcast and l.sender_id = p_sender and l.epoch = p_epoch
    returning l.due_at into v_due;
    return v_due;
end $$;

-- Claims the next slice of a lane, for the turn p_lane_epoch on it, and commits the intent to send its first p_window members.
--   p_key_secs  how long the provider remembers our keys; 0: it has none
--   p_same_body the key stands for a body with the customer's name: who was renamed since cannot be repeated
-- An interrupted intent is repeated with its key while the provider remembers it, else its members become `unknown`;
-- members who may no longer be sent to are `skipped`, but only before their first attempt.
-- No row: no slice can be claimed now, or the first 20 had nobody left to send to; the lane is due again at once then.
create function claim_slice(p_broadcast uuid, p_channel channel, p_lane_epoch int, p_window int, p_lease_secs double precision,
        p_key_secs double precision, p_same_body boolean)
returns table (slice_no int, epoch int, intent_no int, repeats int, in_flight bigint[], customers bigint[],
               address_ids bigint[], addresses text[], first_names text[], last_names text[])
language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare s slice; v_repeat boolean; v_stopped text; v_gone bigint[]; v_gone_states delivery_state[]; v_gone_reasons text[];
        v_none text[]; v_lost text := case when p_key_secs > 0 then 'key_expired' else 'interrupted' end;
begin
    -- The worker took the lane a moment ago; since then somebody may have paused, cancelled or run into a wall.
    select case when sh.state <> 'active' then 'shop_suspended' when se.state = 'disconnected' then 'sender_disconnected' end
      into v_stopped
      from lane l join shop sh on sh.id = l.shop_id join sender se on se.id = l.sender_id
      join broadcast b on b.id = l.broadcast_id
     where l.broadcast_id = p_broadcast and l.channel = p_channel and l.epoch = p_lane_epoch
       and b.state = 'sending' and b.deadline_at > now() and se.state <> 'paused';
    if not found then
        return;
    end if;
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
        select array_agg(m.customer_id) filter (where m.gone is null), array_agg(m.address_id) filter (where m.gone is null),
               array_agg(m.address) filter (where m.gone is null), array_agg(m.first_name) filter (where m.gone is null),
               array_agg(m.last_name) filter (where m.gone is null),
               array_agg(m.customer_id) filter (where m.gone is not null), array_agg(m.gone) filter (where m.gone is not null),
               array_agg(case when m.flying then 'unknown' else 'skipped' end::delivery_state) filter (where m.gone is not null)
          into customers, address_ids, addresses, first_names, last_names, v_gone, v_gone_reasons, v_gone_states
          from (select d.customer_id, d.address_id, a.address, coalesce(d.customer_id = any (s.in_flight), false) as flying,
                       c.first_name, c.last_name,
                       case when d.customer_id = any (s.in_flight) and not v_repeat then v_lost
                            when a.id is null or c.id is null then 'erased'
                            when d.customer_id = any (s.in_flight) and p_same_body and c.renamed_at >= s.claimed_at then 'renamed'
                            when d.customer_id = any (s.in_flight) then null
                            when v_stopped is not null then v_stopped
                            when c.opted_out or a.state = 'opted_out' then 'opted_out'
                            when a.state = 'suppressed' then 'suppressed' end as gone
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

-- Writes the outcome of a window and, in the same transaction, the intent of the next one (p_next) or the end of the
-- claim (p_next null: what is left goes back, due in p_wait_secs). p_uncertain are members whose own intent stays in flight
-- beside the next one, so that one at whom the provider stumbles holds nobody up.
-- An empty p_next keeps the claim without an intent, while its worker waits for permits. Called again with the same
-- arguments after a lost answer it changes nothing more: the results are there, and p_intent_no is said, not counted.
-- Returns `stale` (nothing was written: the slice belongs to somebody else), or the state of the broadcast afterwards,
-- `expired` standing for one past its deadline.
create function settle_slice(p_broadcast uuid, p_channel channel, p_slice_no int, p_epoch int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[],
        p_next bigint[], p_intent_no int, p_uncertain bigint[], p_wait_secs double precision, p_lease_secs double precision)
returns text language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare s slice; v_state text;
begin
    select * into s from slice t
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no for update;
    if not found or s.state <> 'sending' or s.epoch <> p_epoch then
        return 'stale';
    end if;
    select case when state = 'sending' and deadline_at <= now() then 'expired' else state end
      into v_state from broadcast where id = p_broadcast;
    -- A stopped broadcast starts nothing new, whatever the worker asked for.
    if v_state <> 'sending' then
        p_next := null;
    end if;
    update slice t
       set state = case when p_next is null then 'planned' else 'sending' end,
           lease_until = case when p_next is null then null else now() + p_lease_secs * interval '1 second' end,
           due_at = case when p_next is null then now() + p_wait_secs * interval '1 second' else due_at end,
           in_flight = nullif(coalesce(p_next, '{}') || coalesce(p_uncertain, '{}'), '{}'),
           intent_no = case when cardinality(p_next) > 0 then p_intent_no else t.intent_no end,
           -- The oldest send in flight decides how long the provider can be trusted to remember.
           first_attempt_at = case when cardinality(p_next) > 0 and coalesce(cardinality(p_uncertain), 0) = 0 then now()
                                   else t.first_attempt_at end,
           repeats = case when p_next is null or cardinality(p_uncertain) > 0 then t.repeats else 0 end
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no;
    if cardinality(p_customers) > 0 then
        perform record_results(p_broadcast, p_channel, p_slice_no, p_customers, p_states, p_reasons, p_codes, p_provider_ids);
        select case when state = 'sending' and deadline_at <= now() then 'expired' else state end
          into v_state from broadcast where id = p_broadcast;
    end if;
    return v_state;
end $$;

-- Ends one slice of a cancelled or expired broadcast without sending: what was in flight is `unknown`, the rest gets
-- p_outcome. Slices under a live lease are left to their worker. Returns false when there is none to end now.
create function drain_slice(p_broadcast uuid, p_channel channel, p_outcome delivery_state) returns boolean
language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0 as $$
declare s slice; v_customers bigint[]; v_states delivery_state[]; v_reasons text[]; v_none text[];
begin
    select * into s from slice t
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.state <> 'settled'
       and (t.state = 'planned' or t.lease_until <= now())
     order by t.slice_no limit 1 for update skip locked;
    if not found then
        return false;
    end if;
    select array_agg(m.customer_id), array_agg(case when m.flying then 'unknown' else p_outcome end),
           array_agg(case when m.flying then 'interrupted' end)
      into v_customers, v_states, v_reasons
      from (select d.customer_id, coalesce(d.customer_id = any (s.in_flight), false) as flying
              from delivery d
             where d.broadcast_id = p_broadcast and d.channel = p_channel
               and d.customer_id between s.first_customer and s.last_customer
               and not exists (select from delivery_result r where r.broadcast_id = p_broadcast
                                  and r.channel = p_channel and r.customer_id between s.first_customer and s.last_customer
                                  and r.customer_id = d.customer_id)) m;
    v_none := array_fill(null::text, array[cardinality(v_customers)]);
    -- A dead worker's claim ends here: should it come back, its settle is stale.
    update slice t set state = 'planned', epoch = t.epoch + 1, lease_until = null
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = s.slice_no;
    perform record_results(p_broadcast, p_channel, s.slice_no, v_customers, v_states, v_reasons, v_none, v_none);
    return true;
end $$;
