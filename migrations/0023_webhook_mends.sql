-- why: what a review of webhooks and receipts found. A settle and a receipt counted in different orders and waited for each other; the
-- account a sender was noted with outlived a change of its credentials; a shop front's "no more messages" closed nothing; and
-- an erasure took what others wrote with a short id and left what a query or another shop's address had.

lock table sender in share row exclusive mode;
lock table address_standing in access exclusive mode;

-- Every webhook of an app that has other pages too asks whose accounts nobody has read yet: mostly nobody's.
create index sender_account_unread on sender (channel) where account is null;
-- Other credentials may be another account's. Noted '' before they were entered, a sender would never be found again.
create function sender_account_is_unread() returns trigger language plpgsql as $$
begin
    new.account := null;
    return new;
end $$;
create trigger sender_account_is_unread before update of credentials on sender for each row
    when (old.credentials is distinct from new.credentials) execute function sender_account_is_unread();
update sender set account = null where account is not null;

-- Who wrote last to somebody on a sender of the platform: its lanes of one shop, however many there were.
create index lane_of_sender_and_shop on lane (sender_id, shop_id);

-- As before, but for the order in which it counts.
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
     -- In the order in which receipts count: hashed groups come in any, and each could hold what the other waits for.
     order by t.state, t.reason
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, v_accepted::bigint * s.tokens, (v_new - v_accepted)::bigint * s.tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, s.settles + 1));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
        select state into s.broadcast_state from broadcast where id = p_broadcast;
    end if;
    return s.broadcast_state;
end $$;

-- As before, but for the order in which it counts.
create or replace function record_results(p_broadcast uuid, p_channel channel, p_slice_no int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[])
returns int language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare v_tokens int; v_new int; v_accepted int; v_settles int; v_unposted int; v_first bigint; v_last bigint; v_lane_left bigint;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[]; v_proven bigint[];
begin
    if 'unknown' = any (p_states) then
        v_proven := proven_customers(p_broadcast, p_channel, p_customers);
        if cardinality(v_proven) > 0 then
            select array_agg(case when u.proven then 'accepted' else u.state end order by u.place),
                   array_agg(case when not u.proven then u.reason end order by u.place),
                   array_agg(case when not u.proven then u.code end order by u.place)
              into p_states, p_reasons, p_codes
              from (select t.place, t.state, t.reason, t.code, t.state = 'unknown' and t.customer = any (v_proven) as proven
                      from unnest(p_customers, p_states, p_reasons, p_codes)
                           with ordinality as t (customer, state, reason, code, place)) u;
        end if;
    end if;
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
     -- In the order in which receipts count: hashed groups come in any, and each could hold what the other waits for.
     order by t.state, t.reason
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, (v_accepted + v_unposted)::bigint * v_tokens, (v_new - v_accepted)::bigint * v_tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, v_settles));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
    end if;
    return v_new;
end $$;

-- What was last done of `wanted` to the customer of a shop front, which tells of its customers by its own ids.
alter table address_standing add column wanted_done_at timestamptz;

-- Opts the customers of a shop front out, or in again, by what it last told of them, each word once: what a person
-- changed since is not undone because the customer is heard of again. It counts on all channels, as it was said to the shop.
create function settle_front_standing(p_sender uuid, p_addresses text[]) returns void language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare v_ids bigint[]; v_wanted boolean[]; v_addresses text[];
begin
    select array_agg(t.id), array_agg(t.wanted), array_agg(t.address) into v_ids, v_wanted, v_addresses
      from (select c.id, s.wanted, s.address
              from sender f
              join address_standing s on s.sender_id = f.id and s.address = any (p_addresses)
              join customer c on c.shop_id = f.shop_id and c.external_id = s.address
             where f.id = p_sender and f.channel = 'app' and s.wanted_at is distinct from s.wanted_done_at
             order by c.id for no key update of c) t;
    if v_ids is null then
        return;
    end if;
    update customer c set opted_out = not t.wanted
      from unnest(v_ids, v_wanted) as t (id, wanted) where c.id = t.id and c.opted_out = t.wanted;
    update address_standing s set wanted_done_at = s.wanted_at where s.sender_id = p_sender and s.address = any (v_addresses);
end $$;

-- As before, and for a shop front its customers.
create or replace function settle_standing(p_sender uuid, p_addresses text[]) returns void language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare a record;
begin
    perform settle_front_standing(p_sender, p_addresses);
    for a in
        select d.id, d.state, d.state_reason, d.state_changed_at, s.follows, s.followed_at, s.wanted
          from (select distinct u.address from unnest(p_addresses) as u (address)) n
          join address_standing s on s.sender_id = p_sender and s.address = n.address
          join address d on d.sender_id = s.sender_id and d.address = s.address
         where not (d.state = 'opted_out' and d.state_reason is distinct from 'stop')
         order by d.id
    loop
        if not a.wanted then
            perform close_address(a.id, 'opted_out', 'stop');
        elsif a.state = 'opted_out' and a.wanted is null then
            -- Closed by a STOP that was written down elsewhere: nothing here says otherwise.
            continue;
        elsif not a.follows then
            if a.state = 'opted_out' then
                perform open_address(a.id);
            end if;
            perform close_address(a.id, 'suppressed', 'unfollowed');
        elsif a.state = 'opted_out' or (a.state = 'suppressed' and a.follows
                and (a.state_reason = 'unfollowed' or a.followed_at > a.state_changed_at)) then
            perform open_address(a.id);
        end if;
    end loop;
end $$;

-- Forgets the raw requests that name this address on this sender. They may have come to any of the shop's senders on the channel, and
-- of Meta's to any shop's, where one callback address serves all pages of an app. A name counts only whole: the customer
-- with the id 7 is in nobody's m-17. One that is still being worked through would bring the person back, and holds what others wrote.
create or replace function forget_raw(p_sender uuid, p_address text) returns void language plpgsql as $$
declare
    v_channel channel := (select channel from sender where id = p_sender);
    v_senders uuid[] := array(select o.id from sender s join sender o on o.channel = s.channel
                                and (o.shop_id is not distinct from s.shop_id or s.channel in ('messenger', 'whatsapp'))
                               where s.id = p_sender);
    -- A form writes the plus of a phone number otherwise; that somebody is a guest we say, not the body.
    v_plain text := regexp_replace(p_address, '^([+]|guest:)', '');
    -- Mitake knows Taiwan's numbers by their national form.
    v_names text[] := array[v_plain] || case when p_address like '+886%' then array['0' || substr(p_address, 5)] end;
    v_named text;
    v_gone uuid[];
begin
    select '(^|%2b|%22|%3d|[^a-z0-9_-])(' || string_agg(regexp_replace(encode(convert_to(n, 'UTF8'), 'escape'), '([^a-zA-Z0-9])', '\\\1', 'g'), '|')
           || ')($|[^a-z0-9_-])'
      into v_named from unnest(v_names) as n;
    select array_agg(w.id) into v_gone from webhook w
     where w.sender_id = any (v_senders)
       and (exists (select from unnest(v_names) as n where position(convert_to(n, 'UTF8') in w.body) > 0 or position(n in w.query) > 0)
            or p_address like 'guest:%')
       and (encode(w.body, 'escape') ~* v_named or w.query ~* v_named);
    if exists (select from webhook_pending p where p.webhook_id = any (v_gone) and p.failed_at is null) then
        raise exception 'a webhook that names this customer is being worked through'
            using errcode = 'object_in_use', hint = 'Erase the customer again in a few seconds.';
    end if;
    delete from webhook where id = any (v_gone);
    delete from webhook_pending where webhook_id = any (v_gone);
    -- What a shop front told of the person: no address goes with which this would go.
    delete from address_standing where v_channel = 'app' and sender_id = p_sender and address = p_address;
end $$;
