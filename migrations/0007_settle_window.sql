-- why: the one call of the pipeline that runs for every window, with half the statements `settle_slice` needed, and for a
-- window that rolls: the next members begin while some of the last are still on their way. `settle_slice` stays for the
-- workers of the release before this one.

-- Spends p_captured and gives back p_released tokens of a broadcast's hold. Captures spend the allowance first and
-- releases give back the extra first, so that the order of settles never changes who paid. Allowance of a period that
-- has ended expires instead of returning.
create or replace function ledger_settle(p_broadcast uuid, p_channel channel, p_captured bigint, p_released bigint, p_operation text)
returns void language plpgsql as $$
declare h record; v_period text;
begin
    -- A negative number would move the hold and post nothing.
    if p_captured < 0 or p_released < 0 then
        raise exception 'captured and released are numbers of tokens, not % and %', p_captured, p_released
            using errcode = 'invalid_parameter_value';
    end if;
    if p_captured + p_released = 0 then
        return;
    end if;
    with held as (
        select shop_id, period, ca, p_captured - ca as ce, p_released - re as ra, re
          from token_hold,
               lateral (select least(p_captured, open_allowance) as ca) a,
               lateral (select least(p_released, open_extra - (p_captured - ca)) as re) e
         where broadcast_id = p_broadcast for update of token_hold)
    update token_hold t
       set open_allowance = t.open_allowance - ca - ra, open_extra = t.open_extra - ce - re,
           captured_allowance = t.captured_allowance + ca, captured_extra = t.captured_extra + ce,
           released = t.released + p_released
      from held where t.broadcast_id = p_broadcast
    returning held.* into strict h;
    if p_captured > 0 then
        perform ledger_post(h.shop_id, 'capture', 'capture:' || p_operation, p_broadcast, p_channel, -h.ca, -h.ce, -h.ca, -h.ce);
    end if;
    if p_released > 0 then
        perform ledger_post(h.shop_id, 'release', 'release:' || p_operation, p_broadcast, p_channel, 0, 0, -h.ra, -h.re);
        -- The row is ours since the post above, so the period read here cannot change under us.
        select allowance_period into v_period from token_account where shop_id = h.shop_id;
        if h.ra > 0 and v_period <> h.period then
            perform ledger_post(h.shop_id, 'expire', 'expire:' || p_operation, p_broadcast, p_channel, -h.ra, 0, 0, 0);
        end if;
    end if;
end $$;

create or replace function ledger_post(p_shop uuid, p_kind text, p_operation text, p_broadcast uuid, p_channel channel,
        p_allowance bigint, p_extra bigint, p_held_allowance bigint, p_held_extra bigint)
returns void language plpgsql as $$
begin
    with v as (
        update token_account
           set allowance = allowance + p_allowance, extra = extra + p_extra,
               held_allowance = held_allowance + p_held_allowance, held_extra = held_extra + p_held_extra
         where shop_id = p_shop returning *)
    insert into ledger_entry (shop_id, kind, operation, broadcast_id, channel, allowance, extra, held_allowance,
        held_extra, allowance_after, extra_after, held_allowance_after, held_extra_after)
    select p_shop, p_kind, p_operation, p_broadcast, p_channel, p_allowance, p_extra, p_held_allowance,
           p_held_extra, v.allowance, v.extra, v.held_allowance, v.held_extra from v;
    if not found then
        raise exception 'shop % has no token account', p_shop using errcode = 'no_data_found';
    end if;
end $$;

-- Writes the results of some members of a claimed slice, does everything that follows from them (counters, capture and
-- release, the end of lane and broadcast), and in the same transaction commits what is sent next:
--   p_next       members who begin now, as intent p_intent_no; empty: nobody, while the worker waits for permits;
--                null: the claim ends and what is left goes back, due in p_wait_secs
--   p_flying     members of this claim's intents who are still on their way: they stay in flight, and so does the claim
--   p_uncertain  members whose outcome is open and whose send will be repeated: in flight, whoever has the slice
-- Called again with the same arguments after a lost answer it changes nothing more: the results are there, and p_intent_no
-- is said, not counted. Returns `stale` (nothing was written: the slice belongs to somebody else), or the state of the
-- broadcast, `expired` standing for one past its deadline; in any but `sending` p_next was not begun.
create function settle_window(p_broadcast uuid, p_channel channel, p_slice_no int, p_epoch int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[],
        p_next bigint[], p_intent_no int, p_flying bigint[], p_uncertain bigint[], p_wait_secs double precision,
        p_lease_secs double precision)
returns text language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare s record; v_new int := 0; v_accepted int; v_lane_left bigint; v_keeps boolean; v_empty boolean; v_begins boolean;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[];
begin
    select t.state, t.epoch, t.remaining, t.settles, t.first_customer, t.last_customer, l.tokens,
           case when b.state = 'sending' and b.deadline_at <= now() then 'expired' else b.state end as broadcast_state
      into s
      from slice t
      join lane l on l.broadcast_id = t.broadcast_id and l.channel = t.channel
      join broadcast b on b.id = t.broadcast_id
     where t.broadcast_id = p_broadcast and t.channel = p_channel and t.slice_no = p_slice_no for update of t;
    if not found or s.state <> 'sending' or s.epoch <> p_epoch then
        return 'stale';
    end if;
    if cardinality(p_customers) > 0 then
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
