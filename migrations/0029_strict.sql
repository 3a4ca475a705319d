-- why: what a review of text messages, LINE's quota and the rules found. Numbers stored before they had one form were still two addresses
-- of one person; a message could change after it was looked through, with its shop's address; what LINE had taken was counted
-- twice until it was posted; and a sender somebody had looked at probed with nothing, because its slices rested on.

-- Only read, and before any lock: senders of text messages have few addresses in another form, and those are the old ones. Since numbers
-- have one form, no other is written.
create table phone_to_normalise (
    address_id bigint primary key,
    due_at     timestamptz not null default now()
);
insert into phone_to_normalise (address_id)
select a.id
  from sender s join address a on a.sender_id = s.id
 where s.channel = 'sms' and (a.address !~ '^\+[1-9][0-9]{7,14}$' or a.address like '+8860%') and a.address <> normal_phone(a.address);

lock table broadcast in access exclusive mode;

-- The shop's address as it stood in the message when planning began: what was looked through, or cleared by a person, is what leaves.
-- Null: not planned yet, or planned before this was kept.
alter table broadcast add column shop_url text;

-- Broadcasts under way since before messages were reserved. None of it counts as held by LINE's figure: LINE is asked before the next
-- one opens, and says.
insert into line_reservation (broadcast_id, sender_id, messages)
select l.broadcast_id, l.sender_id, l.planned from lane l
 where l.is_open and l.channel = 'line' and l.planned > 0
on conflict do nothing;

-- As before, and who was accepted and is not posted yet has been sent, and is not to go.
create or replace function line_progress(p_sender uuid) returns table (broadcast_id uuid, to_go bigint, sent bigint) language sql stable as $$
    select r.broadcast_id, coalesce(l.remaining, 0) - u.unposted,
           coalesce((select sum(t.n) from tally t where t.broadcast_id = r.broadcast_id and t.stage = 'send' and t.channel = 'line'
                        and t.outcome in ('accepted', 'delivered', 'read', 'unknown')), 0)::bigint + u.unposted
      from line_reservation r
      left join lane l on l.broadcast_id = r.broadcast_id and l.sender_id = r.sender_id
      cross join lateral (
            select coalesce(sum(s.unposted), 0) as unposted from slice s
             where s.broadcast_id = l.broadcast_id and s.channel = l.channel and s.state <> 'settled') u
     where r.sender_id = p_sender
$$;

-- As before, and slices that wait to repeat what may have left are due as well: the lane would find nothing to probe with. Slices before
-- lanes, as everywhere.
create or replace function probe_sender(p_sender uuid) returns bigint language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare v_probed bigint;
begin
    update slice t set due_at = now()
      from (select s.broadcast_id, s.channel, s.slice_no from lane l
              join slice s on s.broadcast_id = l.broadcast_id and s.channel = l.channel
             where l.sender_id = p_sender and l.is_open and l.strikes > 0
               and s.state = 'planned' and s.due_at > now() and s.in_flight is not null for update of s skip locked) w
     where t.broadcast_id = w.broadcast_id and t.channel = w.channel and t.slice_no = w.slice_no;
    with free as (
        select l.broadcast_id, l.sender_id from lane l
         where l.sender_id = p_sender and l.is_open and l.strikes > 0 and l.due_at > now()
           and (l.lease_until is null or l.lease_until <= now()) for update skip locked),
    probed as (
        update lane l set due_at = now(), rung_at = null from free f
         where l.broadcast_id = f.broadcast_id and l.sender_id = f.sender_id returning 1)
    select count(*) into v_probed from probed;
    return v_probed;
end $$;

-- Whether a broadcast that has not ended has a delivery to this address.
create function address_is_awaited(p_address bigint) returns boolean language sql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
    select exists (
        select from address a
          join broadcast b on b.shop_id = a.shop_id and b.plan_epoch > 0 and b.finished_at is null
           and b.state in ('planning', 'sending', 'paused', 'cancelled')
          join broadcast_channel c on c.broadcast_id = b.id and c.sender_id = a.sender_id
          join delivery d on d.broadcast_id = b.id and d.channel = c.channel and d.customer_id = a.customer_id
         where a.id = p_address and d.address_id = a.id)
$$;

-- Gives one address that is stored in another form its number's. Where its customer has the number already, the two become one: whatever
-- closed either of them closes it. False: not now, because a plan is being made or messages to both are on their way, or somebody
-- else is at work here; a row they hold must not go.
create function normalise_phone(p_address bigint) returns boolean language plpgsql set lock_timeout = '100ms' as $$
declare a address; o address; v_keeps address; v_goes address; v_number text;
begin
    select * into a from address where id = p_address;
    if not found then
        return true;
    end if;
    -- The shop before its addresses. While we have it no plan of it begins; whoever writes addresses of it waits for us.
    perform from shop where id = a.shop_id for share;
    perform pg_advisory_xact_lock(hashtextextended('address:' || a.shop_id::text, 0));
    perform from address where sender_id = a.sender_id and customer_id = a.customer_id order by id for update;
    select * into a from address where id = p_address;
    v_number := normal_phone(a.address);
    if not found or a.address = v_number then
        return true;
    end if;
    select * into o from address where sender_id = a.sender_id and customer_id = a.customer_id and address = v_number;
    if not found then
        update address set address = v_number where id = a.id;
    else
        if exists (select from broadcast b join broadcast_channel c on c.broadcast_id = b.id and c.sender_id = a.sender_id
                    where b.shop_id = a.shop_id and (b.state = 'planning' or b.resume_state = 'planning')) then
            return false;
        end if;
        v_keeps := o; v_goes := a;
        if address_is_awaited(a.id) then
            if address_is_awaited(o.id) then
                return false;
            end if;
            v_keeps := a; v_goes := o;
        end if;
        -- It gives up its text first: with a text, what its person said by it would be forgotten.
        update address set address = 'merged:' || id, is_current = false where id = v_goes.id;
        update address
           set address = v_number, is_current = v_keeps.is_current or v_goes.is_current,
               last_inbound_at = greatest(v_keeps.last_inbound_at, v_goes.last_inbound_at),
               created_at = least(v_keeps.created_at, v_goes.created_at),
               -- The words that were done are those said by the number.
               wanted_done = o.wanted_done, wanted_done_at = o.wanted_done_at,
               follows_done = o.follows_done, follows_done_at = o.follows_done_at
         where id = v_keeps.id;
        delete from address where id = v_goes.id;
        if v_goes.dead_at is not null then
            perform close_address(v_keeps.id, 'suppressed', v_goes.dead_reason);
        end if;
        if v_goes.state <> 'active' then
            perform close_address(v_keeps.id, v_goes.state, v_goes.state_reason);
        end if;
        -- Another number of the customer takes its place where it is closed.
        update address c set is_current = false
         where c.id = v_keeps.id and c.is_current and c.state <> 'active'
           and exists (select from address n where n.sender_id = c.sender_id and n.customer_id = c.customer_id and n.state = 'active');
        if found then
            update address set is_current = true
             where id = (select n.id from address n where n.sender_id = a.sender_id and n.customer_id = a.customer_id
                            and n.state = 'active' order by n.created_at desc, n.id desc limit 1);
        end if;
    end if;
    update address t set twin_of = g.first
      from (select min(id) as first, count(*) as n from address
             where sender_id = a.sender_id and address = v_number and shop_id = a.shop_id) g
     where g.n > 1 and t.sender_id = a.sender_id and t.address = v_number and t.shop_id = a.shop_id and t.twin_of is distinct from g.first;
    perform settle_standing(a.sender_id, array[v_number]);
    -- One telephone is behind it: its STOP holds for all who have it, and what cannot be reached cannot for any of the shop.
    perform close_address(t.id, f.state, f.state_reason)
       from address t
       cross join lateral (
            select c.state, c.state_reason from address c
             where c.sender_id = t.sender_id and c.address = t.address and c.id <> t.id
               and ((c.state = 'opted_out' and c.state_reason = 'stop') or (c.state = 'suppressed' and c.shop_id = t.shop_id))
             order by c.state, c.id limit 1) f
      where t.sender_id = a.sender_id and t.address = v_number and t.state = 'active';
    return true;
end $$;

-- Does so for the next few, in one short transaction; returns how many it looked at, fewer than p_rows when nothing is left or somebody
-- is in the way. What cannot be done now is tried again in minutes.
create function normalise_phones(p_rows int) returns bigint language plpgsql as $$
declare v_address bigint; v_looked bigint := 0; v_done boolean; v_met boolean := false;
begin
    for v_address in
        select address_id from phone_to_normalise where due_at <= now() order by address_id limit p_rows for update skip locked
    loop
        begin
            v_done := normalise_phone(v_address);
        exception when lock_not_available or deadlock_detected then
            v_done := false;
            v_met := true;
        end;
        if v_done then
            delete from phone_to_normalise where address_id = v_address;
        else
            update phone_to_normalise set due_at = now() + interval '10 minutes' where address_id = v_address;
        end if;
        exit when v_met;
        v_looked := v_looked + 1;
    end loop;
    return v_looked;
end $$;
