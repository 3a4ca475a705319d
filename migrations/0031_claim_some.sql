-- why: a turn that others wait for begins a hundred messages, and its claim read a whole slice of a thousand for them, half of what
-- such a turn cost. A claim now reads no more members than the turn will begin; the others stay, and the slice goes back with them. Larger
-- slices cost a crowd nothing then.
-- And in a database of some ten thousand customers the planner kept a slice's customers in memory and looked through all of them for
-- each of its members: claiming a thousand took 33 ms, seven times as long as by their keys. It cannot know that they are as many as the
-- members, so it is not asked.

-- Claims the next slice of a lane, as before (migrations/0027_rules.sql), for at most p_most of its members.
create function claim_slice(p_broadcast uuid, p_channel channel, p_lane_epoch int, p_window int, p_lease_secs double precision,
        p_key_secs double precision, p_same_body boolean, p_most int)
returns table (slice_no int, epoch int, intent_no int, repeats int, in_flight bigint[], customers bigint[],
               address_ids bigint[], addresses text[], first_names text[], last_names text[])
language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set enable_memoize = off set enable_material = off set plan_cache_mode = force_generic_plan as $$
declare s slice; v_repeat boolean; v_stopped text; v_gone bigint[]; v_gone_states delivery_state[]; v_gone_reasons text[];
        v_none text[];
        v_zone text; v_quiet record; v_wakes timestamptz; v_windowed boolean; v_lost text := case when p_key_secs > 0 then 'key_expired' else 'interrupted' end; v_most int;
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
        -- All of them where some are in flight, who are not the first ones, where some may sleep, or where all have ended.
        v_most := case when s.in_flight is null and v_quiet.starts is null and v_stopped is null then p_most end;
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
                 order by d.customer_id limit v_most) m;
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
        if customers is null and v_wakes is null then
            -- Those who were looked at have all ended; others of the slice have not.
            continue;
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

-- As programs from before call it: all of them.
create or replace function claim_slice(p_broadcast uuid, p_channel channel, p_lane_epoch int, p_window int, p_lease_secs double precision,
        p_key_secs double precision, p_same_body boolean)
returns table (slice_no int, epoch int, intent_no int, repeats int, in_flight bigint[], customers bigint[],
               address_ids bigint[], addresses text[], first_names text[], last_names text[])
language sql as $$
    select * from claim_slice(p_broadcast, p_channel, p_lane_epoch, p_window, p_lease_secs, p_key_secs, p_same_body, null)
$$;
