-- why: a month's refill wrote an event row for every shop, and each settle paid for the trigger that could have written one. A step
-- of the refill tells all its shops in one row, which a reader gets as one event a shop; the trigger is asked for single entries,
-- and for a capture not even called. And a step locks, reads, moves and tells in one statement instead of passing it all along.

-- The broadcast first: whoever settles has read it before it comes to the ledger. So everybody at work has ended or waits there, and
-- nobody is found inside a function that goes away.
lock table broadcast, token_account, ledger_entry in access exclusive mode;

-- The next events after a cursor, oldest first, at most 1,000; '' stands before the oldest that is kept. Nothing that
-- commits later ever comes before what was returned here: only transactions older than every one still open are read.
-- The last row's cursor goes into the next call; no row: nothing new, ask again with the same cursor.
-- A cursor is transaction, row and, in the middle of a row of many shops, how many of those were read.
create or replace function read_events(p_after text, p_limit int default 100)
returns table (cursor text, at timestamptz, shop_id uuid, kind text, subject text, data jsonb)
-- Sorted as far as it is read: rows come in order from the index, and only the shops of one row at a time are brought into theirs.
language plpgsql stable set enable_sort = off as $$
declare v_tx xid8 := '0'; v_id bigint := 0; v_place bigint := 0;
begin
    if p_after is null or p_after !~ '^([0-9]{1,19}-[0-9]{1,18}(-[0-9]{1,9})?)?$' then
        raise exception 'an event cursor is what read_events returned, or an empty text for the beginning'
            using errcode = 'invalid_parameter_value';
    end if;
    if p_after <> '' then
        v_tx := split_part(p_after, '-', 1)::xid8;
        v_id := split_part(p_after, '-', 2)::bigint;
        v_place := coalesce(nullif(split_part(p_after, '-', 3), ''), '0')::bigint;
    end if;
    -- No such cursor was given out by this database: it was restored from a dump, and counts anew.
    if v_tx > pg_snapshot_xmax(pg_current_snapshot()) then
        raise exception 'the event cursor % is ahead of this database', p_after
            using errcode = 'invalid_parameter_value', hint = 'The database was restored from a dump: begin again with an empty cursor.';
    end if;
    return query
        select p.tx::text || '-' || p.id || case when p.place < cardinality(p.shop_ids) then '-' || p.place else '' end,
               p.at, p.shop_id, p.kind, p.subject,
               case when p.place is null then p.data else jsonb_build_object('granted', p.granted, 'available', p.available) end
          from (select e.tx, e.id, e.at, coalesce(e.shop_id, m.shop_id) as shop_id, e.kind, e.subject, e.data, e.shop_ids,
                       m.granted, m.available, m.place
                  from event e
                  left join lateral unnest(e.shop_ids, e.granted, e.available) with ordinality
                       as m (shop_id, granted, available, place) on true
                 -- The row itself once more where some of its shops are left.
                 where (e.tx, e.id) > (v_tx, case v_place when 0 then v_id else v_id - 1 end)
                   and (v_place = 0 or e.id <> v_id or m.place > v_place)
                   and e.tx < pg_snapshot_xmin(pg_current_snapshot())
                 order by e.tx, e.id, m.place
                 limit least(greatest(p_limit, 1), 1000)) p
         order by p.tx, p.id, p.place;
end $$;

-- Forgets events older than this, at most 10,000 rows a call; returns how many. Transactions are numbered as they begin, so the
-- oldest stand first and nothing else is read.
create or replace function forget_events(p_older interval) returns bigint language sql as $$
    with old as (select tx, id from event order by tx, id limit 10000),
    gone as (delete from event e using old
              where e.tx = old.tx and e.id = old.id and e.at < now() - p_older returning coalesce(cardinality(e.shop_ids), 1) as events)
    select coalesce(sum(events), 0)::bigint from gone
$$;

-- A refill gives every account a new place. Its key has room for that as its rows have, and need not be split each month; what is
-- there already is split by now.
alter index token_account_pkey set (fillfactor = 50);

-- Whether whoever posted the entry has told it, for many shops at once; what does not say so, the trigger tells. A column,
-- because a trigger's condition sees nothing but the row, and because the ledger's door keeps everybody else from writing it.
alter table ledger_entry add column told boolean not null default false;

-- A balance is looked at when tokens are set aside and when a person corrects it: a capture spends what was set aside before, and
-- what begins a period leaves at least all it granted. Lies on the ledger, so that whoever posts cannot forget it. For single rows
-- that fit its condition: a settle's, which fit none, are not even collected for it.
-- `grant:2026-11` begins the period; what is granted in the middle of one has a longer operation and is not a refill.
drop trigger ledger_entry_tells on ledger_entry;
create or replace function ledger_entry_tells() returns trigger language plpgsql as $$
declare v_available bigint := new.allowance_after - new.held_allowance_after + new.extra_after - new.held_extra_after;
begin
    if new.kind = 'top_up' then
        perform emit_event(new.shop_id, 'top_up_settled', substr(new.operation, 8),
            jsonb_build_object('tokens', new.extra, 'available', v_available));
    elsif new.kind = 'grant' then
        if split_part(new.operation, ':', 3) = '' then
            perform emit_event(new.shop_id, 'refill_done', substr(new.operation, 7),
                jsonb_build_object('granted', new.allowance, 'available', v_available));
        end if;
    else
        perform emit_event(new.shop_id, 'balance_low', a.allowance_period,
                jsonb_build_object('granted', g.allowance, 'available', v_available))
           from token_account a
           join ledger_entry g on g.shop_id = a.shop_id and g.operation = 'grant:' || a.allowance_period,
                event_setting s
          where a.shop_id = new.shop_id and v_available * 100 < g.allowance * s.balance_low_percent;
    end if;
    return null;
end $$;
create trigger ledger_entry_tells after insert on ledger_entry for each row
    when (not new.told and new.kind in ('hold', 'grant', 'top_up', 'adjust')) execute function ledger_entry_tells();

-- The door of the calendar's refill: `shops` names accounts the caller has locked; or, where that is null, the first `at_most` of
-- those are taken that are due after (after_due, after_shop), have one of these calendars and are locked by nobody.
create or replace view ledger_refill_move as
select null::uuid[] as shops, null::uuid[] as shop_ids, null::text[] as periods, null::text[] as outcomes, null::boolean[] as lates,
       -- A zone and an anchor day each, with a space between.
       null::text[] as calendars, null::timestamptz as after_due, null::uuid as after_shop, null::int as at_most,
       null::int as looked, null::int as refilled, null::int as late, null::timestamptz as last_due, null::uuid as last_shop
 where false;

-- Brings accounts up to the current period of their shops: what is neither spent nor held of an older one expires, what the plan
-- gives is granted and told; and says when the next falls due. It writes entries beside `ledger_post` because a million of them are
-- posted at once, two a shop. One statement: passing what was locked to another one costs as much as the locks.
create or replace function ledger_refill_moves() returns trigger
language plpgsql set enable_seqscan = off set enable_sort = off set jit = off as $$
begin
    with due as materialized (
        select taken.*
          from (select a.ctid as place, a.shop_id, a.allowance, a.allowance_period, a.refill_due_at as due_at,
                       s.plan, s.state, s.time_zone, s.anchor_day
                  from token_account a join shop s on s.id = a.shop_id
                 where new.shops is null and a.refill_due_at <= now()
                   and (a.refill_due_at, a.shop_id) > (new.after_due, new.after_shop)
                   and s.time_zone || ' ' || s.anchor_day = any (new.calendars)
                 -- In the order of the index, so that neighbours in the ledger's keys are written together. Who is locked is being
                 -- sent to or refilled by somebody else: waiting for one would keep the locks of all.
                 order by a.refill_due_at, a.shop_id limit new.at_most for no key update of a skip locked) taken
        union all
        select a.ctid, a.shop_id, a.allowance, a.allowance_period, coalesce(a.refill_due_at, '-infinity'), s.plan, s.state, s.time_zone, s.anchor_day
          from unnest(new.shops) as u (id) join token_account a on a.shop_id = u.id join shop s on s.id = u.id),
    -- Thousands of shops fall due at a few moments, in a few zones, on a few plans: worked out once for each of those.
    sorts as materialized (select distinct d.time_zone, d.anchor_day, d.due_at, d.plan from due d),
    current as materialized (
        select c.time_zone, c.anchor_day, period_at(now(), c.time_zone, c.anchor_day) as period
          from (select distinct o.time_zone, o.anchor_day from sorts o) c),
    calendar as materialized (
        select c.*, period_starts_at(c.period, c.time_zone, c.anchor_day) as starts_at,
               period_starts_at(period_after(c.period), c.time_zone, c.anchor_day) as ends_at,
               (now() at time zone c.time_zone)::date as today
          from current c),
    plans as materialized (select * from plan_allowance),
    terms as materialized (
        select o.*, c.period, c.ends_at, coalesce(p.tokens, t.tokens) as tokens,
               -- A shop that is new or returns is not late; who missed a period long over is not either.
               c.today > (greatest(o.due_at, c.starts_at) at time zone o.time_zone)::date as late
          from sorts o
          join calendar c on c.time_zone = o.time_zone and c.anchor_day = o.anchor_day
          -- Whoever comes when, it is what the plan gave on the period's first day, as for an upgrade; a plan younger than that
          -- gives what it gives now.
          left join plans p on p.plan = o.plan and p.effective_from <= (c.starts_at at time zone 'Asia/Taipei')::date
               and (p.effective_until is null or p.effective_until > (c.starts_at at time zone 'Asia/Taipei')::date)
          left join plans t on t.plan = o.plan and t.effective_from <= price_day()
               and (t.effective_until is null or t.effective_until > price_day())),
    look as materialized (
        select l.place, l.allowance, l.outcome, l.period, l.tokens, l.late,
               case l.outcome when 'refilled' then l.ends_at
                   when 'current' then period_starts_at(period_after(l.allowance_period), l.time_zone, l.anchor_day) end as next_due_at
          from (select d.place, d.allowance, d.allowance_period, d.time_zone, d.anchor_day, t.period, t.ends_at, t.tokens, t.late,
                       case when d.state <> 'active' then 'suspended' when t.tokens is null then 'no_plan'
                            when d.allowance_period >= t.period then 'current' else 'refilled' end as outcome
                  from due d
                  join terms t on t.time_zone = d.time_zone and t.anchor_day = d.anchor_day and t.due_at = d.due_at and t.plan = d.plan) l),
    -- Whoever was written by somebody else after this statement began, and before it locked the row, is not to be seen at its new
    -- place: it is left, and stays due. All that follows is written of the accounts that were written.
    moved as (
        update token_account a
           set allowance = case l.outcome when 'refilled' then a.held_allowance + l.tokens else a.allowance end,
               allowance_period = case l.outcome when 'refilled' then l.period else a.allowance_period end,
               granted = case l.outcome when 'refilled' then l.tokens else a.granted end,
               refill_due_at = l.next_due_at
          from look l where a.ctid = l.place
        returning a.shop_id, l.period, l.outcome, l.outcome = 'refilled' and l.late as late, l.tokens, l.allowance,
                  a.extra, a.held_allowance, a.held_extra),
    posted as (
        insert into ledger_entry (shop_id, kind, operation, allowance, extra, held_allowance, held_extra,
            allowance_after, extra_after, held_allowance_after, held_extra_after, late, told)
        select m.shop_id, e.kind, e.operation, e.change, 0, 0, 0, e.allowance_after, m.extra, m.held_allowance, m.held_extra, m.late, true
          from moved m
         -- Each shop's in this order, which the join keeps: its values are made anew from each row.
         cross join lateral (values
            ('expire', 'expire:period:' || m.period, m.held_allowance - m.allowance, m.held_allowance),
            ('grant', 'grant:' || m.period, m.tokens, m.held_allowance + m.tokens))
               as e (kind, operation, change, allowance_after)
         where m.outcome = 'refilled' and (e.kind = 'grant' or e.change < 0)),
    told as (
        insert into event (kind, subject, shop_ids, granted, available)
        select 'refill_done', m.period, array_agg(m.shop_id), array_agg(m.tokens), array_agg(m.tokens + m.extra - m.held_extra)
          from moved m where m.outcome = 'refilled' group by m.period)
    select d.looked, m.refilled, m.late, d.last_due, d.last_shop, n.shop_ids, n.periods, n.outcomes, n.lates
      into new.looked, new.refilled, new.late, new.last_due, new.last_shop, new.shop_ids, new.periods, new.outcomes, new.lates
      from (select count(*) as looked, (array_agg(due_at))[count(*)] as last_due, (array_agg(shop_id))[count(*)] as last_shop from due) d,
           (select count(*) filter (where outcome = 'refilled') as refilled, count(*) filter (where late) as late from moved) m,
           (select array_agg(shop_id) as shop_ids, array_agg(period) as periods, array_agg(outcome) as outcomes, array_agg(late) as lates
              from moved where new.shops is not null) n;
    return new;
end $$;
drop function refill_locked_inside(uuid[]);

-- Refills up to p_limit shops whose current period is p_period and who are due, after the last one of the step before: a step of
-- the job, a transaction of its own. Returns how many it looked at (0: none is left there that nobody else has in hand), refilled,
-- how many of those were late, and whom it looked at last. Who is due falls out of the index's beginning as it is refilled;
-- a step that began there anew would wade through all the steps before it.
create or replace function refill_due_shops(p_period text, p_limit int, p_after_due timestamptz default '-infinity',
        p_after uuid default '00000000-0000-0000-0000-000000000000')
returns table (looked int, refilled int, late int, last_due timestamptz, last_shop uuid)
language plpgsql set enable_seqscan = off set enable_sort = off set jit = off as $$
declare v_calendars text[];
begin
    v_calendars := array(
        with recursive calendar as (
            (select s.time_zone, s.anchor_day from shop s order by 1, 2 limit 1)
            union all
            select n.* from calendar c cross join lateral (select s.time_zone, s.anchor_day from shop s
                where (s.time_zone, s.anchor_day) > (c.time_zone, c.anchor_day) order by 1, 2 limit 1) n)
        select c.time_zone || ' ' || c.anchor_day from calendar c where period_at(now(), c.time_zone, c.anchor_day) = p_period);
    insert into ledger_refill_move as m (calendars, after_due, after_shop, at_most)
    values (v_calendars, p_after_due, p_after, p_limit)
    returning m.looked, m.refilled, m.late, m.last_due, m.last_shop into looked, refilled, late, last_due, last_shop;
    if looked > 0 then
        insert into refill_run as r (period, rung_at, ended_at, shops, late) values (p_period, now(), now(), refilled, refill_due_shops.late)
        on conflict (period) do update set rung_at = now(), ended_at = now(), shops = r.shops + excluded.shops,
            late = r.late + excluded.late;
    end if;
    return next;
end $$;
