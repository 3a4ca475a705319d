-- why: what a review of text messages, LINE's quota and the rules found. A message could change after it was looked through, with its
-- shop's address; what LINE had taken was counted twice until it was posted; and a sender somebody had looked at probed with
-- nothing, because its slices rested on.

lock table broadcast in access exclusive mode;

-- The shop's address as it stood in the message when planning began: what was looked through, or cleared by a person, is what leaves.
-- Null: not planned yet, or planned before this was kept.
alter table broadcast add column shop_url text;
create trigger broadcast_shop_url_frozen before update of shop_url on broadcast for each row
    when (old.shop_url is distinct from new.shop_url and old.state not in ('draft', 'scheduled', 'queued', 'compliance_review'))
    execute function broadcast_freeze_content();

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
