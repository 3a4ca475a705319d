-- why: shops that share a sender of the platform take turns on it, and a person can stop a kind of job, a shop, a sender or
-- everything. What is paused is a row here and nowhere else: it survives the loss of Redis and says who, why and since when.

-- Everything that was ever paused; in force while `resumed_at` is null.
create table pause (
    id         bigint generated always as identity primary key,
    scope      text not null check (scope in ('everything', 'kind', 'shop', 'sender')),
    kind       text,
    shop_id    uuid references shop,
    sender_id  uuid references sender,
    reason     text not null check (reason <> ''),
    paused_by  text not null check (paused_by <> ''),
    paused_at  timestamptz not null default now(),
    resumed_by text check (resumed_by <> ''),
    resumed_at timestamptz,
    constraint pause_names_its_scope check ((scope = 'kind') = (kind is not null) and (scope = 'shop') = (shop_id is not null)
        and (scope = 'sender') = (sender_id is not null)),
    constraint pause_is_ended_by_somebody check ((resumed_at is null) = (resumed_by is null))
);
create unique index pause_in_force on pause (scope, kind, shop_id, sender_id) nulls not distinct where resumed_at is null;

-- A sender's own state is what stops it, since before there was this table, and a worker sets it when the provider refuses the
-- account. Whoever sets it, the record is written here with it.
create function sender_pause_recorded() returns trigger language plpgsql as $$
begin
    if new.state = 'paused' then
        insert into pause (scope, sender_id, reason, paused_by)
        values ('sender', new.id, coalesce(nullif(new.state_reason, ''), 'no reason given'), 'carillon')
        on conflict do nothing;
    elsif old.state = 'paused' then
        update pause set resumed_at = now(), resumed_by = 'carillon' where sender_id = new.id and resumed_at is null;
    end if;
    return null;
end $$;
create trigger sender_pause after update of state on sender
    for each row when (old.state is distinct from new.state) execute function sender_pause_recorded();
insert into pause (scope, sender_id, reason, paused_by)
select 'sender', id, coalesce(nullif(state_reason, ''), 'no reason given'), 'carillon' from sender where state = 'paused';

-- Whether a person has stopped this shop's broadcasts, alone or together with others. Senders are asked for by their state.
create function sending_is_paused(p_shop uuid) returns boolean language sql stable as $$
    select exists (select from pause where resumed_at is null
                      and (scope = 'everything' or kind = 'broadcast-send' or shop_id = p_shop))
$$;

-- Stops what is named; p_name is a kind's name, a shop's or a sender's id, or null for everything. What has begun is not called
-- back; what has not begun waits. Returns `paused`, `already`, `missing` or, of a sender, `disconnected`.
create function pause_work(p_scope text, p_name text, p_reason text, p_by text) returns text language plpgsql as $$
declare v_state text;
begin
    if p_scope = 'shop' and not exists (select from shop where id = p_name::uuid) then
        return 'missing';
    elsif p_scope = 'sender' then
        select state into v_state from sender where id = p_name::uuid for update;
        if not found then
            return 'missing';
        elsif v_state <> 'connected' then
            return case v_state when 'paused' then 'already' else v_state end;
        end if;
    end if;
    insert into pause (scope, kind, shop_id, sender_id, reason, paused_by)
    values (p_scope, case p_scope when 'kind' then p_name end, case p_scope when 'shop' then p_name::uuid end,
            case p_scope when 'sender' then p_name::uuid end, p_reason, p_by)
    on conflict do nothing;
    if not found then
        return 'already';
    end if;
    if p_scope = 'sender' then
        update sender set state = 'paused', state_reason = p_reason where id = p_name::uuid;
    end if;
    return 'paused';
end $$;

-- Lets what is named go on where it was: its lanes and plans may be rung for at once. Ring afterwards, or the scheduler does
-- within seconds. Returns `resumed`, `not_paused`, `missing` or `disconnected`.
create function resume_work(p_scope text, p_name text, p_by text) returns text language plpgsql as $$
declare v_state text;
begin
    if p_scope = 'shop' and not exists (select from shop where id = p_name::uuid) then
        return 'missing';
    elsif p_scope = 'sender' then
        select state into v_state from sender where id = p_name::uuid for update;
        if not found then
            return 'missing';
        elsif v_state = 'disconnected' then
            return v_state;
        end if;
    end if;
    update pause set resumed_at = now(), resumed_by = p_by
     where resumed_at is null and scope = p_scope
       and coalesce(kind, shop_id::text, sender_id::text) is not distinct from p_name;
    if not found then
        return 'not_paused';
    end if;
    if p_scope = 'sender' then
        update sender set state = 'connected', state_reason = null where id = p_name::uuid;
    end if;
    -- A bell that was rung in vain during the pause must not keep the next one out, and a lane that rested because its provider
    -- failed need not rest on. Rows somebody holds are skipped: they need no bell, and waiting for several locks while others
    -- take them in another order could wait for ever.
    update lane l set due_at = case p_scope when 'sender' then least(l.due_at, now()) else l.due_at end, rung_at = null
      from (select broadcast_id, sender_id from lane t
             where remaining > 0 and (lease_until is null or lease_until <= now())
               and (p_scope in ('everything', 'kind') or t.shop_id::text = p_name or t.sender_id::text = p_name)
               for update skip locked) free
     where l.broadcast_id = free.broadcast_id and l.sender_id = free.sender_id;
    update broadcast b set rung_at = null
      from (select id from broadcast t
             where state in ('queued', 'planning') and rung_at is not null
               and (p_scope in ('everything', 'kind') or t.shop_id::text = p_name)
               for update skip locked) free
     where b.id = free.id;
    return 'resumed';
end $$;

-- Turns on a shared sender. `served` counts messages: the shop served least goes first. A shop that was away does not bring old
-- credit with it: it is lifted to the sender's clock, which is where the shop served last began its turn.
create table sender_turn (
    sender_id uuid not null references sender on delete cascade,
    shop_id   uuid not null references shop on delete cascade,
    served    bigint not null default 0,
    primary key (sender_id, shop_id)
) with (fillfactor = 50);
create table sender_clock (
    sender_id uuid primary key references sender on delete cascade,
    served    bigint not null default 0
) with (fillfactor = 50);
-- What was left when the turn in hand began: what it sent is charged to its shop when it ends.
alter table lane add column turn_remaining bigint;
-- The lanes that want a shared sender are looked up at every turn on it.
create index lane_of_sender on lane (sender_id) where remaining > 0;

-- Whether a broadcast's lanes have something to do: sending, or ending what will not be sent any more. A pause holds a
-- broadcast up, not its deadline: past it the rest expires and its tokens go back.
create function lanes_are_open(b broadcast) returns boolean language sql stable as $$
    select b.state in ('sending', 'cancelled') or (b.state = 'paused' and b.resume_state = 'sending' and b.deadline_at <= now())
$$;

-- Which lanes to ring for: those of a shop, those that want a sender, or (both null) all. At most p_per_shop of a shop and, on a
-- sender of the platform, p_per_sender of all shops are in the ready list or at work at once. On a shared sender every shop gets
-- one place before any gets two, the shop served least goes first; of one shop the lane served longest ago. A bell nobody
-- answered within p_stale_secs counts as lost.
create function lanes_to_ring(p_shop uuid, p_sender uuid, p_per_shop int, p_per_sender int, p_stale_secs double precision)
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
         where l.remaining > 0 and ((p_shop is null and p_sender is null) or l.shop_id = p_shop or l.sender_id = p_sender)),
    waiting as (select * from open where due and not busy),
    -- Counted over every lane, also those the question leaves out.
    shops as (
        select w.shop_id, p_per_shop - (select count(*) from lane l where l.shop_id = w.shop_id and l.remaining > 0
                   and (l.lease_until > now() or l.rung_at > now() - p_stale_secs * interval '1 second')) as places
          from (select distinct shop_id from waiting) w),
    senders as (
        select w.sender_id, p_per_sender - (select count(*) from lane l where l.sender_id = w.sender_id and l.remaining > 0
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
-- For workers of the program before this one, which knew no places on a sender.
create or replace function lanes_to_ring(p_shop uuid, p_per_shop int, p_stale_secs double precision)
returns table (broadcast_id uuid, sender_id uuid) language sql as $$
    select * from lanes_to_ring(p_shop, null, p_per_shop, 4, p_stale_secs)
$$;

-- Takes a lane's lease for a turn. mode: `send`, or `cancelled` / `expired` when the rest is to be ended with that outcome.
-- remaining: deliveries left on it. rivals: other shops that wait for a place on the same shared sender.
-- No row: nothing to do, not due, somebody else has it, it is paused, or it wants a shared sender and was not rung for: only
-- lanes_to_ring gives places, or a bell that happens to come while one is handed on would overtake everybody who waits.
create function begin_turn(p_broadcast uuid, p_sender uuid, p_lease_secs double precision)
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
         where l.sender_id = p_sender and l.remaining > 0 and l.shop_id <> begin_turn.shop_id and l.due_at <= now()
           and (l.lease_until is null or l.lease_until <= now()) and l.rung_at is null;
    end if;
    return next;
end $$;
create or replace function take_lane(p_broadcast uuid, p_sender uuid, p_lease_secs double precision)
returns table (sender_id uuid, channel channel, epoch int, mode text, strikes int) language sql as $$
    select t.sender_id, t.channel, t.epoch, t.mode, t.strikes from begin_turn(p_broadcast, p_sender, p_lease_secs) t
$$;

-- Gives a lane back. Due again at the latest of p_wait_secs from now and the time its first open slice can be claimed.
-- One that is to be ended and not sent waits for no provider, only for slices under a live lease.
create or replace function leave_lane(p_broadcast uuid, p_sender uuid, p_epoch int, p_wait_secs double precision, p_strikes int)
returns timestamptz language plpgsql as $$
declare v_due timestamptz; v_shop uuid; v_sent bigint;
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
    returning l.due_at, l.shop_id, l.turn_remaining - l.remaining into v_due, v_shop, v_sent;
    if v_sent > 0 then
        -- No row: the sender is the shop's own, where nobody waits for a turn.
        update sender_turn set served = served + v_sent where sender_id = p_sender and shop_id = v_shop;
    end if;
    return v_due;
end $$;

-- Marks and returns the broadcasts to ring for, of one shop or of all: those that wait for planning, of each shop the one whose
-- turn it is, and those whose rows are to be cleared away; in nobody's hands, and no bell out for them.
create function plans_to_ring(p_shop uuid, p_stale_secs double precision) returns setof uuid language sql as $$
    with first as (
        select distinct on (b.shop_id) b.id, b.plan_lease_until, b.rung_at
          from broadcast b
         where b.state in ('queued', 'planning') and (p_shop is null or b.shop_id = p_shop) and not sending_is_paused(b.shop_id)
         order by b.shop_id, b.state = 'planning' desc, b.queued_at, b.id),
    wanted as (
        select f.id from first f
         where (f.plan_lease_until is null or f.plan_lease_until <= now())
           and (f.rung_at is null or f.rung_at <= now() - p_stale_secs * interval '1 second')
        union all
        select b.id from broadcast b
         where b.purge and b.state in ('cancelled', 'failed') and (p_shop is null or b.shop_id = p_shop)
           and (b.plan_lease_until is null or b.plan_lease_until <= now())
           and (b.rung_at is null or b.rung_at <= now() - p_stale_secs * interval '1 second')),
    free as (select b.id from broadcast b join wanted w on w.id = b.id for update of b skip locked)
    update broadcast b set rung_at = now() from free f where b.id = f.id returning b.id
$$;
