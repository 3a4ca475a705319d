-- why: every step of a month's refill began at the start of the index of who is due, and waded through all whom the steps before
-- had refilled: with a million shops most of its time. A step goes on where the one before ended, works terms out once for each
-- moment, zone and plan instead of for each shop, and finds rows where it read them.

-- Brings accounts up to the current period of their shops: what is neither spent nor held of an older one expires, what the plan
-- gives is granted; and says when the next falls due. The caller has locked the accounts. It writes entries beside `ledger_post`
-- because a million of them are posted at once, two a shop, in two statements.
create or replace function refill_locked_inside(p_shops uuid[])
returns table (shop_id uuid, period text, outcome text, late boolean) language plpgsql set enable_seqscan = off set jit = off as $$
begin
    return query
    with due as materialized (
        select a.ctid as place, a.shop_id, a.allowance, a.extra, a.held_allowance, a.held_extra, a.allowance_period,
               coalesce(a.refill_due_at, '-infinity') as due_at, s.plan, s.state, s.time_zone, s.anchor_day
          from unnest(p_shops) as u (id) join token_account a on a.shop_id = u.id join shop s on s.id = u.id),
    current as materialized (
        select c.time_zone, c.anchor_day, period_at(now(), c.time_zone, c.anchor_day) as period
          from (select distinct d.time_zone, d.anchor_day from due d) c),
    calendar as materialized (
        select c.*, period_starts_at(c.period, c.time_zone, c.anchor_day) as starts_at,
               period_starts_at(period_after(c.period), c.time_zone, c.anchor_day) as ends_at,
               (now() at time zone c.time_zone)::date as today
          from current c),
    plans as materialized (select * from plan_allowance),
    -- Thousands of shops fall due at a few moments, in a few zones, on a few plans: worked out once for each of those.
    terms as materialized (
        select k.*, c.period, c.ends_at, coalesce(p.tokens, t.tokens) as tokens,
               -- A shop that is new or returns is not late; who missed a period long over is not either.
               c.today > (greatest(k.due_at, c.starts_at) at time zone k.time_zone)::date as late
          from (select distinct d.time_zone, d.anchor_day, d.due_at, d.plan from due d) k
          join calendar c on c.time_zone = k.time_zone and c.anchor_day = k.anchor_day
          -- Whoever comes when, it is what the plan gave on the period's first day, as for an upgrade; a plan younger than that
          -- gives what it gives now.
          left join plans p on p.plan = k.plan and p.effective_from <= (c.starts_at at time zone 'Asia/Taipei')::date
               and (p.effective_until is null or p.effective_until > (c.starts_at at time zone 'Asia/Taipei')::date)
          left join plans t on t.plan = k.plan and t.effective_from <= price_day()
               and (t.effective_until is null or t.effective_until > price_day())),
    look as materialized (
        select d.*, t.period, t.ends_at, t.tokens, t.late,
               case when d.state <> 'active' then 'suspended' when t.tokens is null then 'no_plan'
                    when d.allowance_period >= t.period then 'current' else 'refilled' end as outcome
          from due d
          join terms t on t.time_zone = d.time_zone and t.anchor_day = d.anchor_day and t.due_at = d.due_at and t.plan = d.plan),
    moved as (
        update token_account a
           set allowance = case l.outcome when 'refilled' then l.held_allowance + l.tokens else a.allowance end,
               allowance_period = case l.outcome when 'refilled' then l.period else a.allowance_period end,
               granted = case l.outcome when 'refilled' then l.tokens else a.granted end,
               refill_due_at = case l.outcome when 'refilled' then l.ends_at
                   when 'current' then period_starts_at(period_after(l.allowance_period), l.time_zone, l.anchor_day) end
          -- Locked, so it is where it was read.
          from look l where a.ctid = l.place),
    posted as (
        insert into ledger_entry (shop_id, kind, operation, allowance, extra, held_allowance, held_extra,
            allowance_after, extra_after, held_allowance_after, held_extra_after, late)
        select l.shop_id, e.kind, e.operation, e.change, 0, 0, 0, e.allowance_after, l.extra, l.held_allowance, l.held_extra, l.late
          from look l
         -- Each shop's in this order, which the join keeps: its values are made anew from each row.
         cross join lateral (values
            ('expire', 'expire:period:' || l.period, l.held_allowance - l.allowance, l.held_allowance),
            ('grant', 'grant:' || l.period, l.tokens, l.held_allowance + l.tokens))
               as e (kind, operation, change, allowance_after)
         where l.outcome = 'refilled' and (e.kind = 'grant' or e.change < 0))
    select l.shop_id, l.period, l.outcome, l.late and l.outcome = 'refilled' from look l;
end $$;

drop function refill_due_shops(text, int);
-- Refills up to p_limit shops whose current period is p_period and who are due, after the last one of the step before: a step of
-- the job, a transaction of its own. Returns how many it looked at (0: none is left there that nobody else has in hand), refilled,
-- how many of those were late, and whom it looked at last. Who is due falls out of the index's beginning as it is refilled;
-- a step that began there anew would wade through all the steps before it.
create function refill_due_shops(p_period text, p_limit int, p_after_due timestamptz default '-infinity',
        p_after uuid default '00000000-0000-0000-0000-000000000000')
returns table (looked int, refilled int, late int, last_due timestamptz, last_shop uuid)
language plpgsql set enable_seqscan = off set enable_sort = off set jit = off as $$
declare v_calendars text[]; v_shops uuid[]; v_due timestamptz[];
begin
    v_calendars := array(
        with recursive calendar as (
            (select s.time_zone, s.anchor_day from shop s order by 1, 2 limit 1)
            union all
            select n.* from calendar c cross join lateral (select s.time_zone, s.anchor_day from shop s
                where (s.time_zone, s.anchor_day) > (c.time_zone, c.anchor_day) order by 1, 2 limit 1) n)
        select c.time_zone || ' ' || c.anchor_day from calendar c where period_at(now(), c.time_zone, c.anchor_day) = p_period);
    -- In the order of the index, so that neighbours in the ledger's keys are written together. Who is locked is being sent to or
    -- refilled by somebody else: waiting for one would keep the locks of all.
    select array_agg(d.shop_id), array_agg(d.refill_due_at) into v_shops, v_due
      from (select a.shop_id, a.refill_due_at from token_account a join shop s on s.id = a.shop_id
             where a.refill_due_at <= now() and (a.refill_due_at, a.shop_id) > (p_after_due, p_after)
               and s.time_zone || ' ' || s.anchor_day = any (v_calendars)
             order by a.refill_due_at, a.shop_id limit p_limit for no key update of a skip locked) d;
    select count(*), count(*) filter (where r.outcome = 'refilled'), count(*) filter (where r.late)
      into looked, refilled, late from refill_locked(v_shops) r;
    last_due := v_due[looked];
    last_shop := v_shops[looked];
    if looked > 0 then
        insert into refill_run as r (period, rung_at, ended_at, shops, late) values (p_period, now(), now(), refilled, refill_due_shops.late)
        on conflict (period) do update set rung_at = now(), ended_at = now(), shops = r.shops + excluded.shops,
            late = r.late + excluded.late;
    end if;
    return next;
end $$;
